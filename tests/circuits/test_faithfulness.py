"""Faithfulness, its areas and the tests of a circuit: by hand on a model set by hand, and on the demo."""

from math import log, sqrt
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from known_circuit import Layer, make_hand_built, vectors
from tiny import make_model

import attrgraph as ag
from attrgraph.circuits.circuit_check import worst_removal
from attrgraph.circuits.circuit_runs import CircuitRuns
from attrgraph.circuits.rankings import matched, order_of, scores_of_method, scores_of_table
from attrgraph.errors import AttrGraphError, InterventionError, PromptError, ResultError

# One layer. Every position has its token and `one`, so that the sum of squares is 2 and the norm's scale sqrt(8/2) = 2.
# At "end" a head averages three positions: x reads 2/3, so head 0 writes 2/3 * 9/2 = 3 out and head 1 2/3 * 3/2 = 1.
# The metric is the logit of "right", which reads out, over that of "other", which reads one: the last norm cancels.
DIRECTIONS = "bos x y end one out a b".split()
TOKENS = "bos x y end right other".split()
N = len(DIRECTIONS)


def by_hand(second: float = 1.5) -> tuple[ag.LanguageModel, list[ag.PromptPair]]:
    """The model, in which head 1 moves x to `second` times out, and two pairs."""
    moves = [vectors(DIRECTIONS, *({"out": by} if name == "x" else {} for name in DIRECTIONS)) for by in (4.5, second)]
    layer = Layer(np.zeros((2, N)), np.array(moves), vectors(DIRECTIONS, {"one": 1}), vectors(DIRECTIONS, {}))
    model = make_hand_built(
        vectors(DIRECTIONS, *({name: 1.0} for name in "bos x y end".split()), {}, {}),
        vectors(DIRECTIONS, {"one": 1})[0],
        [layer],
        vectors(DIRECTIONS, {}, {}, {}, {}, {"out": 1}, {"one": 1}),
    )
    bos, x, y, end, right, other = range(len(TOKENS))
    return model, [ag.PromptPair.of(model, [bos, x, end], [bos, y, end], right, other)] * 2


def ratio(logits: torch.Tensor, pairs: Any) -> torch.Tensor:
    return logits[:, TOKENS.index("right")] / logits[:, TOKENS.index("other")]


def table_of(*effects: float) -> pd.DataFrame:
    """As `patch` gives it, of two heads and an MLP; each effect in two parts at two positions."""
    rows = [("head", 0, 0), ("head", 0, 1), ("mlp", 0, -1)]
    parts = [
        (*row, pos, effect * share)
        for row, effect in zip(rows, effects, strict=True)
        for pos, share in ((1, 3), (2, -2))
    ]
    return pd.DataFrame(parts, columns=["kind", "layer", "head", "pos", "effect"])


def test_curve_and_areas_are_those_worked_out_by_hand() -> None:
    model, pairs = by_hand()
    found = ag.faithfulness(model, pairs, ranking=table_of(3, 1, 0), metric=ratio, shares=[0.0, 1 / 3, 2 / 3, 1.0])
    assert found.nodes == ["head:0.0", "head:0.1", "mlp:0"] and found.circuit(1) == ["head:0.0"]
    assert (found.full, found.empty) == (pytest.approx(4), pytest.approx(0))
    assert found.curve["n"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.curve["faithfulness"], [0, 3 / 4, 1, 1], atol=1e-9)
    np.testing.assert_allclose(found.curve[["low", "high"]], np.array([[0, 3 / 4, 1, 1]] * 2).T, atol=1e-9)
    assert found.curve["accuracy"].tolist() == [0, 1, 1, 1]
    # trapezoids of width 1/3, and on the logarithmic axis of widths log 2 and log 3/2
    assert found.cpr == pytest.approx((3 / 8 + 7 / 8 + 1) / 3)
    assert found.cmd == pytest.approx((5 / 8 + 1 / 8) / 3)
    assert found.cpr_log == pytest.approx((7 / 8 * log(2) + log(3 / 2)) / log(3))
    assert found.cmd_log == pytest.approx(1 / 8 * log(2) / log(3))


