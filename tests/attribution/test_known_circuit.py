"""A circuit known exactly: the traced graph is the truth, node for node and edge for edge."""

from math import sqrt

import numpy as np
import pytest
import torch
from known_circuit import TOKENS, UNEMBEDDING, make_known_circuit, token_ids, true_edges, true_run

import attrgraph as ag
from attrgraph.attribution.replacement import build_replacement
from attrgraph.attribution.rows import compute_rows
from attrgraph.attribution.targets import LogitDifference, choose_targets
from attrgraph.models.language_model import LanguageModel

EVERY_TOKEN = list(range(len(TOKENS)))
AUSTIN, SACRAMENTO, TEXAS = EVERY_TOKEN[-3:]
# the prompt of the hand calculation; another city of the same state; another state; something that is no part of it;
# two states; the question before the city; the question twice; nothing to find
PROMPTS = [
    "bos dallas the capital",
    "bos the houston capital",
    "bos oakland of the capital",
    "bos fish dallas fish of capital",
    "bos dallas oakland capital",
    "bos capital dallas the",
    "bos dallas capital of capital",
    "bos the of",
]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make_known_circuit()


def logit_reads(tokens: list[int]) -> dict[str, np.ndarray]:
    """What the logit node of every token reads."""
    reads = UNEMBEDDING - UNEMBEDDING.mean(0)
    return {f"3_{token}_{len(tokens) - 1}": read for token, read in enumerate(reads)}


def as_matrix(edges: dict[tuple[str, str], float], graph: ag.Graph) -> np.ndarray:
    """[target, source] in the order of the graph's nodes."""
    matrix = np.zeros(graph.adjacency.shape)
    for (target, source), edge in edges.items():
        matrix[graph.nodes.index.get_loc(target), graph.nodes.index.get_loc(source)] = edge
    return matrix


def rows_in_float64(model: LanguageModel, tokens: list[int]) -> np.ndarray:
    """Edges into features and then logits, before the graph rounds them; errors have been checked to be zero."""
    assert model.transcoders is not None
    run = model.run(torch.tensor(tokens))
    local = build_replacement(run, model.transcoders, torch.arange(len(tokens)) == 0)
    assert float(local.errors.abs().max()) < 1e-14  # eps of numbers up to 5
    logits = choose_targets(model, run, EVERY_TOKEN)
    rows = compute_rows(local, logits, len(local.active), lambda *_: None, memory_bytes=2**30)
    return torch.cat([rows.features, rows.logits]).numpy()


def test_the_truth_is_what_the_hand_calculation_says() -> None:
    run = true_run(token_ids("bos dallas the capital"))
    assert run.features() == pytest.approx({"0_0_1": sqrt(2), "1_0_3": 1.0, "1_2_3": 1.0})
    np.testing.assert_allclose(run.logits[[AUSTIN, SACRAMENTO, TEXAS]], np.array([5, 1, 5 / 4]) * 4 / sqrt(29))
    np.testing.assert_allclose(run.patterns[:, -1], [[1 / 4] * 4, [1 / 6, 3 / 6, 1 / 6, 1 / 6]])
    difference = {"difference": UNEMBEDDING[AUSTIN] - UNEMBEDDING[SACRAMENTO]}
    expected = {
        ("0_0_1", "E_1_1"): sqrt(8),  # texas reads dallas
        ("0_0_1", "B"): -sqrt(2),
        ("1_0_3", "0_0_1"): 2.0,  # say austin reads texas and capital
        ("1_0_3", "E_4_3"): 4.0,
        ("1_0_3", "B"): -5.0,
        ("1_2_3", "E_4_3"): 2.0,  # say a capital reads capital, and prefers neither answer
        ("1_2_3", "B"): -1.0,
        ("difference", "1_0_3"): 3 * 4 / sqrt(29),
        ("difference", "E_1_1"): 4 / sqrt(29),  # the shortcut
    }
    assert true_edges(run, difference) == pytest.approx(expected)


