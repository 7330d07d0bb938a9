"""Two attention layers set by hand: what the graph, heads, queries and keys, and interventions say is the truth."""

from math import exp, log, sqrt
from typing import Any

import pytest
import torch
from induction_circuit import DIRECTIONS, TOKENS, make_induction_circuit, token_ids

import attrgraph as ag
from attrgraph.models.language_model import LanguageModel

PROMPT = token_ids("bos a b c a")
OTHERS = [0, 1, 3, 4]  # all but b


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_induction_circuit()


@pytest.fixture(scope="module")
def graph(model: LanguageModel) -> ag.Graph:
    return ag.trace(model, PROMPT, targets=list(range(len(TOKENS))), skip_positions="none")


@pytest.mark.parametrize("text", ["bos a b c a", "bos d c b d", "bos c a c", "bos b c d c"])
def test_the_model_goes_on_with_what_followed_before(model: LanguageModel, text: str) -> None:
    *before, last = text.split()
    followed = text.split()[before.index(last) + 1]
    logits = model.run(torch.tensor(token_ids(text))).logits
    expected = torch.zeros(len(TOKENS), dtype=torch.float64)
    expected[TOKENS.index(followed)] = 2 * sqrt(len(DIRECTIONS) / 10)
    torch.testing.assert_close(logits, expected)


def test_the_graph_is_what_the_circuit_does(graph: ag.Graph) -> None:
    was, say = sqrt(27 / 4), sqrt(4.5)
    expected = {
        ("0_0_2", "E_1_1"): was,  # was a, at b
        ("0_1_3", "E_2_2"): was,
        ("0_2_4", "E_3_3"): was,
        ("1_1_4", "E_2_2"): say,  # say b
    }
    expected |= {(target, "B"): -was / 2 for target in ("0_0_2", "0_1_3", "0_2_4")} | {("1_1_4", "B"): -say / 2}
    logit = 2 * sqrt(2.7)
    expected |= {("3_2_4", "1_1_4"): 4 / 5 * logit}  # less the mean over five tokens
    expected |= {(f"3_{token}_4", "1_1_4"): -logit / 5 for token in OTHERS}
    ids, edges = graph.nodes.index, graph.adjacency.tocoo()
    found = {(ids[i], ids[j]): float(v) for i, j, v in zip(edges.row, edges.col, edges.data, strict=True)}
    # at position 1 all keys are alike: "say a" hears the token itself
    found = {ends: edge for ends, edge in found.items() if "1_0_1" not in ends and abs(edge) > 1e-6}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("source", "target", "at"), [("E_1_1", "0_0_2", 0), ("E_2_2", "1_1_4", 1)])
def test_heads_carry_the_edges_that_they_carry(
    source: str, target: str, at: int, model: LanguageModel, graph: ag.Graph
) -> None:
    loadings = ag.head_loadings(graph, source, target, model=model).query("layer == @at")
    edge = graph.adjacency[graph.nodes.index.get_loc(target), graph.nodes.index.get_loc(source)]
    is_head_0 = (loadings["via"] == "head") & (loadings["head"] == 0)
    assert loadings.loc[is_head_0, "effect"].to_list() == pytest.approx([edge])
    assert loadings.loc[~is_head_0, "effect"].to_list() == pytest.approx([0.0] * 3, abs=1e-12)


def test_the_score_is_one_product_of_a_token_and_a_feature(model: LanguageModel) -> None:
    found = ag.explain_attention(model, PROMPT, layer=1, head=0, query=-1, key=2, skip_positions="none")
    assert found.score == pytest.approx(54) and found.weight == pytest.approx(1)  # 10 times 27 / 5
    best = found.pairs(1).iloc[0]
    assert (best["query_source"], best["key_source"]) == ("E_1_4", "0_0_2")
    assert best["contribution"] == pytest.approx(54)


def test_patching_finds_both_heads_where_they_are_and_the_way_between_them(model: LanguageModel) -> None:
    """Of "bos d b c a" the last token finds nothing, so that all five answers are alike."""
    twin = token_ids("bos d b c a")
    how: dict[str, Any] = {"metric": ag.LogProbability(TOKENS.index("b")), "direction": "noise"}
    known = exp(2 * sqrt(2.7))
    lost = log(1 / 5) - log(known / (known + 4))
    nodes = ag.patch(model, PROMPT, twin, nodes=["head", "feature"], skip_positions="none", **how)
    effects = nodes.set_index("node")["effect"]
    whole = effects[effects < 0.9 * lost]
    assert whole.to_dict() == pytest.approx(dict.fromkeys(["head:0.0@2", "head:1.0@4", "0_0_2", "1_1_4"], lost))
    # "was d", which appears at 2, makes that position's stream longer, and so b a little shorter
    assert set(effects[effects.abs() > 1e-9].index) - set(whole.index) == {"0_3_2"}
    paths = ag.patch_paths(model, PROMPT, twin, **how)
    whole_paths = paths[paths["effect"] < 0.9 * lost]
    assert list(zip(whole_paths["sender"], whole_paths["receiver"], strict=True)) == [
        ("head:0.0", "mlp:0"),
        ("mlp:0", "k:1.0"),
        ("head:1.0", "mlp:1"),
        ("mlp:1", "answer"),
    ]


def test_what_only_moves_attention_is_seen_by_live_modes_alone(model: LanguageModel, graph: ag.Graph) -> None:
    """Patterns are frozen in a graph: "was a" causes the answer, and the graph has no path from it."""
    was_a = ag.Intervention("0_0_2", scale=0.0)
    assert graph.nodes.loc["0_0_2", "influence"] == 0
    for mode in ("frozen", "frozen-attention", "constrained", "free"):
        effect = ag.intervene(model, PROMPT, was_a, mode=mode, skip_positions="none")
        if mode.startswith("frozen"):
            assert float(effect.uncapped_change.abs().max()) < 1e-9
        else:
            torch.testing.assert_close(effect.logits_after, torch.zeros(len(TOKENS), dtype=torch.float64))