def test_shares_are_the_benchmark_s_unless_others_are_given() -> None:
    model, pairs = by_hand()
    found = ag.faithfulness(model, pairs, ranking=table_of(3, 1, 0), metric=ratio, n_random=0, baselines=())
    assert found.curve["k"].tolist() == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    # whole components: none up to .2, one at .5
    assert found.curve["n"].tolist() == [0] * 8 + [1, 3]
    assert found.cpr == pytest.approx(0.3 * 3 / 8 + 0.5 * 7 / 8)
    assert found.cmd == pytest.approx(0.199 + 0.3 * 5 / 8 + 0.5 / 8)
    assert found.baselines.empty


def test_with_signs_what_harms_comes_last_and_without_them_by_size() -> None:
    model, pairs = by_hand(second=-1.5)
    how: dict[str, Any] = {"ranking": table_of(3, -1, 0), "metric": ratio, "shares": [0.0, 1 / 3, 2 / 3, 1.0]}
    signed, by_size = (ag.faithfulness(model, pairs, absolute=absolute, **how) for absolute in (False, True))
    assert signed.nodes == ["head:0.0", "mlp:0", "head:0.1"]
    np.testing.assert_allclose(signed.curve["faithfulness"], [0, 3 / 2, 3 / 2, 1], atol=1e-9)
    assert by_size.nodes == ["head:0.0", "head:0.1", "mlp:0"]
    np.testing.assert_allclose(by_size.curve["faithfulness"], [0, 3 / 2, 1, 1], atol=1e-9)
    assert signed.cmd > by_size.cmd and signed.cpr > by_size.cpr


def test_methods_score_what_each_component_does() -> None:
    model, pairs = by_hand()
    runs = CircuitRuns(model, pairs, metric=ratio)
    for method in ("exact", "attribution", "direct"):  # nothing is between a head and the answer but the last norm
        np.testing.assert_allclose(scores_of_method(method, runs), [3, 1, 0], atol=1e-9)
    # out is written at x, from two positions, and at the end; a coefficient is two entries of the stream
    expected = [sqrt(2 * ((2 * by / 2) ** 2 + (2 * by / 3) ** 2) / 3) for by in (4.5, 1.5)]
    np.testing.assert_allclose(scores_of_method("activation", runs), [*expected, 0], atol=1e-9)


def test_the_true_ranking_beats_the_others() -> None:
    model, pairs = by_hand()
    shares = [0.0, 1 / 3, 2 / 3, 1.0]
    true, false = (
        ag.faithfulness(model, pairs, ranking=table_of(*effects), metric=ratio, shares=shares)
        for effects in ((3, 1, 0), (0, 1, 3))
    )
    assert true.cpr > false.cpr and true.cmd < false.cmd
    rows = true.baselines.set_index("ranking")
    assert list(rows.index) == ["activation", "direct", "attribution", "random", "matched random"]
    assert true.cpr == pytest.approx(rows.cpr["attribution"])
    assert true.cpr > rows.cpr["random"] and true.cmd < rows.cmd["random"]
    again = ag.faithfulness(model, pairs, ranking=table_of(3, 1, 0), metric=ratio, shares=shares)
    pd.testing.assert_frame_equal(true.baselines, again.baselines)
    assert set(true.curves["ranking"]) == {"table", "activation", "direct", "attribution"}


def test_tables_of_removals_are_turned_round_and_missing_components_come_last() -> None:
    parts = CircuitRuns(*by_hand()).parts
    removals = table_of(-3, -1, 2)
    removals.attrs["direction"] = "noise"
    np.testing.assert_allclose(scores_of_table(removals, parts), [3, 1, -2])
    heads = table_of(-3, 1, 0)[lambda t: t["kind"] == "head"]
    assert order_of(scores_of_table(heads, parts), absolute=False).tolist() == [1, 0, 2]


