"""Several threads that use one model: each gets what it would get alone."""

from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

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


def test_who_calls_the_hugging_face_model_itself_is_neither_changed_nor_seen() -> None:
    model = make_model("llama")
    hf_model = model.hf_model
    hf_model.set_attn_implementation("sdpa")
    ids, other = torch.tensor([PROMPTS[0]]), torch.tensor([PROMPTS[1]])
    expected = hf_model(input_ids=other).logits
    alone = model.run(ids[0]).logits
    is_begun, may_go_on = Event(), Event()

    def wait_for_others(*_: object) -> None:
        is_begun.set()
        assert may_go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        # its mask is made for its own kind of attention, which computes without one what eager attention would not
        with model.layer_modules()[0].register_forward_hook(wait_for_others):
            elsewhere = pool.submit(lambda: hf_model(input_ids=other).logits)
            assert is_begun.wait(60)
        seen = list[int]()
        with model.eager(), replaced_mlps(model, lambda layer, _, out: (seen.append(layer), torch.zeros_like(out))[1]):
            may_go_on.set()
            assert_close(elsewhere.result(60), expected, rtol=0, atol=0)
            assert_close(pool.submit(lambda: hf_model(input_ids=other).logits).result(60), expected, rtol=0, atol=0)
            assert not seen
            changed = model.logits(ids)[0, -1]
    assert seen == list(range(model.n_layers))
    assert not torch.equal(changed, alone)
    assert_close(model.run(ids[0]).logits, alone, rtol=0, atol=0)
    assert type(hf_model.config) is type(make_model("llama").config)
