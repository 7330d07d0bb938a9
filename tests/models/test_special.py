"""Which positions have no features: what stands before a text, and sinks, which are measured."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from subwords import byte_level
from tiny import BOS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.targets import choose_targets
from attrgraph.attribution.trace_settings import DEFAULTS
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import PromptError
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import find_special, sink_ratios, text_mask


@given(st.lists(arrays(np.float32, st.integers(1, 7), elements=st.floats(1, 9, width=16)), min_size=1, max_size=4))
def test_ratios_are_to_the_median_of_the_rows_others(rows: list[np.ndarray]) -> None:
    """Each token against the lower median of the array without it; rows end in tokens that are no text."""
    lengths, is_text = np.full((len(rows), 9), 100, np.float32), np.zeros((len(rows), 9), dtype=bool)
    expected = np.zeros((len(rows), 9), np.float32)
    for i, row in enumerate(rows):
        lengths[i, : len(row)], is_text[i, : len(row)] = row, True
        if len(row) > 1:
            others = [np.sort(np.delete(row, j))[(len(row) - 2) // 2] for j in range(len(row))]
            expected[i, : len(row)] = row / others
    found = sink_ratios([torch.from_numpy(lengths), torch.from_numpy(lengths / 2)], torch.from_numpy(is_text))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 30, 300])
def test_sinks_are_measured(factor: int) -> None:
    model = make_model("gpt2")
    prompt, first = [7, 8, 9, 10, 11, 12], model.hf_model.get_parameter("transformer.wpe.weight")[0]
    if factor > 1:  # as many times longer than what MLPs read at other tokens
        usual = model.run(torch.tensor(prompt)).blocks[-1].mlp_stream.norm(dim=1).median()
        with torch.no_grad():
            first *= factor * usual / first.norm()
    model.transcoders = make_transcoders()
    graph = ag.trace(model, prompt)
    found = graph.metadata["skipped_positions"]
    if factor == 1:
        assert found == []
    else:
        assert [each["pos"] for each in found] == [0] and "attention sink: its stream is" in found[0]["why"]
        assert not len(graph.nodes.query("kind == 'feature' and pos == 0"))
    # asked for, it has features, and every row still sums to what its target reads
    whole = ag.trace(model, prompt, skip_positions="none")
    assert len(whole.nodes.query("kind == 'feature' and pos == 0")) and whole.metadata["skipped_positions"] == []
    for each in (graph, whole):
        assert each.metadata["checks"]["input_sum_gap"] < 1e-3


def test_a_sink_may_be_anywhere_in_a_text_and_in_one_layer_only() -> None:
    model = make_model("gpt2")
    run = model.run(torch.tensor([7, 8, 9, 10, 11, 12]))
    block = run.blocks[1]
    for factor, expected in ((20.0, [4]), (1.0, [])):
        stream = block.mlp_stream.clone()
        stream[4] *= factor * stream.norm(dim=1).median() / stream[4].norm()
        blocks = (run.blocks[0], replace(block, mlp_stream=stream), *run.blocks[2:])
        assert sorted(find_special(model, replace(run, blocks=blocks))) == expected


@pytest.mark.parametrize("city", ["dallas", "fort worth", "chicago"])
def test_tokens_of_a_text_without_sinks_are_far_from_the_limit(city: str) -> None:
    model = ag.load_model("demo")
    run = model.run(model.tokenize(f"in the state containing {city} the capital is"))
    is_text = torch.ones(1, run.n_pos, dtype=torch.bool)
    is_text[0, 0] = False  # BOS
    assert 1 < float(sink_ratios([b.mlp_stream.norm(dim=-1)[None] for b in run.blocks], is_text).max()) < 4


def test_evaluation_leaves_out_the_first_token_and_sinks() -> None:
    """A model without BOS whose first position is a sink: the numbers are those without that position."""
    hf_model = make_model("gpt2").hf_model
    hf_model.config.bos_token_id = None
    model, transcoders = LanguageModel(hf_model), make_transcoders()
    rows = TokenRows([torch.tensor([7, 8, 9, 10, 11, 12]), torch.tensor([9, 8, 7, 12])], [0, 1], {})
    before = ag.evaluate(model, transcoders, rows, n_graphs=0)
    assert (before.n_tokens, before.n_sinks) == (8, 0)
    with torch.no_grad():
        hf_model.get_parameter("transformer.wpe.weight")[3] *= 1e4
    after = ag.evaluate(model, transcoders, rows, n_graphs=0)
    assert (after.n_tokens, after.n_sinks) == (6, 2) and after.nmse < 100 * before.nmse


def test_what_stands_before_the_text_is_named() -> None:
    names = ["<|end|>", "<|im_start|>", "<bos>", "<start_of_turn>"]
    tokenizer = byte_level(*names)

    def skipped(family: str, ids: list[int], **options: str) -> dict[int, str]:
        base = make_model(family)
        model = LanguageModel(base.hf_model, tokenizer)
        return find_special(model, base.run(torch.tensor(ids)), **options)  # type: ignore[arg-type]

    assert skipped("llama", [1, 9, 9, 9]) == {0: "special token, <|im_start|>"}
    assert skipped("llama", [9, 1, 9, 9]) == {}
    assert list(skipped("llama", [9, 7, 8, 9], prepend=tokenizer.decode([9]))) == [0]
    tokenizer.bos_token = "<bos>"
    assert skipped("llama", [2, 9, 9, 9]) == {0: "BOS, <bos>"}
    # wherever a text begins, as in training and evaluation
    assert skipped("llama", [9, 2, 9, 2]) == {1: "BOS, <bos>", 3: "BOS, <bos>"}
    assert text_mask(LanguageModel(make_model("llama").hf_model, tokenizer), torch.tensor([9, 2, 9, 2])).tolist() == [
        *(True, False, True, False)
    ]
    tokenizer.unk_token = "<|end|>"
    assert skipped("llama", [0, 9, 9, 9]) == {}  # unknown words are text


def test_the_prefix_of_instruction_tuned_gemma_3_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {BOS: "<bos>", 5: "<start_of_turn>", 6: "user", 7: "\n"}
    monkeypatch.setattr(LanguageModel, "token_text", lambda self, token_id: names.get(token_id, "word"))
    for family, expected in (("gemma3", [0, 1, 2, 3]), ("gemma2", [0])):
        model = make_model(family)
        assert sorted(find_special(model, model.run(torch.tensor([BOS, 5, 6, 7, 8, 9])))) == expected
        assert sorted(find_special(model, model.run(torch.tensor([BOS, 5, 6, 8, 8, 9])))) == [0]


def test_a_graph_is_run_again_as_it_was_traced() -> None:
    model = LanguageModel(make_model("llama").hf_model, byte_level("<unused>", "<bos>", bos="<bos>"))
    model.transcoders = make_transcoders()
    graph = ag.trace(model, [5, 6, 7, 8], prepend="none")
    assert graph.metadata["token_ids"] == [5, 6, 7, 8] and graph.metadata["settings"]["prepend"] == "none"
    logit = graph.nodes.index[graph.nodes["kind"] == "logit"][0]
    (edge, *_) = graph.nodes.index[graph.nodes["kind"] == "embedding"]
    assert len(ag.head_loadings(graph, edge, logit, model=model))


@pytest.mark.parametrize(
    "positions",
    [
        *(np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2), (0, np.int64(2)), {0, 2}),
        *([torch.tensor(0), torch.tensor(2)], [np.array(2), 0]),
    ],
)
def test_positions_may_be_held_by_anything(positions: Any) -> None:
    model = make_model("llama")
    run = model.run(torch.tensor([5, 6, 7, 8]))
    assert sorted(find_special(model, run, skip_positions=positions)) == [0, 2]
    assert text_mask(model, run.token_ids, positions).tolist() == [False, True, False, True]


@pytest.mark.refusal
@pytest.mark.parametrize(
    "positions",
    [b"\x00", bytearray(1), {0: 1}, 2, torch.tensor(2), [True], torch.tensor([True]), [0.0], [[0]], [np.array([0])]],
)
def test_what_is_no_collection_of_whole_numbers_is_refused(positions: Any) -> None:
    model = make_model("llama")
    run = model.run(torch.tensor([5, 6, 7, 8]))
    asked: list[Callable[[], object]] = [
        lambda: find_special(model, run, skip_positions=positions),
        lambda: text_mask(model, run.token_ids, positions),
    ]
    for ask in asked:
        with pytest.raises(PromptError, match=r"(skip_positions|a position to skip) is .*; expected") as found:
            ask()
        assert "\n" not in str(found.value)
    with pytest.raises(PromptError, match=r"a prompt is text, token ids, or chat messages|must be 1-D integers"):
        model.tokenize(positions)


def test_token_ids_may_be_held_by_any_sequence() -> None:
    model, given = make_model("llama"), [5, 6, 7]
    held = (np.array(given), torch.tensor(given), tuple(given), [torch.tensor(i) for i in given])
    assert all(model.tokenize(ids).tolist() == given for ids in held)
    run = model.run(torch.tensor(given))
    for targets in (np.array([3, 4]), [torch.tensor(3), np.int64(4)]):
        assert choose_targets(model, run, targets, DEFAULTS).token_id == [3, 4]