def test_random_orders_that_match_keep_kinds_and_layers_at_every_place() -> None:
    runs = CircuitRuns(make_model("llama"), [ag.PromptPair.of(make_model("llama"), [1, 2, 3], [1, 4, 3], 5, 6)])
    rng = np.random.default_rng(0)
    order = rng.permutation(runs.n_parts)
    drawn = [matched(order, runs.parts, rng) for _ in range(30)]
    for other in drawn:
        assert sorted(other) == list(range(runs.n_parts))
        for a, b in zip(order, other, strict=True):
            assert runs.parts[a].kind == runs.parts[b].kind
            assert runs.parts[a].kind == "mlp" or runs.parts[a].layer == runs.parts[b].layer
    assert len({tuple(other) for other in drawn}) == 30


def test_a_ranking_of_heads_leaves_mlps_as_they_are() -> None:
    model, pairs = by_hand()
    heads = table_of(3, 1, 0)[lambda t: t["kind"] == "head"]
    found = ag.faithfulness(model, pairs, ranking=heads, metric=ratio, shares=[0.0, 0.5, 1.0], n_random=1)
    assert found.nodes == ["head:0.0", "head:0.1"] and found.curve["n"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.curve["faithfulness"], [0, 3 / 4, 1], atol=1e-9)


def test_a_circuit_is_tested_by_what_is_left_with_and_without_it() -> None:
    model, pairs = by_hand()
    check = ag.check_circuit(model, pairs, ["head:0.1", "mlp:0"], metric=ratio, n_matched=2)
    rows = check.table.set_index("test")
    np.testing.assert_allclose(
        rows.faithfulness[["without circuit", "without matched", "circuit alone", "worst removal"]],
        [3 / 4, 1 / 4, 1 / 4, 1 / 4],
    )
    assert check.worst == ["head:0.0"] and check.n_right == 2
    assert rows.broken["without circuit"] == 0 and rows.n.tolist() == [2, 1, 1, 1]
    whole = ag.check_circuit(model, pairs, ["head:0.0", "head:0.1", "mlp:0"], metric=ratio)
    rows = whole.table.set_index("test")
    assert whole.worst == [] and rows.faithfulness["circuit alone"] == pytest.approx(1)
    assert rows.broken["without circuit"] == 1


def test_the_worst_removal_is_a_part_of_the_rest_where_the_rest_holds_good_and_bad() -> None:
    model, pairs = by_hand(second=-1.5)
    runs = CircuitRuns(model, pairs, metric=ratio)
    removed = worst_removal(runs, np.array([False, False, True]), most=3)
    assert removed.tolist() == [True, False, False]
    # head 1 alone writes -1, of the 2 that both write
    np.testing.assert_allclose(runs.measure(~removed[None]).metric[0], -1)
    np.testing.assert_allclose(runs.harm(np.ones(3, dtype=bool)), [3, -1, 0], atol=1e-9)


def test_the_worst_removal_finds_what_harms_only_together() -> None:
    """Of many sets of the demo's heads outside a circuit, none is worse than what the search finds."""
    model = ag.load_model("demo")
    pairs = ag.prompts_of("ioi", model, 6, seed=4)
    circuit = ["head:1.0", "head:0.1", "head:0.2", "head:3.0"]
    check = ag.check_circuit(model, pairs, circuit, n_matched=1)
    runs = CircuitRuns(model, pairs, kinds=["head"])
    inside = np.array([part.name in circuit for part in runs.parts])
    sets = inside | (np.random.default_rng(0).random((40, runs.n_parts)) < 0.5)
    metric = runs.measure(
        np.concatenate([np.zeros((1, 16), dtype=bool), np.ones((1, 16), dtype=bool), sets])
    ).metric.mean(1)
    found = check.table.set_index("test").faithfulness["worst removal"]
    assert found <= (metric[2:].min() - metric[0]) / (metric[1] - metric[0])
    assert not set(check.worst) & set(circuit)


