"""The k best paths, against every path listed one by one."""

import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Case, all_paths, cases, dense, dense_shares, make_graph
from scipy import sparse

import attrgraph as ag
from attrgraph.errors import AttrGraphError
from attrgraph.graph.graph import Graph


def weigh(graph: Graph, path: tuple[str, ...], counts: float) -> tuple[float, float]:
    """Weight and share of one path, edge by edge."""
    edges, shares, at = dense(graph), dense_shares(graph), [graph.nodes.index.get_loc(node) for node in path]
    activation = graph.nodes["activation"].to_numpy()
    weight = share = counts
    for i, (source, target) in enumerate(pairwise(at)):
        weight *= edges[target, source] / (1.0 if i == 0 else activation[source])
        share *= shares[target, source]
    return weight, share


def every_path(graph: Graph, sources: list[str], targets: dict[str, float]) -> pd.DataFrame:
    sources = [source for source in sources if source != "B"]
    found = list(all_paths(graph, sources, targets))
    values = [weigh(graph, path, targets[path[-1]]) for path in found]
    table = pd.DataFrame({"path": pd.Series(found, dtype=object)})
    return table.assign(weight=[weight for weight, _ in values], share=[share for _, share in values])


RANKS = {
    "share": lambda table: table["share"],
    "abs": lambda table: table["weight"].abs(),
    "positive": lambda table: table["weight"].where(table["weight"] > 0).dropna(),
    "negative": lambda table: -table["weight"].where(table["weight"] < 0).dropna(),
}


def assert_best(graph: Graph, ours: pd.DataFrame, listed: pd.DataFrame, by: str, k: int) -> None:
    """The k highest values, each of a path of its own; which of several with one value is left open."""
    expected = RANKS[by](listed).sort_values(ascending=False)[:k]
    # products of at most five float64
    np.testing.assert_allclose(RANKS[by](ours).to_numpy(), expected.to_numpy(), rtol=1e-12)
    assert len(ours) == len(expected) and ours["path"].is_unique
    values = {path: (weight, share) for path, weight, share in listed.itertuples(index=False)}
    for row in ours.itertuples():
        assert (row.weight, row.share) == pytest.approx(values[row.path], rel=1e-12)
        assert row.labels == " → ".join(graph.nodes["label"][node] for node in row.path)
    coverage = np.cumsum(ours["share"].to_numpy()) / max(listed["share"].sum(), 1e-300)
    np.testing.assert_allclose(ours["coverage"].to_numpy(), coverage, rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(sorted(RANKS)), st.sampled_from([1, 2, 5, 1000]))
def test_the_k_best_of_all_paths_are_found(case: Case, by: str, k: int) -> None:
    graph = case.build()
    inputs = graph.nodes.index[graph.nodes["kind"].isin(["embedding", "error"])].tolist()
    logits = graph.nodes["probability"][graph.nodes["kind"] == "logit"].to_dict()
    assert_best(graph, graph.paths(k=k, by=by), every_path(graph, inputs, logits), by, k)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(sorted(RANKS)), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_sources_and_targets_can_be_any_nodes(case: Case, by: str, k: int, seed: int) -> None:
    graph = case.build()
    rng, ids = np.random.default_rng(seed), graph.nodes.index
    sources, targets = (ids[rng.random(len(ids)) < 0.5].tolist() for _ in range(2))
    ours = graph.paths(sources, targets, k=k, by=by)
    assert_best(graph, ours, every_path(graph, sources, dict.fromkeys(targets, 1.0)), by, k)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_all_paths_together_are_the_influence_and_the_effect(case: Case) -> None:
    graph = case.build()
    found = graph.paths(k=10_000)
    inputs = graph.nodes["kind"].isin(["embedding", "error"])
    assert found["share"].sum() == pytest.approx(graph.influence()[inputs].sum(), abs=1e-12)
    assert found["weight"].sum() == pytest.approx(graph.influence(signed=True)[inputs].sum(), abs=1e-9)
    assert len(found) == graph.stats()["paths"]
    assert not len(found) or found["coverage"].iloc[-1] == pytest.approx(1.0)


