"""Influence, pruning and scores: by hand, and against brute force on random graphs."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from attrgraph.influence import influence, pruning
from attrgraph.influence import scores as hops_and_scores

# embedding e (layer -1), feature a (0), error x (0), feature b (1), logit t (2)
KINDS = np.array(["embedding", "feature", "error", "feature", "logit"])
LAYERS = np.array([-1, 0, 0, 1, 2])
WEIGHTS = np.array([0, 0, 0, 0, 0.5])


def table(kinds: np.ndarray, layers: np.ndarray, weights: np.ndarray) -> pd.DataFrame:
    """The columns that influence, scores and pruning read."""
    return pd.DataFrame({"kind": kinds, "layer": layers, "probability": weights})


NODES = table(KINDS, LAYERS, WEIGHTS)
BY_HAND = sparse.csr_array(
    np.array(
        [
            [0, 0, 0, 0, 0],
            [-4, 0, 0, 0, 0],  # a reads e
            [0, 0, 0, 0, 0],
            [0, 3, -1, 0, 0],  # b reads a and x: shares 3/4, 1/4
            [1, 0, 0, -1, 0],  # t reads e and b: shares 1/2, 1/2
        ],
        dtype=np.float32,
    )
)


def test_influence_by_hand() -> None:
    # t has weight 1/2: e directly 1/4, b 1/4; through b: a 3/16, x 1/16; through a: e another 3/16
    expected = [1 / 4 + 3 / 16, 3 / 16, 1 / 16, 1 / 4, 0]
    np.testing.assert_allclose(influence.node_influence(BY_HAND, LAYERS, WEIGHTS), expected)


def test_scores_by_hand() -> None:
    scores = hops_and_scores.scores(NODES, BY_HAND)
    assert scores.replacement == pytest.approx((7 / 16) / (7 / 16 + 1 / 16))
    # only b has error input (1/4 of it), and a quarter of flow 7/16 + 3/16 + 1/16 + 1/4 + 1/2
    assert scores.completeness == pytest.approx(1 - (1 / 4) * (1 / 4) / (7 / 16 + 3 / 16 + 1 / 16 + 1 / 4 + 1 / 2))


def test_mean_hops_by_hand() -> None:
    # from e directly 1/2; from x through b 1/8; from e through a and b 3/8
    assert hops_and_scores.mean_hops(NODES, BY_HAND) == pytest.approx(1 * 1 / 8 + 2 * 3 / 8)


def test_mean_hops_leaves_out_paths_that_begin_at_no_input() -> None:
    without_input = BY_HAND.copy()
    without_input[[1], [0]] = 0  # a reads e no more
    without_input.eliminate_zeros()
    # what is left: from e directly 1/2, from x through b 1/8
    expected = (1 / 8) / (1 / 2 + 1 / 8)
    assert hops_and_scores.mean_hops(NODES, without_input) == pytest.approx(expected)


def test_mean_hops_needs_a_weighted_target_that_an_input_reaches() -> None:
    assert np.isnan(hops_and_scores.mean_hops(table(KINDS, LAYERS, np.zeros(5)), BY_HAND))
    assert np.isnan(hops_and_scores.mean_hops(NODES, sparse.csr_array((5, 5), dtype=np.float32)))


def test_pruning_by_hand_keeps_the_chain_and_drops_the_error() -> None:
    kept = pruning.prune(NODES, BY_HAND, node_threshold=0.9, edge_threshold=1.0)
    assert kept.nodes.tolist() == [True, True, False, True, True]
    assert kept.adjacency.nnz == 4
    # without x and a, b has no input and goes too
    kept = pruning.prune(NODES, BY_HAND, node_threshold=0.7, edge_threshold=1.0)
    assert kept.nodes.tolist() == [True, False, False, False, True]
    assert kept.adjacency.nnz == 1


def test_smallest_kept_takes_as_few_as_hold_the_share() -> None:
    scores = np.array([1.0, 4.0, 3.0, 2.0])
    assert pruning.smallest_kept(scores, 0.7) == pytest.approx(3.0)
    assert pruning.smallest_kept(scores, 0.71) == pytest.approx(2.0)
    assert pruning.smallest_kept(scores, 1.0) == pytest.approx(1.0)
    thirds = np.array([0.1, 0.1, 0.1])  # 0.1 / 0.3 is less than 1 / 3 in floating point
    assert (thirds >= pruning.smallest_kept(thirds, 1 / 3)).all()
    halves = np.array([0.35232816, 0.2, 0.1 + 0.05232816])
    assert pruning.smallest_kept(halves, 0.5) == pytest.approx(0.35232816)
    assert pruning.smallest_kept(np.array([]), 0.5) == 0.0


def test_influence_refuses_a_graph_out_of_order() -> None:
    upside_down = sparse.csr_array(BY_HAND.T)
    with pytest.raises(ValueError, match="lower to a higher layer"):
        influence.node_influence(upside_down, LAYERS, WEIGHTS)


def test_zeros_that_are_stored_are_no_edges() -> None:
    stored = sparse.csr_array(BY_HAND)
    # from the answer down to the first node, and all of a row
    rows, columns = stored.nonzero()
    downward = sparse.csr_array(
        (np.append(stored.data, [0.0, 0.0]), (np.append(rows, [0, 0]), np.append(columns, [4, 3]))), shape=stored.shape
    )
    assert downward.nnz == stored.nnz + 2 and influence.node_levels(downward, LAYERS) is LAYERS
    expected = influence.node_influence(stored, LAYERS, WEIGHTS)
    np.testing.assert_allclose(influence.node_influence(downward, LAYERS, WEIGHTS), expected)


@st.composite
def layered_graphs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dense adjacency, layers, kinds and weights of a random small graph in layer order."""
    n_features, n_logits, n_layers = draw(st.integers(0, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers = np.concatenate(
        [rng.integers(n_layers, size=n_features), rng.integers(n_layers, size=3), [-1, -1], [n_layers] * n_logits]
    )
    kinds = np.array(["feature"] * n_features + ["error"] * 3 + ["embedding"] * 2 + ["logit"] * n_logits)
    is_target = np.isin(kinds, ("feature", "logit"))
    may = (layers[:, None] > layers[None]) & is_target[:, None]
    adjacency = rng.normal(size=may.shape) * may * (rng.random(may.shape) < 0.7)
    weights = np.where(kinds == "logit", rng.random(len(kinds)), 0.0)
    return adjacency.astype(np.float32), layers, kinds, weights


@settings(max_examples=60, deadline=None)
@given(layered_graphs())
def test_influence_equals_the_sum_over_all_paths(case: tuple[np.ndarray, ...]) -> None:
    adjacency, layers, _, weights = case
    ours = influence.node_influence(sparse.csr_array(adjacency), layers, weights)

    size = np.abs(adjacency.astype(np.float64))
    sums = size.sum(1, keepdims=True)
    shares = np.divide(size, sums, out=np.zeros_like(size), where=sums > 0)
    inverse = np.linalg.inv(np.eye(len(shares)) - shares) - np.eye(len(shares))
    np.testing.assert_allclose(ours, weights @ inverse, atol=1e-12)

    graph = nx.from_numpy_array(shares, create_using=nx.DiGraph)  # edge target -> source
    for source in range(min(3, len(shares))):
        total = 0.0
        for target in np.flatnonzero(weights):
            for path in nx.all_simple_edge_paths(graph, target, source):
                total += weights[target] * np.prod([shares[edge] for edge in path])
        assert ours[source] == pytest.approx(total, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(layered_graphs())
def test_mean_hops_is_the_mean_over_all_paths(case: tuple[np.ndarray, ...]) -> None:
    adjacency, layers, kinds, weights = case
    ours = hops_and_scores.mean_hops(table(kinds, layers, weights), sparse.csr_array(adjacency))
    size = np.abs(adjacency.astype(np.float64))
    hops, probabilities = [0.0], [0.0]

    def extend(node: int, n_features: int, probability: float) -> None:
        """Every path from an input to this node, put in front of one from it to the answer."""
        if kinds[node] in ("embedding", "error"):
            hops.append(float(n_features))
            probabilities.append(probability)
        for source in np.flatnonzero(size[node]):
            share = size[node, source] / size[node].sum()
            extend(int(source), n_features + int(kinds[source] == "feature"), probability * share)

    for target in np.flatnonzero(weights):
        extend(int(target), 0, float(weights[target]))
    if sum(probabilities):
        assert ours == pytest.approx(np.average(hops, weights=probabilities), abs=1e-12)
    else:
        assert np.isnan(ours)


@settings(max_examples=60, deadline=None)
@given(layered_graphs(), st.floats(0.3, 0.99), st.floats(0.3, 0.99))
def test_pruning_equals_the_dense_definition(case: tuple[np.ndarray, ...], nodes: float, edges: float) -> None:
    adjacency, layers, kinds, weights = case
    kept = pruning.prune(
        table(kinds, layers, weights), sparse.csr_array(adjacency), node_threshold=nodes, edge_threshold=edges
    )
    expected_nodes, expected_edges = _prune_densely(adjacency, kinds, weights, nodes, edges)
    assert kept.nodes.tolist() == expected_nodes.tolist()
    assert (kept.adjacency.toarray() != 0).tolist() == expected_edges.tolist()


def _prune_densely(
    adjacency: np.ndarray, kinds: np.ndarray, weights: np.ndarray, node_threshold: float, edge_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, with dense matrices and loops."""

    def shares_of(matrix: np.ndarray) -> np.ndarray:
        size = np.abs(matrix.astype(np.float64))
        sums = size.sum(1, keepdims=True)
        return np.divide(size, sums, out=np.zeros_like(size), where=sums > 0)

    def influence_of(matrix: np.ndarray) -> np.ndarray:
        total, step = np.zeros(len(weights)), weights
        for _ in range(len(weights)):
            step = step @ shares_of(matrix)
            total = total + step
        return total

    def threshold_of(scores: np.ndarray, share: float) -> float:
        running = 0.0
        for score in sorted(scores.flatten(), reverse=True):
            running += score
            if running / max(scores.sum(), 1e-300) >= share * (1 - 1e-9):  # rounding decides about nothing
                return float(score) * (1 - 1e-9)
        return 0.0

    node_scores = influence_of(adjacency)
    stays = np.isin(kinds, ("embedding", "logit"))
    keep = (node_scores >= threshold_of(node_scores, node_threshold)) | stays
    pruned = adjacency * keep[:, None] * keep[None]
    edge_scores = shares_of(pruned) * (influence_of(pruned) + weights)[:, None]
    edge = (edge_scores >= threshold_of(edge_scores, edge_threshold)) & (pruned != 0)
    while True:
        edge &= keep[:, None] & keep[None]
        smaller = keep.copy()
        for node in np.flatnonzero(keep & ~stays):
            if not edge[:, node].any() or (kinds[node] == "feature" and not edge[node].any()):
                smaller[node] = False
        if (smaller == keep).all():
            return keep, edge
        keep = smaller