@pytest.mark.parametrize("behaviour", ["induction", "ioi", "agreement"])
def test_heads_of_the_demo_are_needed_for_new_prompts_and_others_are_not(behaviour: str) -> None:
    model = ag.load_model("demo")
    runs = CircuitRuns(model, ag.prompts_of(behaviour, model, 30, seed=0), kinds=["head"])
    effects = scores_of_method("exact", runs)
    full = runs.measure(np.ones((1, runs.n_parts), dtype=bool)).metric.mean()
    circuit = [part.name for part, effect in zip(runs.parts, effects, strict=True) if effect > full / 4]
    assert 1 <= len(circuit) <= 6
    check = ag.check_circuit(model, ag.prompts_of(behaviour, model, 40, seed=123), circuit, most_removed=1)
    rows = check.table.set_index("test")
    assert check.n_right >= 38
    assert rows.broken["without circuit"] >= 0.8 and rows.broken["without matched"] <= 0.15


@pytest.mark.parametrize("behaviour", ["ioi", "agreement"])
def test_rankings_by_patching_beat_chance_and_size_on_the_demo(behaviour: str) -> None:
    model = ag.load_model("demo")
    pairs = ag.prompts_of(behaviour, model, 20, seed=0)
    found = ag.faithfulness(model, pairs, ranking="exact", n_random=3, baselines=("activation", "direct"))
    for _, row in found.baselines.iterrows():
        assert found.cpr > row["cpr"] and found.cmd < row["cmd"] and found.cpr_log > row["cpr_log"]
    assert (found.curve["low"] <= found.curve["faithfulness"] + 1e-9).all()


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ranking": "best"}, "ranking 'best' is not known; expected a table of patch, or exact, attribution, direct"),
        ({"ranking": pd.DataFrame({"kind": ["head"]})}, "the ranking has no column 'layer'"),
        ({"ranking": table_of(1, 1, 1).assign(kind="resid")}, "the ranking has neither heads nor MLPs"),
        ({"ranking": table_of(1, 1, 1).assign(layer=7)}, r"the ranking has \('head', 7, 0\), which the model does not"),
        ({"metric": "accuracy"}, "metric 'accuracy' is not known; expected logit-difference, probability"),
        ({"metric": lambda logits, pairs: logits}, r"the metric gives shape \[2, 6\] for 2 prompts"),
        ({"ablation": "noise"}, "ablation 'noise' is not known; expected one of counterfactual, resample, mean, zero"),
        ({"shares": [0.5, 0.2]}, "expected at least two growing numbers from 0 to 1"),
        ({"metric": lambda logits, pairs: logits[:, 0] * 0}, "in the whole model and with all components replaced"),
    ],
)
def test_what_there_is_not_is_refused(how: dict[str, Any], said: str) -> None:
    model, pairs = by_hand()
    with pytest.raises((InterventionError, AttrGraphError, ResultError), match=said):
        ag.faithfulness(model, pairs, **{"metric": ratio, **how})


@pytest.mark.refusal
def test_pairs_and_components_that_cannot_be_used_are_refused() -> None:
    model, pairs = by_hand()
    with pytest.raises(PromptError, match="expected a list of pairs"):
        ag.faithfulness(model, [])
    with pytest.raises(PromptError, match="only one pair has 3 tokens"):
        ag.faithfulness(model, pairs[:1], ablation="mean")
    with pytest.raises(InterventionError, match=r"'head:0\.2' is no component here; expected names such as head:0\.0"):
        ag.check_circuit(model, pairs, ["head:0.2"])
    with pytest.raises(InterventionError, match="the circuit has no components"):
        ag.check_circuit(model, pairs, [])
    wrong = [ag.PromptPair.of(model, pair.clean, pair.corrupt, 0, 1) for pair in pairs]
    with pytest.raises(ResultError, match="the model gets none of the answers right"):
        ag.check_circuit(model, wrong, ["head:0.0"], metric=ratio)
