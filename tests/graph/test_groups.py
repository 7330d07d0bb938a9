"""Groups of nodes: flows by hand and by walks, what groupings lose, groups that are found, labels, files."""

from itertools import product
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from six_nodes import A, B, C, E, F, T, graph_of, random_groups, random_parts, six_nodes

import attrgraph as ag
from attrgraph.errors import AttrGraphError, ModelLoadError, TranscoderError
from attrgraph.files import PROFILES
from attrgraph.graph.groups import group, grouping_score, groups_of, with_groups
from attrgraph.models.language_model import LanguageModel

DALLAS = "in the state containing dallas the capital is"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return ag.load_model("demo")


@pytest.fixture(scope="module")
def full(model: LanguageModel) -> ag.Graph:
    return ag.trace(model, DALLAS)


def flow_of(grouped: ag.GroupedGraph, source: str, target: str) -> tuple[float, float]:
    index = grouped.nodes.index
    place = index.get_loc(target), index.get_loc(source)
    return float(grouped.flow[place]), float(grouped.adjacency[place])


def shares_of(graph: ag.Graph) -> np.ndarray:
    size = np.abs(graph.adjacency.toarray().astype(np.float64))
    sums = size.sum(1, keepdims=True)
    return np.divide(size, sums, out=np.zeros_like(size), where=sums > 0)


def test_flows_between_groups_by_hand() -> None:
    grouped = six_nodes().group({"ab": [A, B]})
    assert flow_of(grouped, C, T) == pytest.approx((4 / 5, 4 / 5))
    assert flow_of(grouped, "ab", T) == pytest.approx((1 / 5, 1 / 5))
    # half of c's input suppresses it
    assert flow_of(grouped, "ab", C) == pytest.approx((4 / 5, 0))
    assert flow_of(grouped, E, "ab") == pytest.approx((2 / 5 + 3 / 20, 2 / 5 + 3 / 20))
    assert flow_of(grouped, F, "ab") == pytest.approx((9 / 20, 9 / 20))
    both = grouped.nodes.loc["ab"]
    assert both["influence"] == pytest.approx(1) and both["inside"] == 0 and both["begins"] == 0
    assert (both["kind"], both["label"], both["tokens"], both["n_members"]) == ("supernode", "ab", "one two", 2)
    assert tuple(both[["first_layer", "last_layer", "first_pos", "last_pos"]]) == (0, 0, 0, 1)
    edges = grouped.edges()
    assert edges["flow"].is_monotonic_decreasing and len(edges) == 5
    assert set(edges["source"]) == {C, "ab", E, F}
    assert grouped.groups == {"ab": [A, B]} and "1 groups of 2 nodes, 4 single" in repr(grouped)


def test_what_flows_inside_a_group_is_no_edge() -> None:
    grouped = six_nodes().group({"ac": [A, C]})
    # all of it comes in by c, half of that goes to a, half to b
    assert grouped.nodes.loc["ac", "inside"] == pytest.approx(2 / 5)
    assert grouped.nodes.loc["ac", "influence"] == pytest.approx(4 / 5)
    assert flow_of(grouped, E, "ac")[0] == pytest.approx(2 / 5)
    assert flow_of(grouped, B, "ac")[0] == pytest.approx(2 / 5)


def test_a_graph_without_edges_has_none_between_groups() -> None:
    bare = six_nodes().query("kind == 'embedding'").subgraph()
    edges = bare.group({"both": list(bare.nodes.index)}).edges()
    assert len(edges) == 0 and list(edges.columns) == ["target", "source", "flow", "weight"]


def test_groups_of_one_are_the_graph() -> None:
    graph = six_nodes()
    grouped = graph.group({})
    np.testing.assert_allclose(grouped.nodes["influence"], graph.nodes["influence"])
    assert list(grouped.nodes.index) == list(graph.nodes.index)
    np.testing.assert_allclose(grouped.flow.sum(1) + grouped.nodes["begins"], graph.nodes["influence"] + graph.weights)


