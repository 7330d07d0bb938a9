"""Two sets of transcoders that are both exact need not tell the same story: one has a hop that the other has not."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch
from boolean_toy import FALSE, TRUE, make_boolean_toy, prompt_of

import attrgraph as ag
from attrgraph.attribution.replacement import build_replacement
from attrgraph.attribution.targets import LogitDifference
from attrgraph.models.language_model import LanguageModel

INPUTS = list(product([False, True], repeat=3))
ANSWER = LogitDifference(TRUE, FALSE)
X_AND_Y, AND_Z, ALL_AT_ONCE = "0_0_4", "1_0_4", "0_1_4"  # at the last position
FINAL_SCALE = sqrt(8 / 11)


@pytest.fixture(scope="module")
def per_layer() -> LanguageModel:
    return make_boolean_toy(is_cross_layer=False)


@pytest.fixture(scope="module")
def cross_layer() -> LanguageModel:
    return make_boolean_toy(is_cross_layer=True)


def trace_all_true(model: LanguageModel) -> ag.Graph:
    return ag.trace(model, prompt_of(True, True, True), targets=ANSWER)


def edges_between(graph: ag.Graph, target_kind: str, source_kind: str) -> dict[tuple[str, str], float]:
    """Edges that are more than rounding, by the ids of target and source."""
    kinds, names = graph.nodes["kind"].to_numpy(), graph.nodes.index
    found = graph.adjacency.tocoo()
    return {
        (names[t], names[s]): float(edge)
        for t, s, edge in zip(found.row, found.col, found.data, strict=True)
        if (kinds[t], kinds[s]) == (target_kind, source_kind) and abs(edge) > 1e-12
    }


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_model_computes_x_and_y_and_z(inputs: tuple[bool, bool, bool], per_layer: LanguageModel) -> None:
    logits = per_layer.run(torch.tensor(prompt_of(*inputs))).logits
    assert bool(logits[TRUE] > logits[FALSE]) == all(inputs)
    if all(inputs):
        np.testing.assert_allclose(logits[[TRUE, FALSE]], FINAL_SCALE * np.array([sqrt(2), 0.5]))


@pytest.mark.parametrize("inputs", INPUTS)
def test_both_sets_are_exact_on_every_input(
    inputs: tuple[bool, bool, bool], per_layer: LanguageModel, cross_layer: LanguageModel
) -> None:
    prompt, (x, y, _) = prompt_of(*inputs), inputs
    for model, last_step in ((per_layer, AND_Z), (cross_layer, ALL_AT_ONCE)):
        assert model.transcoders is not None
        run = model.run(torch.tensor(prompt))
        local = build_replacement(run, model.transcoders, torch.arange(len(prompt)) == 0)
        assert float(local.errors.abs().max()) < 1e-14  # eps of numbers up to 3
        graph = ag.trace(model, prompt, targets=ANSWER)
        checks = graph.metadata["checks"]
        assert max(checks["logit_deviation"], checks["input_sum_gap"]) < 1e-13
        # the steps happen at the end only, and only when they should
        steps = [X_AND_Y] * (x and y) + [last_step] * all(inputs)
        assert graph.nodes.index[graph.nodes["kind"] == "feature"].tolist() == steps
        if all(inputs):
            assert graph.scores() == pytest.approx((1.0, 1.0), abs=1e-12)
        else:  # the answer is a constant
            assert np.isnan(graph.mean_hops())


def test_the_per_layer_graph_has_the_hop_and_the_cross_layer_graph_has_not(
    per_layer: LanguageModel, cross_layer: LanguageModel
) -> None:
    true_hop, shortcut = trace_all_true(per_layer), trace_all_true(cross_layer)
    assert edges_between(true_hop, "feature", "feature") == pytest.approx({(AND_Z, X_AND_Y): 3 * sqrt(8) / 3})
    assert edges_between(shortcut, "feature", "feature") == {}
    # tokens x, y, z and end, each at its own position
    x, y, z, end = (f"E_{token}_{token}" for token in range(1, 5))
    own_step = {(X_AND_Y, x): 1.0, (X_AND_Y, y): 1.0, (X_AND_Y, end): 4.0}
    assert edges_between(true_hop, "feature", "embedding") == pytest.approx(own_step | {(AND_Z, z): sqrt(8) / 3})
    at_once = {(ALL_AT_ONCE, token): 1.0 for token in (x, y, z)} | {(ALL_AT_ONCE, end): 4.0}
    assert edges_between(shortcut, "feature", "embedding") == pytest.approx(own_step | at_once)
    # the last step explains the whole answer, and the other set's x and y nothing of it
    for graph, last_step in ((true_hop, AND_Z), (shortcut, ALL_AT_ONCE)):
        ((_, source), edge), *others = edges_between(graph, "logit", "feature").items()
        assert (source, others) == (last_step, [])
        assert edge == pytest.approx(FINAL_SCALE * sqrt(2))
    assert shortcut.nodes.loc[X_AND_Y, "influence"] == 0


def test_hops_count_the_step_that_was_left_out(per_layer: LanguageModel, cross_layer: LanguageModel) -> None:
    # and z reads x and y and z as 3 : 1; edges are float32
    assert trace_all_true(per_layer).mean_hops() == pytest.approx(2 * 3 / 4 + 1 * 1 / 4, rel=1e-7)
    assert trace_all_true(cross_layer).mean_hops() == pytest.approx(1.0, rel=1e-7)


def test_only_the_true_model_tells_the_two_explanations_apart(
    per_layer: LanguageModel, cross_layer: LanguageModel
) -> None:
    """Each replacement model agrees with itself; what the model does without a feature shows which one is right."""
    prompt = prompt_of(True, True, True)

    def change_without(model: LanguageModel, node: str, mode: str) -> float:
        change = ag.intervene(model, prompt, ag.Intervention(node, scale=0.0), mode=mode).uncapped_change
        return float(change[TRUE] - change[FALSE])

    lost = -FINAL_SCALE * sqrt(2)  # with norms frozen, the answer loses what `out` gives it
    # without x and y the sum of squares is 4 + 1 + 3 at the end: the logits are 0 and 1/2
    truly_lost = -0.5 - FINAL_SCALE * (sqrt(2) - 0.5)
    assert change_without(per_layer, X_AND_Y, "frozen-attention") == pytest.approx(lost)
    assert change_without(cross_layer, X_AND_Y, "frozen-attention") == pytest.approx(0.0, abs=1e-12)
    assert change_without(cross_layer, ALL_AT_ONCE, "frozen-attention") == pytest.approx(lost)
    for mode in ("constrained", "free"):
        assert change_without(per_layer, X_AND_Y, mode) == pytest.approx(truly_lost)
        assert change_without(cross_layer, X_AND_Y, mode) == pytest.approx(truly_lost)
        assert change_without(cross_layer, ALL_AT_ONCE, mode) == pytest.approx(0.0, abs=1e-12)