@pytest.mark.parametrize("text", PROMPTS)
def test_the_graph_is_the_truth(text: str, model: LanguageModel) -> None:
    tokens = token_ids(text)
    run = true_run(tokens)
    graph = ag.trace(model, tokens, targets=EVERY_TOKEN)
    features = graph.nodes[graph.nodes["kind"] == "feature"]
    assert features["activation"].to_dict() == pytest.approx(run.features(), rel=1e-9)
    is_logit, is_feature = ((graph.nodes["kind"] == kind).to_numpy() for kind in ("logit", "feature"))
    np.testing.assert_allclose(graph.nodes["activation"][is_logit], run.logits - run.logits.mean(), atol=1e-12)
    shares = np.exp(run.logits) / np.exp(run.logits).sum()
    np.testing.assert_allclose(graph.nodes["probability"][is_logit], shares)

    expected = as_matrix(true_edges(run, logit_reads(tokens)), graph)
    exact = expected[np.concatenate([is_feature.nonzero()[0], is_logit.nonzero()[0]])][:, ~is_logit]
    # no edge is below 1e-2: what is zero in truth is so to rounding, and nothing else is
    assert np.abs(exact[exact != 0]).min() > 1e-2
    np.testing.assert_allclose(rows_in_float64(model, tokens), exact, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(graph.adjacency.toarray(), expected, rtol=1e-7, atol=1e-13)  # kept in float32


@pytest.mark.parametrize("text", PROMPTS)
def test_exact_transcoders_explain_everything(text: str, model: LanguageModel) -> None:
    graph = ag.trace(model, token_ids(text), targets=EVERY_TOKEN)
    checks = graph.metadata["checks"]
    assert max(checks["logit_deviation"], checks["input_sum_gap"]) < 1e-13
    if text == "bos the of":  # the answer is a constant
        assert graph.nodes["influence"].abs().max() == 0
    else:
        assert graph.scores() == pytest.approx((1.0, 1.0), abs=1e-12)


@pytest.mark.parametrize("text", PROMPTS)
def test_the_model_does_what_the_truth_says(text: str, model: LanguageModel) -> None:
    logits = model.run(torch.tensor(token_ids(text))).logits
    np.testing.assert_allclose(logits, true_run(token_ids(text)).logits, atol=1e-13)


def test_the_answer_is_the_capital_of_the_citys_state() -> None:
    best = [TOKENS[int(true_run(token_ids(text)).logits.argmax())] for text in PROMPTS]
    # of two states dallas has the shortcut besides; with the question too early, or none, there is no capital to say
    assert best == ["austin", "austin", "sacramento", "austin", "austin", "texas", "austin", "texas"]


def test_what_is_no_part_of_the_circuit_has_no_effect(model: LanguageModel) -> None:
    """The feature of the decoy is active and reads its token; nothing reads either."""
    graph = ag.trace(model, token_ids("bos fish dallas fish of capital"), targets=EVERY_TOKEN)
    fish = TOKENS.index("fish")
    for pos in (1, 3):
        place = graph.nodes.index.get_loc(f"0_2_{pos}")
        assert np.abs(graph.adjacency[:, [place]].toarray()).max() == 0
        assert graph.nodes.loc[[f"0_2_{pos}", f"E_{fish}_{pos}"], "influence"].tolist() == [0, 0]
        readers = graph.adjacency[:, [graph.nodes.index.get_loc(f"E_{fish}_{pos}")]].nonzero()[0]
        assert readers.tolist() == [place]


def test_influence_hops_and_pruning_are_those_worked_out_by_hand(model: LanguageModel) -> None:
    # the difference reads the shortcut and say austin (1 : 3), say austin reads texas and capital (2 : 4), texas dallas
    graph = ag.trace(model, token_ids("bos dallas the capital"), targets=LogitDifference(AUSTIN, SACRAMENTO))
    influence = graph.nodes["influence"]
    by_hand = {"1_0_3": 3 / 4, "0_0_1": 1 / 4, "E_4_3": 1 / 2, "E_1_1": 1 / 4 + 1 / 4, "1_2_3": 0}
    assert influence[list(by_hand)].to_dict() == pytest.approx(by_hand, rel=1e-7)  # edges are float32
    assert influence.drop(list(by_hand)).abs().max() < 1e-12
    # no feature 1/4 of the way, one 1/2, two 1/4
    assert graph.mean_hops() == pytest.approx(1.0, rel=1e-7)
    # of all influence say austin, dallas, capital and texas hold 3/8, 2/8, 2/8, 1/8
    for threshold, features in ((0.9, ["0_0_1", "1_0_3"]), (0.8, ["1_0_3"])):
        kept = graph.prune(threshold, 1.0)
        assert kept.nodes.index[kept.nodes["kind"] == "feature"].tolist() == features
        assert not (kept.nodes["kind"] == "error").any()
        assert kept.adjacency.nnz == 2 * len(features) + 1
    assert graph.prune(0.9, 1.0).mean_hops() == pytest.approx(1.0, rel=1e-7)


def test_without_texas_every_mode_gives_what_follows_by_hand(model: LanguageModel) -> None:
    tokens = token_ids("bos dallas the capital")
    run, without = true_run(tokens), true_run(tokens, off=(1, 0))
    assert "1_0_3" not in without.features()
    edges = true_edges(run, logit_reads(tokens))
    nodes = list(logit_reads(tokens))
    from_texas, from_austin = (np.array([edges.get((t, s), 0.0) for t in nodes]) for s in ("0_0_1", "1_0_3"))
    # frozen: what is above stays, and reads what is left; then say austin goes too; then norms and attention follow
    live = without.logits - run.logits
    expected = {
        "frozen": (-from_texas, 1 - 2.0),
        "frozen-attention": (-from_texas - from_austin, 0.0),
        "constrained": (live - live.mean(), 0.0),
        "free": (live - live.mean(), 0.0),
    }
    for mode, (change, say_austin) in expected.items():
        effect = ag.intervene(model, tokens, ag.Intervention("0_0_1", scale=0.0), mode=mode)
        moved = effect.uncapped_change.numpy()
        np.testing.assert_allclose(moved - moved.mean(), change, atol=1e-12, err_msg=mode)
        after = effect.features.set_index(["layer", "feature", "pos"])["after"]
        assert after[1, 0, 3] == pytest.approx(say_austin, abs=1e-12), mode
        assert after[0, 0, 1] == 0
        if mode in ("constrained", "free"):
            assert after[1, 2, 3] == pytest.approx(without.features()["1_2_3"])
            np.testing.assert_allclose(effect.logits_after, without.logits, atol=1e-12)


def test_mlps_held_above_keep_what_they_said_while_attention_and_norms_follow(model: LanguageModel) -> None:
    tokens = token_ids("bos dallas the capital")
    held = true_run(tokens, off=(1, 0), held=true_run(tokens).activations[1])
    effect = ag.intervene(model, tokens, ag.Intervention("0_0_1", scale=0.0), mode="constrained", upto_layer=1)
    np.testing.assert_allclose(effect.logits_after, held.logits, atol=1e-12)
    assert np.abs(held.logits - true_run(tokens, off=(1, 0)).logits).max() > 0.1
