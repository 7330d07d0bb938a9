"""Several threads that use one model: each gets what it would get alone."""

from concurrent.futures import ThreadPoolExecutor, wait

import torch
from tiny import make_model, make_transcoders
from torch.testing import assert_close

import attrgraph as ag
from attrgraph.models.live import replaced_mlps

PROMPTS = [[1, 5, 9, 2], [1, 7, 3, 11, 4]]


def test_a_run_waits_until_another_thread_no_longer_changes_the_model() -> None:
    model = make_model("llama")
    token_ids = torch.tensor(PROMPTS[0])
    expected = model.run(token_ids).logits
    with ThreadPoolExecutor(1) as pool:
        with replaced_mlps(model, lambda _layer, _stream, out: torch.zeros_like(out)):
            elsewhere = pool.submit(model.run, token_ids)
            wait([elsewhere], timeout=0.1)
            assert not elsewhere.done()
            changed = model.logits(token_ids[None])[0, -1]  # the thread that changes it is not kept from running it
        assert_close(elsewhere.result(timeout=60).logits, expected, rtol=0, atol=0)
    assert not torch.equal(changed, expected)


def test_effects_and_graphs_from_several_threads_are_those_from_one() -> None:
    model = ag.load_model(make_model("llama").hf_model, make_transcoders())
    model.hf_model.set_attn_implementation("sdpa")

    def work(prompt: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        effect = ag.intervene(model, prompt, ag.Intervention("0_-1_2", scale=3.0))
        return effect.logits_after, torch.from_numpy(ag.trace(model, prompt, max_feature_nodes=20).adjacency.data)

    expected = [work(prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, PROMPTS * 2))
    for number, pair in enumerate(found):
        assert_close(pair, expected[number % len(PROMPTS)], rtol=0, atol=0)
    assert model.hf_model.config._attn_implementation == "sdpa"