def test_embeddings_in_a_group_are_where_flow_begins() -> None:
    grouped = six_nodes().group({"start": [E, A, F]})
    start = grouped.nodes.loc["start"]
    assert start["inside"] == pytest.approx(2 / 5)
    # 2/5 from c to a, 3/5 from b to both tokens
    assert start["influence"] == pytest.approx(1) and start["begins"] == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_comes_to_a_group_goes_on_or_begins_there(data: st.DataObject) -> None:
    graph = graph_of(*data.draw(random_parts()))
    groups = data.draw(random_groups(graph))
    grouped = group(graph, groups, allow_cycles=True)
    nodes = grouped.nodes
    # sums of at most 20 float64 numbers below 10
    np.testing.assert_allclose(nodes["influence"], grouped.flow.sum(0), atol=1e-12)
    np.testing.assert_allclose(nodes["influence"] + nodes["weight"], grouped.flow.sum(1) + nodes["begins"], atol=1e-12)
    # every walk that starts ends somewhere, and nothing is counted that the graph does not have
    assert nodes["begins"].sum() == pytest.approx(graph.weights.sum(), abs=1e-12)
    total = grouped.flow.sum() + nodes["inside"].sum()
    assert total == pytest.approx(graph.nodes["influence"].sum(), abs=1e-9)
    assert (abs(grouped.adjacency).toarray() <= grouped.flow.toarray() + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_without_cycles_influence_is_how_many_walks_pass_a_group(data: st.DataObject) -> None:
    graph = graph_of(*data.draw(random_parts()))
    groups = data.draw(random_groups(graph))
    try:
        grouped = group(graph, groups)
    except AttrGraphError:  # a cycle; another test is about these
        return
    shares, ids = shares_of(graph), list(graph.nodes.index)

    def passes(node: int, members: set[int]) -> float:
        """Share of walks from a node that come to one of the members."""
        return sum(
            shares[node, source] * (1.0 if source in members else passes(int(source), members))
            for source in np.flatnonzero(shares[node])
        )

    for name, members in groups.items():
        places = {ids.index(member) for member in members}
        expected = sum(weight * passes(node, places) for node, weight in enumerate(graph.weights) if weight)
        assert grouped.nodes.loc[name, "influence"] == pytest.approx(expected, abs=1e-9)


def test_score_by_hand() -> None:
    graph = six_nodes()
    assert grouping_score(graph, {}) == 1.0
    # a sends all to e, b a quarter to e: with what enters, 2/5 and 3/5, the mean to e is 11/20;
    # D = 9/20 and 3/10; groups that read: ab with 1, c with 4/5, t with 1
    expected = 1 - (2 / 5 * 9 / 20 + 3 / 5 * 3 / 10) / (1 + 4 / 5 + 1)
    assert grouping_score(graph, {"ab": [A, B]}) == pytest.approx(expected)
    # tokens read nothing, so it cannot matter which of them a walk came to
    assert grouping_score(graph, {"tokens": [E, F]}) == pytest.approx(1)
    # into c enter 4/5, which leave half to b, half through a to e; into a nothing enters but from c
    assert grouping_score(graph, {"ac": [A, C]}) == pytest.approx(1)


def test_members_with_the_same_sources_lose_nothing() -> None:
    rows = [
        ("feature", 0, 0, 1, 1.0, 0.0),
        ("feature", 0, 0, 2, 1.0, 0.0),
        ("embedding", -1, 0, 5, 0.0, 0.0),
        ("error", 0, 0, -1, 0.0, 0.0),
        ("logit", 2, 0, 9, 1.0, 0.7),
    ]
    edges = np.zeros((5, 5))
    edges[0, 2], edges[1, 2] = 3.0, -0.1
    edges[4, [0, 1, 3]] = 1.0, 5.0, 2.0
    graph = graph_of(rows, edges, ["one"])
    both = ["0_1_0", "0_2_0"]
    assert grouping_score(graph, {"both": both}) == pytest.approx(1)
    found = graph.auto_groups("flow", min_score=1.0)
    assert found == {"feature 2": both}  # the more influential one gives the name


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_score_is_the_distance_of_where_walks_leave_groups(data: st.DataObject) -> None:
    graph = graph_of(*data.draw(random_parts()))
    groups = data.draw(random_groups(graph))
    shares, ids = shares_of(graph), list(graph.nodes.index)
    name_of = {node: node for node in ids} | {node: name for name, members in groups.items() for node in members}
    passing = graph.nodes["influence"].to_numpy() + graph.weights

    def leaves(node: int) -> dict[str, float]:
        """Where walks from a node next come to outside its group; "" for those that end inside."""
        if not shares[node].any():
            return {"": 1.0}
        ends: dict[str, float] = {}
        for source in np.flatnonzero(shares[node]):
            there = name_of[ids[source]]
            onward = leaves(int(source)) if there == name_of[ids[node]] else {there: 1.0}
            for end, part in onward.items():
                ends[end] = ends.get(end, 0.0) + shares[node, source] * part
        return ends

    lost = total = 0.0
    for name in dict.fromkeys(name_of.values()):
        members = [i for i, node in enumerate(ids) if name_of[node] == name]
        enters = {
            i: graph.weights[i] + sum(shares[j, i] * passing[j] for j in range(len(ids)) if j not in members)
            for i in members
        }
        if not any(shares[i].any() for i in members):
            continue
        total += sum(enters.values())
        if sum(enters.values()) == 0:
            continue
        ways = {i: leaves(i) for i in members}
        for i in members:
            for end in {end for way in ways.values() for end in way}:
                mean = sum(enters[j] * ways[j].get(end, 0.0) for j in members) / sum(enters.values())
                lost += enters[i] * abs(ways[i].get(end, 0.0) - mean) / 2
    assert grouping_score(graph, groups) == pytest.approx(1 - lost / total if total else 1.0, abs=1e-9)


@pytest.mark.parametrize("by", ["tokens", "flow", "vectors"])
def test_found_groups_are_disjoint_acyclic_and_the_same_again(by: str, model: LanguageModel, full: ag.Graph) -> None:
    asked = model if by == "vectors" else None
    for graph, n in product((full, full.prune()), (None, 12)):
        found = graph.auto_groups(by, n, model=asked)
        assert found and found == graph.auto_groups(by, n, model=asked)
        members = [node for nodes in found.values() for node in nodes]
        assert len(members) == len(set(members)) and min(len(nodes) for nodes in found.values()) > 1
        assert set(graph.nodes.loc[members, "kind"]) == {"feature"}
        grouped = graph.group(found)  # refuses cycles
        assert nx.is_directed_acyclic_graph(nx.from_scipy_sparse_array(grouped.flow, create_using=nx.DiGraph))
        if n is None:
            assert grouping_score(graph, found) >= 0.9
        else:
            n_single = int((graph.nodes["kind"] == "feature").sum()) - len(members)
            assert len(found) + n_single <= n
        for name, nodes in found.items():
            best = graph.group({}).nodes.loc[nodes, "influence"].idxmax()
            assert name.split(" (")[0] == str(graph.nodes.loc[best, "label"]).split(" (")[0]


def test_groups_by_tokens_are_of_one_position_and_neighbouring_layers(full: ag.Graph) -> None:
    graph = full.prune()
    rows = graph.nodes.loc[graph.nodes["kind"] == "feature"]
    cells = rows.groupby(["pos", rows["layer"] // 2]).groups.values()
    expected = {frozenset(cell) for cell in cells if len(cell) > 1}
    assert {frozenset(nodes) for nodes in graph.auto_groups("tokens", n=len(cells)).values()} == expected


def test_one_feature_at_two_positions_is_grouped_first_by_vectors(model: LanguageModel, full: ag.Graph) -> None:
    features = full.nodes[full.nodes["kind"] == "feature"]
    found = full.auto_groups("vectors", len(features) - 5, model=model)
    for nodes in found.values():
        assert len(features.loc[nodes, ["layer", "feature"]].drop_duplicates()) == 1


def test_cluster_cycles_are_undone() -> None:
    # x reads a, c reads x; a and c have the same tokens and readers but for these edges
    rows = [
        ("feature", 0, 0, 1, 1.0, 0.0),  # a
        ("feature", 1, 0, 2, 1.0, 0.0),  # x
        ("feature", 2, 0, 3, 1.0, 0.0),  # c
        ("embedding", -1, 0, 5, 0.0, 0.0),
        ("error", 0, 0, -1, 0.0, 0.0),
        ("logit", 3, 0, 9, 1.0, 1.0),
    ]
    edges = np.zeros((6, 6))
    edges[0, 3] = 1.0
    edges[1, [0, 4]] = 0.1, 5.0
    edges[2, [1, 3]] = 0.1, 1.0
    edges[5, [0, 1, 2]] = 1.0, -1.0, 1.0
    graph = graph_of(rows, edges, ["one"], n_layers=3)
    with pytest.raises(AttrGraphError, match=r"cycle through the groups: (ac -> 1_2_0 -> ac|1_2_0 -> ac -> 1_2_0)\."):
        graph.group({"ac": ["0_1_0", "2_3_0"]})
    cyclic = graph.group({"ac": ["0_1_0", "2_3_0"]}, allow_cycles=True)
    assert flow_of(cyclic, "ac", "1_2_0")[0] > 0 and flow_of(cyclic, "1_2_0", "ac")[0] > 0
    graph.group(graph.auto_groups("flow", n=2))


@pytest.mark.parametrize("profile", PROFILES)
def test_groups_survive_files(profile: str, full: ag.Graph, tmp_path: Path) -> None:
    graph = full.prune()
    groups = {'texas, "lone" star': ["1_738_5", "1_815_5"], "capital": ["0_632_8", "E_105_7"]}
    marked = with_groups(graph, groups)
    assert groups_of(marked) == groups and groups_of(graph) == {}
    marked.to_json(tmp_path / "g.json", profile)
    marked.save(tmp_path / "g.safetensors")
    for name in ("g.json", "g.safetensors"):
        again = ag.load_graph(tmp_path / name)
        assert groups_of(again) == groups
        assert set(again.metadata["qParams"]["pinnedIds"]) == {node for nodes in groups.values() for node in nodes}
        again.group(groups_of(again), allow_cycles=True)
    fewer = with_groups(marked, {"texas": ["1_738_5"]})
    assert groups_of(fewer) == {"texas": ["1_738_5"]}


def test_groups_of_pruned_graphs_and_of_odd_files() -> None:
    graph = six_nodes()
    params = {"supernodes": [["x", A, "gone"], ["x", B, A], ["y", "gone"]], "linkType": "input"}
    graph.metadata["qParams"] = params
    assert groups_of(graph) == {"x": [A], "x (2)": [B]}
    assert with_groups(graph, {"z": [C]}).metadata["qParams"]["linkType"] == "input"
    graph.metadata["qParams"] = {"supernodes": f'[["x", "{A}"]]', "pinnedIds": f"{B},{C}"}
    assert groups_of(graph) == {"x": [A]}
    assert with_groups(graph, {"z": [A]}).metadata["qParams"]["pinnedIds"] == [B, C, A]


def test_a_graph_of_nothing_but_a_logit_is_grouped() -> None:
    graph = graph_of([("logit", 2, 0, 9, 1.0, 1.0)], np.zeros((1, 1)), ["one"])
    assert graph.auto_groups() == {} and grouping_score(graph, {}) == 1.0
    assert graph.group({"answer": ["3_9_0"]}).nodes.loc["answer", "begins"] == 1.0


def test_members_are_named_in_either_way_of_writing_ids() -> None:
    graph, ids = six_nodes(), [A, B]
    written = {"ab": ["{}/{}@{}".format(*node.split("_")) for node in ids]}
    assert graph.group(written).groups == {"ab": ids}
    assert groups_of(with_groups(graph, written)) == {"ab": ids}


@pytest.mark.refusal
def test_wrong_groups_are_refused() -> None:
    graph = six_nodes()
    refused = {
        "is empty": {"x": []},
        "has no node '0_1_9'; did you mean": {"x": ["0_1_9"]},
        "in group 'x' too": {"x": [A], "y": [A]},
        "twice in it": {"x": [A, A]},
        "mixes logits": {"x": [A, T]},
        "named like a node": {A: [B]},
        "is the text": {"x": A},
        "the bias node": {"x": ["B"]},
    }
    for message, groups in refused.items():
        with pytest.raises(AttrGraphError, match=message):
            graph.group(groups)  # type: ignore[arg-type]
        with pytest.raises(AttrGraphError, match=message):
            grouping_score(graph, groups)  # type: ignore[arg-type]
    graph.metadata["qParams"] = "text"
    with pytest.raises(AttrGraphError, match="qParams are a str"):
        with_groups(graph, {"x": [A]})


@pytest.mark.refusal
def test_wrong_ways_to_find_groups_are_refused(model: LanguageModel, full: ag.Graph) -> None:
    for message, arguments in {
        "by='colour'": {"by": "colour"},
        "both given": {"n": 3, "min_score": 0.5},
        "n is 0": {"n": 0},
        r"min_score is 1\.5": {"min_score": 1.5},
        "needs model=": {"by": "vectors"},
        "at least 8 groups are needed": {"n": 7},
    }.items():
        with pytest.raises(AttrGraphError, match=message):
            full.auto_groups(**arguments)  # type: ignore[arg-type]
    with pytest.raises((TranscoderError, ModelLoadError)):
        full.auto_groups("vectors", model=ag.load_model("demo", "demo-per-layer"))
