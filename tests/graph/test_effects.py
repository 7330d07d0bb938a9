"""Influence, effects, flow, graphs with less, pinned scores and numbers: against all paths, and dense by hand."""

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Case, all_paths, cases, dense, dense_shares, make_graph, network_of
from scipy import sparse

import attrgraph as ag
from attrgraph.errors import AttrGraphError, ResultError
from attrgraph.graph.graph import Graph
from attrgraph.validation.predictions import predict

DALLAS = "in the state containing dallas the capital is"


def effect_of_paths(graph: Graph, paths: Iterable[tuple[str, ...]]) -> float:
    """The sum over paths, edge by edge."""
    edges, activation, total = dense(graph), graph.nodes["activation"].to_numpy(), 0.0
    for path in paths:
        at = [graph.nodes.index.get_loc(node) for node in path]
        factors = [edges[target, source] for source, target in pairwise(at)]
        total += np.prod(factors) / np.prod(activation[at[1:-1]])
    return total


def draw_nodes(data: st.DataObject, graph: Graph) -> list[str]:
    return [node for node in graph.nodes.index if data.draw(st.booleans())]


# -- influence and effects ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_influence_is_the_share_that_all_paths_lead_back_to(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    shares, ids = dense_shares(graph), graph.nodes.index
    powers = np.linalg.inv(np.eye(len(ids)) - shares) - np.eye(len(ids))
    chosen = draw_nodes(data, graph)
    np.testing.assert_allclose(graph.influence(chosen), ids.isin(chosen).astype(float) @ powers, atol=1e-12)
    np.testing.assert_allclose(graph.influence(), graph.weights @ powers, atol=1e-12)
    assert graph.influence().index.equals(ids)


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_an_effect_is_the_sum_over_all_paths(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    sources, targets, through, avoid = (draw_nodes(data, graph) for _ in range(4))
    listed = list(all_paths(graph, sources, targets))
    passing = [path for path in listed if set(path) & set(through)]
    free = [path for path in listed if not set(path) & set(avoid)]
    both = [path for path in passing if path in free]
    for limits, paths in (
        ({}, listed),
        ({"through": through}, passing),
        ({"avoid": avoid}, free),
        ({"through": through, "avoid": avoid}, both),
    ):
        # terms of up to 10^3 that may cancel
        assert graph.effect(sources, targets, **limits) == pytest.approx(effect_of_paths(graph, paths), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(cases(), st.data())
def test_signed_influence_is_every_nodes_effect(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    chosen = draw_nodes(data, graph)
    effects, on_logits = graph.influence(chosen, signed=True), graph.influence(signed=True)
    probability = graph.nodes["probability"].to_dict()
    for node in graph.nodes.index:
        assert effects[node] == pytest.approx(effect_of_paths(graph, all_paths(graph, [node], chosen)), abs=1e-9)
        listed = {logit: all_paths(graph, [node], [logit]) for logit in probability}
        expected = sum(probability[logit] * effect_of_paths(graph, paths) for logit, paths in listed.items())
        assert on_logits[node] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(cases(), st.data())
def test_effects_are_what_validation_predicts(case: Case, data: st.DataObject) -> None:
    graph = case.build().without_bias()
    source = data.draw(st.integers(0, len(graph.nodes) - 1))
    relative = np.zeros((len(graph.nodes), 1))
    relative[source] = 1.0
    total, ids = predict(graph, relative).total[:, 0], graph.nodes.index
    for target in range(len(ids)):
        assert graph.effect(ids[source], ids[target]) == pytest.approx(total[target], abs=1e-9)


@pytest.fixture(scope="module")
def demo() -> Graph:
    return ag.trace(ag.load_model("demo"), DALLAS)


def test_influence_of_a_traced_graph_is_its_column(demo: Graph) -> None:
    pd.testing.assert_series_equal(demo.influence(), demo.nodes["influence"])
    logits = demo.select(kind="logit")
    assert demo.influence(logits.ids).equals(demo.influence(logits))


def test_effects_of_all_that_is_given_are_what_the_answer_is(demo: Graph) -> None:
    given = demo.select(kind=["embedding", "error", "bias"])
    for node, value in demo.nodes.loc[demo.nodes["kind"] == "logit", "activation"].items():
        # float32 sums of some hundred edges in each of four layers
        assert demo.effect(given, node) == pytest.approx(value, rel=1e-5)
    # the same holds of every feature that reads: with its bias edge, its inputs sum to its activation
    deep = demo.nodes[(demo.nodes["kind"] == "feature") & (demo.nodes["layer"] == 3)]
    for node, value in deep["activation"].items():
        assert demo.effect(given, node) == pytest.approx(value, rel=1e-4, abs=1e-4)


# -- flow --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(["layer", "position", "kind"]))
def test_flow_is_the_influence_along_edges_between_groups(case: Case, level: str) -> None:
    graph = case.build()
    shares, flow = dense_shares(graph), graph.flow(level)
    reaching = graph.influence().to_numpy() + graph.weights
    along = shares * reaching[:, None]
    groups = graph.nodes[{"position": "pos"}.get(level, level)].to_numpy()
    expected: dict[tuple[object, object], float] = {}
    for target, source in np.argwhere(along):
        pair = groups[target], groups[source]
        expected[pair] = expected.get(pair, 0.0) + along[target, source] / along.sum()
    found = {(row.target, row.source): row.share for row in flow.itertuples()}
    assert found == pytest.approx(expected)
    assert flow["share"].is_monotonic_decreasing
    if len(flow):
        assert flow["share"].sum() == pytest.approx(1)
        held = graph.influence().groupby(groups).sum() / graph.influence().sum()
        for group, share in flow.groupby("source")["share"].sum().items():
            assert share == pytest.approx(held[group])


# -- without -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_dropped_nodes_are_gone_with_their_edges(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    chosen = draw_nodes(data, graph)
    less, kept = graph.without(chosen), ~graph.nodes.index.isin(chosen)
    assert less.nodes.index.equals(graph.nodes.index[kept])
    assert (less.adjacency != graph.adjacency[kept][:, kept]).nnz == 0
    pd.testing.assert_series_equal(less.nodes["influence"], less.influence())
    columns = ["kind", "layer", "pos", "token", "activation", "label"]
    assert less.nodes[columns].equals(graph.nodes.loc[kept, columns])
    assert less.metadata["without"] == [{"mode": "drop", "nodes": graph.nodes.index[~kept].tolist()}]


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_features_that_become_errors_lead_from_their_error(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    features = graph.select(kind="feature")
    chosen = [node for node in features if data.draw(st.booleans())]
    less = graph.without(chosen, "to_error")
    edges = network_of(graph)
    expected: dict[tuple[str, str], float] = {}
    for source, target, values in edges.edges(data=True):
        if target not in chosen:
            layer, pos = edges.nodes[source]["layer"], edges.nodes[source]["pos"]
            pair = (f"{layer}_-1_{pos}" if source in chosen else source), target
            expected[pair] = expected.get(pair, 0.0) + values["weight"]
    found = {(source, target): values["weight"] for source, target, values in network_of(less).edges(data=True)}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)  # sums of a few float32
    made = {f"{layer}_-1_{pos}" for layer, pos in graph.nodes.loc[chosen, ["layer", "pos"]].itertuples(index=False)}
    assert set(less.nodes.index) == (set(graph.nodes.index) - set(chosen)) | made
    kinds = less.nodes["kind"]
    assert kinds.drop_duplicates().tolist() == [kind for kind in _KINDS if (kinds == kind).any()]
    errors = less.nodes[kinds == "error"]
    assert errors[["layer", "pos"]].apply(tuple, axis=1).is_monotonic_increasing
    assert errors["label"][[node in made for node in errors.index]].str.contains("error").all()
    pd.testing.assert_series_equal(less.nodes["influence"], less.influence())


_KINDS = ["feature", "error", "embedding", "logit", "bias"]


def test_less_of_less_says_all_that_was_taken(demo: Graph) -> None:
    first, second = demo.select(kind="feature").ids[:2]
    less = demo.without(first, "to_error").without(second)
    taken = [{"mode": "to_error", "nodes": [first]}, {"mode": "drop", "nodes": [second]}]
    assert less.metadata["without"] == taken and "without" not in demo.metadata
    assert demo.without([]).nodes.equals(demo.nodes)


# -- pinned scores -----------------------------------------------------------------------------------------------------


def scores_by_hand(graph: Graph, pinned: list[str]) -> tuple[float, float]:
    """Features that are not pinned moved to their errors in a dense matrix, loop by loop; powers instead of passes."""
    nodes = graph.without_bias().nodes
    matrix, rows = dense(graph.without_bias()), list(nodes.itertuples())
    for i, row in enumerate(rows):
        if row.kind == "feature" and row.Index not in pinned:
            for j, other in enumerate(rows):
                if (other.kind, other.layer, other.pos) == ("error", row.layer, row.pos):
                    matrix[:, j] += matrix[:, i]
            matrix[:, i] = matrix[i, :] = 0
    size = np.abs(matrix)
    shares = size / np.maximum(size.sum(1, keepdims=True), 1e-300)
    weights = graph.without_bias().weights
    influence = weights @ (np.linalg.inv(np.eye(len(rows)) - shares) - np.eye(len(rows)))
    is_error, is_token = ((nodes["kind"] == kind).to_numpy() for kind in ("error", "embedding"))
    total = influence[is_token | is_error].sum()
    reaching = influence + weights
    replacement = influence[is_token].sum() / total if total > 0 else float("nan")
    return replacement, float(((1 - shares[:, is_error].sum(1)) * reaching).sum() / reaching.sum())


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_pinned_scores_are_those_of_the_dense_definition(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    pinned = draw_nodes(data, graph)
    assert tuple(graph.scores(pinned)) == pytest.approx(scores_by_hand(graph, pinned), nan_ok=True)
    assert tuple(graph.scores(graph.select(kind="feature"))) == pytest.approx(tuple(graph.scores()), nan_ok=True)


def test_pinned_scores_are_those_of_the_graph_with_errors_instead(demo: Graph) -> None:
    pinned = demo.select(kind="feature", influence=(0.02, None))
    assert len(pinned) > 3
    rest = demo.select(kind="feature") - pinned
    # edges of the other graph are stored as float32
    assert tuple(demo.scores(pinned)) == pytest.approx(tuple(demo.without(rest, "to_error").scores()), rel=1e-5)
    assert demo.scores([]).replacement < demo.scores(pinned).replacement < demo.scores().replacement
    assert demo.scores([]).completeness < demo.scores(pinned).completeness < demo.scores().completeness


def test_a_pinned_supernode_stands_for_its_members(demo: Graph) -> None:
    members = demo.select(kind="feature", influence=(0.02, None)).ids
    params = {"supernodes": [["capital", *members[:3]], ["texas", *members[3:]]]}
    graph = Graph(demo.nodes, demo.adjacency, demo.prompt_tokens, {**demo.metadata, "qParams": params})
    assert graph.scores(["capital", "texas"]) == graph.scores(members)
    assert graph.scores("capital") == graph.scores(members[:3])


def test_pinned_scores_by_hand() -> None:
    rows = [("feature", 0, 0, 0), ("feature", 0, 0, 1), ("feature", 0, 1, 2), ("error", 0, 0, -1)]
    rows += [("embedding", -1, 0, 5), ("logit", 1, 1, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 0.0)
    edges = np.zeros((6, 6), dtype=np.float32)
    edges[:3, 4] = 1  # features read the embedding
    edges[5] = 3, -2, 4, 1, 1, 0
    graph = Graph(graph.nodes, sparse.csr_array(edges), graph.prompt_tokens, graph.metadata)
    # shares of the logit's input 3/11, 2/11, 4/11 of features, 1/11 of the error, 1/11 of the embedding
    assert graph.scores().replacement == pytest.approx(10 / 11)
    # 0_1_0 adds -2 to the error's 1; 0_2_1 has no error and is left out: 3/5, 1/5, 1/5
    assert graph.scores("0_0_0").replacement == pytest.approx(4 / 5)
    # of flow 1 into the logit a fifth is from the error; 3/5 and 4/5 into what has no error input
    assert graph.scores("0_0_0").completeness == pytest.approx(1 - (1 / 5) / (1 + 3 / 5 + 1 / 5 + 4 / 5))
    # made where it is absent, the error of 0_2_1 counts: 3/9, 1/9, 4/9, 1/9
    assert graph.without(["0_1_0", "0_2_1"], "to_error").scores().replacement == pytest.approx(4 / 9)


# -- graphs of other tools ---------------------------------------------------------------------------------------------


@pytest.fixture
def with_attention() -> Graph:
    """An embedding, an attention feature that reads it, and a feature of the same layer that reads both."""
    rows = [("feature", 0, 0, 0), ("embedding", -1, 0, 5), ("logit", 1, 1, 7), ("attention feature", 0, 0, 3)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 0.0)
    edges = np.zeros((4, 4), dtype=np.float32)
    edges[3, 1], edges[0, 1], edges[0, 3] = 2, 1, 3
    edges[2] = 4, 0, 0, -1
    nodes = graph.nodes.assign(activation=[8.0, 0.0, 0.0, 4.0])
    return Graph(nodes, sparse.csr_array(edges), graph.prompt_tokens, graph.metadata)


def test_edges_within_a_layer_are_followed(with_attention: Graph) -> None:
    graph, (feature, token, logit, attention) = with_attention, with_attention.nodes.index
    assert graph.ancestors(feature).ids == [token, attention]
    assert graph.descendants(token).ids == [feature, logit, attention]
    straight, around, past = 1 * 4 / 8, 2 * 3 / 4 * 4 / 8, 2 * -1 / 4
    assert graph.effect(token, logit) == pytest.approx(straight + around + past)
    assert graph.effect(token, logit, through=feature) == pytest.approx(straight + around)
    assert graph.effect(token, logit, avoid=feature) == pytest.approx(past)
    found = graph.paths(token, logit)
    assert found["share"].tolist() == pytest.approx([4 / 5 * 3 / 4, 4 / 5 * 1 / 4, 1 / 5])
    assert found["weight"].tolist() == pytest.approx([around, straight, past], abs=1e-12)
    assert (graph.stats()["paths"], graph.stats()["depth"]) == (3, 3)
    less = graph.without([feature, attention], "to_error")
    made = less.nodes.index[less.nodes["kind"].isin(["error", "attention error"])].tolist()
    assert made == ["0_-1_0", "0_error_attn_0"]
    assert less.to_networkx().edges["0_-1_0", logit]["weight"] == 4
    assert less.to_networkx().edges["0_error_attn_0", logit]["weight"] == -1
    assert less.scores().replacement == 0


# -- numbers -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cases())
def test_stats_are_those_of_networkx(case: Case) -> None:
    graph = case.build()
    found, plain = graph.stats(), graph.without_bias()
    links, nodes = plain.to_networkx(), plain.nodes
    assert found["nodes"] == nodes["kind"].value_counts().to_dict()
    assert (found["edges"], found["depth"]) == (links.number_of_edges(), nx.dag_longest_path_length(links, weight=None))
    inputs, logits = (nodes.index[nodes["kind"].isin(kinds)] for kinds in (["embedding", "error"], ["logit"]))
    assert found["paths"] == len(list(all_paths(plain, inputs, logits)))
    reads, is_read = nodes.index[nodes["kind"].isin(["feature", "logit"])], nodes.index[nodes["kind"] != "logit"]
    below = nodes.loc[is_read, "layer"].to_numpy()[None] < nodes.loc[reads, "layer"].to_numpy()[:, None]
    assert found["density"] == pytest.approx(links.number_of_edges() / below.sum())
    for name, degrees in (("in_degree", links.in_degree(reads)), ("out_degree", links.out_degree(is_read))):
        values = [degree for _, degree in degrees]
        assert found[name]["mean"] == pytest.approx(np.mean(values))
        assert (found[name]["min"], found[name]["max"]) == (min(values), max(values))
        assert found[name]["median"] == np.median(values)
    weights = [weight for _, _, weight in links.edges(data="weight")]
    positive = sum(weight for weight in weights if weight > 0)
    if weights:
        assert found["positive_share"] == pytest.approx(positive / sum(abs(weight) for weight in weights))
    assert found["scores"] == pytest.approx(graph.scores()._asdict(), nan_ok=True)
    assert (found["layers"], found["positions"]) == (graph.n_layers, 2)


def test_paths_are_counted_beyond_64_bits(demo: Graph) -> None:
    rows = [("feature", layer, 0, i) for layer in range(30) for i in range(10)]
    graph = make_graph([*rows, ("embedding", -1, 0, 5), ("logit", 30, 1, 0)], 30, np.random.default_rng(0), 1.0)
    assert graph.stats()["paths"] == 11**30  # of each layer one feature, or none
    assert json.loads(json.dumps(demo.stats()))["nodes"]["logit"] == 1


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_what_cannot_be_answered_is_refused(demo: Graph) -> None:
    bare = Graph(demo.nodes.assign(activation=0.0), demo.adjacency, demo.prompt_tokens, demo.metadata)
    with pytest.raises(AttrGraphError, match=r"have no activation, the first \d+_\d+_\d+"):
        bare.influence(signed=True)
    with pytest.raises(AttrGraphError, match="trace the prompt again, or rank by share"):
        bare.effect("0_-1_5", demo.select(kind="logit").ids)
    with pytest.raises(AttrGraphError, match="level='token'; expected one of layer, position, kind"):
        demo.flow("token")
    with pytest.raises(AttrGraphError, match="mode='zero'; expected one of drop, to_error"):
        demo.without([], "zero")
    with pytest.raises(AttrGraphError, match="only features become errors; got '0_-1_5', of kind error"):
        demo.without("0_-1_5", "to_error")
    for ask in (demo.without, demo.scores, demo.influence):
        with pytest.raises(AttrGraphError, match="no node 'x'"):
            ask("x")
    for limits in ({"through": "x"}, {"avoid": "x"}):
        with pytest.raises(AttrGraphError, match="no node 'x'"):
            demo.effect("0_-1_5", "1_-1_5", **limits)


@settings(deadline=None, max_examples=20)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_only_activations_on_the_way_are_needed(case: Case, seed: int) -> None:
    graph, rng = case.build(), np.random.default_rng(seed)
    ids = graph.nodes.index
    lacks = (graph.nodes["kind"] == "feature").to_numpy() & (rng.random(len(ids)) < 0.4)

    def with_activations(values: float | np.ndarray) -> Graph:
        activation = np.where(lacks, values, graph.nodes["activation"])
        return graph.replace(nodes=graph.nodes.assign(activation=activation))

    # what does not depend on the missing ones can be told without them, and nothing else
    bare, *filled = (with_activations(values) for values in (0.0, 1 + rng.random(len(ids)), 3 + rng.random(len(ids))))
    ends = [str(rng.choice(ids)), str(graph.select(kind="logit").ids[0])]
    some = [[str(node) for node in rng.choice(ids, 2)] for _ in range(2)]
    questions: list[Callable[[Graph], Any]] = [
        lambda one: one.effect(*ends),
        lambda one: one.effect(*ends, through=some[0]),
        lambda one: one.effect(*ends, avoid=some[1]),
        lambda one: one.effect(*ends, through=some[0], avoid=some[1]),
        lambda one: one.influence(ends[1], signed=True).tolist(),
        lambda one: sorted(one.paths(*ends, by="abs", k=10**6)["weight"]),
    ]
    for ask in questions:
        first, second = (ask(one) for one in filled)
        if first == second:
            assert ask(bare) == pytest.approx(first)
        else:
            with pytest.raises(AttrGraphError, match="have no activation"):
                ask(bare)


@pytest.mark.refusal
def test_an_effect_that_is_no_number_is_refused() -> None:
    rows = [("feature", 0, 0, 0), ("embedding", -1, 0, 5), ("logit", 1, 0, 7)]
    graph = make_graph(rows, 1, np.random.default_rng(0), 1.0)
    tiny = graph.replace(nodes=graph.nodes.assign(activation=3e-308), adjacency=1e30 * graph.adjacency)
    with pytest.raises(ResultError, match=r"an effect is -?inf"):
        tiny.effect("E_5_0", "2_7_0")