def test_paths_by_hand_differ_by_what_they_are_ranked_by() -> None:
    rows = [("feature", 0, 0, 0), ("feature", 0, 0, 1), ("embedding", -1, 0, 5), ("logit", 1, 1, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 0.0)
    edges = np.zeros((4, 4), dtype=np.float32)
    edges[0, 2], edges[1, 2] = 2, 5  # both features read the embedding only
    edges[3] = 3, -1, 2, 0
    nodes = graph.nodes.assign(activation=[4.0, 0.5, 0.0, 0.0])
    graph = Graph(nodes, sparse.csr_array(edges), graph.prompt_tokens, graph.metadata)
    first, second, straight = ("E_5_0", "0_0_0", "2_7_1"), ("E_5_0", "0_1_0", "2_7_1"), ("E_5_0", "2_7_1")
    target = "2_7_1"
    by_share = graph.paths("E_5_0", target)
    assert by_share["path"].tolist() == [first, straight, second]
    assert by_share["share"].tolist() == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert by_share["coverage"].tolist() == pytest.approx([3 / 6, 5 / 6, 1])
    assert by_share["weight"].tolist() == pytest.approx([2 * 3 / 4, 2, 5 * -1 / 0.5])
    assert graph.paths("E_5_0", target, by="abs")["path"].tolist() == [second, straight, first]
    assert graph.paths("E_5_0", target, by="positive")["path"].tolist() == [straight, first]
    assert graph.paths("E_5_0", target, by="negative")["path"].tolist() == [second]
    assert graph.effect("E_5_0", target) == pytest.approx(1.5 + 2 - 10)


def test_paths_without_activations_are_ranked_by_share_only() -> None:
    rows = [("feature", 0, 0, 0), ("embedding", -1, 0, 5), ("logit", 1, 1, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 1.0)
    bare = Graph(graph.nodes.assign(activation=0.0), graph.adjacency, graph.prompt_tokens, graph.metadata)
    found = bare.paths()
    assert found["share"].equals(graph.paths()["share"])
    assert found["weight"].isna().tolist() == [len(path) > 2 for path in found["path"]]


@pytest.mark.parametrize(("edge", "activation"), [(0.05, 0.05), (1e6, 1e6), (0.07, 0.0725)])
def test_weights_of_long_paths_are_numbers(edge: float, activation: float) -> None:
    """The product of all edges, or of all activations, is beyond what a float64 holds."""
    n_layers = 250
    rows = [
        ("embedding", -1, 0, 5),
        *(("feature", layer, 0, 0) for layer in range(n_layers)),
        ("logit", n_layers, 1, 7),
    ]
    graph = make_graph(rows, n_layers, np.random.default_rng(0), 0.0)
    n = len(rows)
    edges = sparse.csr_array(
        (np.full(n - 1, edge, dtype=np.float32), (np.arange(1, n), np.arange(n - 1))), shape=(n, n)
    )
    active = np.where(graph.nodes["kind"] == "feature", activation, 0.0)
    graph = Graph(graph.nodes.assign(activation=active, probability=0.0), edges, graph.prompt_tokens, graph.metadata)
    source, target = graph.nodes.index[[0, -1]]
    expected = float(np.float32(edge)) * (float(np.float32(edge)) / activation) ** n_layers
    for by in ("share", "abs"):
        found = graph.paths(source, target, by=by)
        assert found["weight"].tolist() == [pytest.approx(expected, rel=1e-9)]
    assert graph.effect(source, target) == pytest.approx(expected, rel=1e-9)


def test_hundreds_of_paths_take_no_longer_than_some() -> None:
    rng = np.random.default_rng(0)
    rows = [("feature", layer, 0, i) for layer in range(12) for i in range(60)]
    rows += [("embedding", -1, pos, 5 + pos) for pos in range(2)] + [("logit", 12, 1, 0)]
    graph = make_graph(rows, 12, rng, 0.4)
    found = graph.paths(k=2000)
    assert len(found) == 2000 and found["share"].is_monotonic_decreasing and found["path"].is_unique
    for row in found.iloc[::97].itertuples():
        assert (row.weight, row.share) == pytest.approx(
            weigh(graph, row.path, graph.nodes["probability"].iloc[-1]), rel=1e-9
        )


def test_unlabelled_nodes_stand_with_their_ids() -> None:
    rows = [("embedding", -1, 0, 5), ("logit", 1, 1, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 1.0)
    nodes = graph.nodes.assign(label=["", "Output"])
    graph = Graph(nodes, graph.adjacency, graph.prompt_tokens, graph.metadata)
    assert graph.paths()["labels"].tolist() == ["E_5_0 → Output"]


def test_graphs_with_more_paths_than_can_be_listed_take_seconds() -> None:
    rng = np.random.default_rng(0)
    rows = [("feature", layer, 0, i) for layer in range(20) for i in range(100)]
    rows += [("embedding", -1, pos, 5 + pos) for pos in range(2)] + [("logit", 20, 1, 0)]
    graph = make_graph(rows, 20, rng, 0.2)
    begun = time.perf_counter()
    found = graph.paths(k=10)
    assert graph.stats()["paths"] > 10**20
    assert len(found) == 10 and found["share"].is_monotonic_decreasing
    assert time.perf_counter() - begun < 20  # some tenths of a second here; listing paths would take for ever


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_bad_questions_about_paths_are_refused() -> None:
    rows = [("feature", 0, 0, 0), ("embedding", -1, 0, 5), ("logit", 1, 1, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 1.0)
    with pytest.raises(ag.AttrGraphError, match="by='length', k=10; expected one of share, abs, positive, negative"):
        graph.paths(by="length")
    with pytest.raises(AttrGraphError, match="at least one path"):
        graph.paths(k=0)
    with pytest.raises(AttrGraphError, match="no node '0_0_1'; did you mean 0_0_0"):
        graph.paths("0_0_1")
    bare = Graph(graph.nodes.assign(activation=0.0), graph.adjacency, graph.prompt_tokens, graph.metadata)
    with pytest.raises(AttrGraphError, match="1 nodes between others have no activation, the first 0_0_0"):
        bare.paths(by="abs")
