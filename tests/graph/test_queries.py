"""Which nodes: by columns, by expressions, by neighborhood; and the algebra of selections."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Case, cases, dense_shares, network_of
from scipy import sparse
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.errors import AttrGraphError
from attrgraph.graph.graph import Graph


@pytest.fixture
def graph() -> Graph:
    built = Case(n_features=7, n_logits=3, n_layers=4, density=0.8, seed=3).build()
    labels = [f"say {label}" if i % 3 == 0 else label for i, label in enumerate(built.nodes["label"])]
    return Graph(built.nodes.assign(label=labels), built.adjacency, built.prompt_tokens, built.metadata)


# -- by columns --------------------------------------------------------------------------------------------------------


def test_criteria_are_met_together(graph: Graph) -> None:
    nodes = graph.nodes
    late = (nodes["kind"] == "feature") & (nodes["layer"] >= 2) & (nodes["pos"] == 1)
    assert graph.select(kind="feature", layer=(2, None), pos=1).ids == nodes.index[late].tolist()
    assert len(graph.select()) == len(nodes)


def test_numbers_are_met_by_values_sets_pairs_and_slices(graph: Graph) -> None:
    layer, influence = graph.nodes["layer"], graph.nodes["influence"]
    expected = {
        1: layer == 1,
        (1, 3): (layer >= 1) & (layer <= 3),
        (None, 1): layer <= 1,
        (2, None): layer >= 2,
        (None, None): layer == layer,
    }
    for criterion, mask in expected.items():
        assert graph.select(layer=criterion).mask.tolist() == mask.tolist(), criterion
    for several in ([0, 2], {0, 2}, frozenset([0, 2]), range(0, 3, 2)):
        assert graph.select(layer=several).mask.tolist() == layer.isin([0, 2]).tolist()
    assert graph.select(layer=slice(1, 3)).mask.tolist() == layer.isin([1, 2]).tolist()
    assert graph.select(layer=slice(2, None)).mask.tolist() == (layer >= 2).tolist()
    assert graph.select(influence=(0.05, None)).mask.tolist() == (influence >= 0.05).tolist()
    assert graph.select(layer=[]).ids == []


def test_positions_below_0_are_counted_from_the_end(graph: Graph) -> None:
    n, pos = len(graph.prompt_tokens), graph.nodes["pos"]
    assert graph.select(pos=-1).mask.tolist() == (pos == n - 1).tolist()
    assert graph.select(pos=[0, -1]).mask.tolist() == pos.isin([0, n - 1]).tolist()
    assert graph.select(pos=slice(-2, None)).mask.tolist() == graph.select(pos=(-2, None)).mask.tolist()
    assert graph.select(pos=(-2, None)).mask.tolist() == (pos >= n - 2).tolist()
    with pytest.raises(AttrGraphError, match=f"the prompt has {n} positions; expected -{n} or more"):
        graph.select(pos=-n - 1)


def test_text_is_met_exactly_or_by_search(graph: Graph) -> None:
    labels = graph.nodes["label"]
    assert graph.select(label="say feature 0").mask.tolist() == (labels == "say feature 0").tolist()
    assert graph.select(label="say").ids == []
    assert graph.select(label=re.compile("^say")).mask.tolist() == labels.str.startswith("say").tolist()
    either = graph.select(label=[re.compile("^say"), "bias 99", "feature 1"])
    assert either.mask.tolist() == (labels.str.startswith("say") | (labels == "feature 1")).tolist()
    assert graph.select(kind={"error", "logit"}).mask.tolist() == graph.nodes["kind"].isin(["error", "logit"]).tolist()


# -- by expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "kind == 'feature' and layer > 1 and influence > 0.01",
        "kind == 'feature' or kind == 'logit' and pos == 0",
        "(kind == 'feature' or kind == 'logit') and pos == 0",
        "not kind == 'feature'",
        "0 <= layer < 3",
        "kind in ['error', 'embedding'] and layer not in [0, 1]",
        "layer in [-1, 2]",
        "influence * 2 + 0.1 > activation / 3 - 0.1",
        "-layer + 1 >= -pos",
        "label != token and node_id != 'B'",
        "activation / layer > 1",
        "layer == 1.0",
    ],
)
def test_expressions_mean_what_they_mean_to_pandas(expression: str, graph: Graph) -> None:
    with np.errstate(all="ignore"):
        expected = graph.nodes.query(expression, engine="python")
    assert graph.query(expression).ids == expected.index.tolist()
    assert graph.query(f"  {expression} ").nodes.equals(expected)


def test_odd_expressions_hold_as_they_say(graph: Graph) -> None:
    assert len(graph.query("layer in []")) == 0
    assert len(graph.query("layer * 0 + 1 > 0 / 5")) == len(graph.nodes)
    everything = graph.query("(layer + 2) / 0 > 5")  # infinite
    assert len(everything) == len(graph.nodes)
    assert len(graph.query("(layer + 9) * 9999999999999999999 > 0")) == len(graph.nodes)  # no overflow
    odd = "it's `x` @y # \\n"
    named = graph.replace(nodes=graph.nodes.assign(label=[odd.replace("\\n", "\n"), *graph.nodes["label"].iloc[1:]]))
    assert named.query(f'label == "{odd}"').ids == [graph.nodes.index[0]]


COLUMNS = st.sampled_from(["layer", "pos", "influence"])
NUMBERS = st.sampled_from(["layer", "pos", "influence", "2", "0.5", "-1", "(layer + pos)", "(pos * -2)"])
TEXTS = st.sampled_from(["kind", "label", "'feature'", '"logit"'])
COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def _compare(
    column: st.SearchStrategy[str], operand: st.SearchStrategy[str], comparison: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    sides = st.builds("{} {} {}".format, column, comparison, operand)
    return sides | st.builds("{} {} {}".format, operand, comparison, column)


CONDITIONS = st.recursive(
    _compare(COLUMNS, NUMBERS, COMPARISONS) | _compare(st.just("kind"), TEXTS, st.sampled_from(["==", "!="])),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("(not {})".format, inner)
    ),
    max_leaves=5,
)


@cache
def queried_graph() -> Graph:
    return Case(n_features=5, n_logits=2, n_layers=3, density=0.8, seed=0).build()


@settings(max_examples=100, deadline=None)
@given(CONDITIONS)
def test_any_allowed_expression_means_what_python_says_of_each_node(expression: str) -> None:
    graph = queried_graph()
    rows = graph.nodes.reset_index().to_dict("records")
    expected = [row["node_id"] for row in rows if eval(expression, {}, row)]  # texts of this file, not a user's
    assert graph.query(expression).ids == expected


# -- selections --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_selections_are_sets_in_the_order_of_the_graph(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    ids = graph.nodes.index.tolist()
    a, b = ([node for node in ids if data.draw(st.booleans())] for _ in range(2))
    ours = [graph.select(layer=[]) | _pick(graph, chosen) for chosen in (a, b)]
    pairs = [
        (ours[0] | ours[1], set(a) | set(b)),
        (ours[0] & ours[1], set(a) & set(b)),
        (ours[0] - ours[1], set(a) - set(b)),
        (ours[0] ^ ours[1], set(a) ^ set(b)),
        (~ours[0], set(ids) - set(a)),
    ]
    for found, expected in pairs:
        assert list(found) == found.ids == [node for node in ids if node in expected]
        assert len(found) == len(expected) and bool(found) == bool(expected)
        assert all((node in found) == (node in expected) for node in [*ids, "nobody"])
        assert found.nodes.equals(graph.nodes.loc[found.ids])
    assert (ours[0] == ours[1]) == (a == b)
    assert len({ours[0], _pick(graph, a)}) == 1


def _pick(graph: Graph, ids: list[str]) -> ag.Selection:
    return graph.neighborhood(ids, hops=0)


def test_subgraph_has_the_nodes_and_the_edges_among_them(graph: Graph) -> None:
    chosen = graph.select(layer=(0, None)) - graph.select(pos=0)
    small = chosen.subgraph()
    assert small.nodes.equals(chosen.nodes)
    expected = graph.to_networkx().subgraph(chosen.ids)
    assert dict(small.to_networkx().edges) == dict(expected.edges)
    inner = graph.without_bias()
    whole = {"nodes": len(inner.nodes), "edges": inner.adjacency.nnz}
    assert small.prompt_tokens == graph.prompt_tokens
    assert small.metadata == {**graph.metadata, "selected_from": whole}
    assert len(graph.select(layer=[]).subgraph().nodes) == 0


def test_selections_say_what_they_hold(graph: Graph) -> None:
    n_nodes = len(graph.nodes)
    assert repr(graph.select(kind=["embedding", "bias"])) == f"Selection(3 of {n_nodes} nodes: 2 embedding, 1 bias)"
    assert repr(graph.select(layer=99)) == f"Selection(0 of {n_nodes} nodes)"


# -- neighbors ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_neighbors_are_those_of_networkx(case: Case, data: st.DataObject) -> None:
    graph = case.build()
    links, ids = network_of(graph), graph.nodes.index.tolist()
    chosen = [node for node in ids if data.draw(st.booleans())]
    for method, one in (
        (graph.predecessors, lambda node: links.predecessors(node)),
        (graph.successors, lambda node: links.successors(node)),
        (graph.ancestors, lambda node: nx.ancestors(links, node)),
        (graph.descendants, lambda node: nx.descendants(links, node)),
    ):
        assert set(method(chosen)) == {other for node in chosen for other in one(node)}
        assert method(_pick(graph, chosen)) == method(chosen)
    assert graph.predecessors(ids[0]).ids == [node for node in ids if links.has_edge(node, ids[0])]


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.4, 1.0]), st.data())
def test_neighborhood_follows_strong_edges_both_ways(
    case: Case, hops: int, min_share: float, data: st.DataObject
) -> None:
    graph = case.build()
    ids, shares = graph.nodes.index.tolist(), dense_shares(graph)
    start = data.draw(st.sampled_from(ids))
    links = nx.from_numpy_array((shares > 0) & (shares >= min_share))
    near = nx.single_source_shortest_path_length(links, ids.index(start), cutoff=hops)
    assert graph.neighborhood(start, hops, min_share=min_share).ids == [ids[i] for i in sorted(near)]


def test_asking_a_graph_needs_no_torch(graph: Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "g.safetensors")
    questions = (
        "import sys, attrgraph as ag; g = ag.load_graph(sys.argv[1]); g.query('layer > 0').subgraph(); g.paths(); "
        "g.influence(signed=True); g.flow(); g.stats(); g.without([]); g.scores([]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", questions, str(tmp_path / "g.safetensors")], check=True)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os').system('touch RAN')", "a call is not allowed"),
        ("open('RAN', 'w') == 1", "a call is not allowed"),
        ("@open('RAN', 'w')", "is not an expression"),
        ("layer > @pd.compat.os.system('touch RAN')", "is not an expression"),
        ("label.str.len() > 3", "a call is not allowed"),
        ("label.str == 1", "an attribute is not allowed"),
        ("kind.__class__.__mro__ == 1", "an attribute is not allowed"),
        ("layer[0] == 1", "a subscript is not allowed"),
        ("(lambda: 1)() == 1", "a call is not allowed"),
        ("(lambda: 1) == 1", "a function is not allowed"),
        ("[x for x in (1,)] == 1", "ListComp is not allowed"),
        ("(layer := 3) == 3", "an assignment is not allowed"),
        ('f\'{open("RAN", "w")}\' == label', "a formatted text is not allowed"),
        ("(1 if layer else 2) == 1", "a choice is not allowed"),
        ("layer ** 9 > 1", "the operator Pow is not allowed"),
        ("layer % 2 == 1", "the operator Mod is not allowed"),
        ("layer // 2 == 1", "the operator FloorDiv is not allowed"),
        ("layer << 99 > 1", "the operator LShift is not allowed"),
        ("layer @ layer > 1", "the operator MatMult is not allowed"),
        ("(layer > 1) & (pos > 1)", "the operator BitAnd is not allowed"),
        ("~(layer > 1)", "the operator Invert is not allowed"),
        ("+layer > 1", "the operator UAdd is not allowed"),
        ("layer is 1", "the operator Is is not allowed"),
        ("layer = 1", "is not an expression"),
        ("import os", "is not an expression"),
        ("layer > 1; import os", "is not an expression"),
        ("`layer` > 1", "is not an expression"),
        ("'a' * 1000000000 == label", "is a text where a number is expected"),
        ("label * 1000000000 == 'a'", "is a text where a number is expected"),
        ("label + label == 'a'", "is a text where a number is expected"),
        ("layer > '1'", "is a text where a number is expected"),
        ("label == 1", "is a number where a text is expected"),
        ("layer and pos", "is a number where a truth is expected"),
        ("not layer", "is a number where a truth is expected"),
        ("(layer > 1) == (pos > 1)", "is not allowed"),
        ("layer in ['a']", "is a text where a number is expected"),
        ("layer in [pos]", "Name is not allowed"),
        ("layer in pos", "'pos' is no list"),
        ("'say' in label", r"graph\.select\(label=re\.compile"),
        ("layer in [x for x in (1,)]", "is no list"),
        ("layer in [*range(9)]", "Starred is not allowed"),
        ("[1, 2] == layer", "a list that is not after `in` is not allowed"),
        ("layer == True", "Constant is not allowed"),
        ("layer == None", "Constant is not allowed"),
        ("layer == b'1'", "Constant is not allowed"),
        ("layer == 1j", "Constant is not allowed"),
        ("layer == ...", "Constant is not allowed"),
        ("__builtins__ == 1", "'__builtins__' is no column; expected one of node_id, kind"),
        ("index == 1", "'index' is no column"),
        ("lable == 'x'", "'lable' is no column; .*; did you mean 'label'"),
        ("kind == logit", "quote a text: 'logit'"),
        ("kind == feature", "'feature' is a number where a text is expected; quote a text"),
        ("kind = 'x'", "write it as kind == 'feature' and layer > 3"),
        ("kind == 'featur'", "kind 'featur' does not exist; expected one of feature, .*; did you mean 'feature'"),
        ("kind in ['logit', 'tokens']", "kind 'tokens' does not exist"),
        ("node_id == '3/458@8'", "is written '3_458_8' in a graph"),
        ("ilevel_0 == 1", "'ilevel_0' is no column"),
        ("layer + 1", "is a number, not a condition"),
        ("label", "is a text, not a condition"),
        ("", "is not an expression"),
        ("1 < 2", "compares no column"),
        ("'a' == 'a' and layer > 1", "compares no column"),
        ("layer > 1 / 0", "division by zero"),
        ("layer in {1, 2}", "is no list"),
        ("\0", "is not an expression"),
        ("layer > 1e999 * 9" + "9" * 400, "is not an expression"),
        ("(" * 4000 + "1" + ")" * 4000, "is not an expression"),
        ("-" * 9000 + "1 > 0", "is not an expression"),
        ("not " * 2400 + "1 > 0", "is not an expression"),
        ("layer > 1 or " * 1000 + "layer > 1", "at most 10000"),
    ],
)
def test_expressions_that_could_do_more_are_refused_and_run_nothing(
    expression: str, message: str, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttrGraphError, match=message):
        graph.query(expression)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"layer": "3"}, "layer='3': expected a number"),
        ({"layer": (1, 2, 3)}, "a pair"),
        ({"layer": slice(0, 4, 2)}, "a slice without a step"),
        ({"layer": ["a"]}, "expected a number"),
        ({"label": 3}, "label=3: expected text"),
        ({"label": [3]}, "expected text"),
        ({"kind": "features"}, "kind 'features' does not exist; expected one of .*did you mean 'feature'"),
        ({"kind": ["feature", "x"]}, "kind 'x' does not exist"),
    ],
)
def test_criteria_that_are_none_are_refused(criteria: dict, message: str, graph: Graph) -> None:
    with pytest.raises(AttrGraphError, match=message):
        graph.select(**criteria)


@pytest.mark.refusal
def test_nodes_that_are_not_there_are_refused_with_those_that_were_meant(graph: Graph) -> None:
    wrong, right = "E_5_9", "E_5_0"
    for ask in (graph.predecessors, graph.ancestors, graph.neighborhood, graph.influence, graph.without, graph.scores):
        with pytest.raises(AttrGraphError, match=f"no node '{wrong}'; did you mean .*{right}"):
            ask([right, wrong])
    with pytest.raises(AttrGraphError, match=r"no node '\?'; ids are the index of graph\.nodes"):
        graph.successors("?")
    with pytest.raises(AttrGraphError, match="hops is -1"):
        graph.neighborhood(right, -1)
    with pytest.raises(AttrGraphError, match=r"min_share is 1\.5"):
        graph.neighborhood(right, min_share=1.5)


@pytest.mark.refusal
def test_selections_of_two_graphs_do_not_mix(graph: Graph) -> None:
    ours, theirs = graph.select(pos=0), graph.without_bias().select(pos=0)
    for mix in (lambda: ours | theirs, lambda: ours - theirs, lambda: graph.ancestors(theirs)):
        with pytest.raises(AttrGraphError, match="of another graph"):
            mix()
    assert ours != theirs
    with pytest.raises(AttrGraphError, match="combines with a selection; got list"):
        ours | ["E_5_0"]


@pytest.mark.refusal
@pytest.mark.parametrize("ends", [(0, 0), (0, 1), (3, 0)], ids=["a loop", "a cycle", "downward"])
def test_ancestors_in_a_graph_that_is_not_in_layer_order_are_refused(ends: tuple[int, int]) -> None:
    graph = six_nodes()
    edges = graph.adjacency.tolil()
    edges[ends] = edges[ends[::-1]] = 1.0
    cyclic = replace(graph, adjacency=sparse.csr_array(edges))
    for ask in (cyclic.ancestors, cyclic.descendants):
        with pytest.raises(AttrGraphError, match="does not lead from a lower to a higher layer"):
            ask("0_1_0")


@pytest.mark.refusal
def test_half_a_surrogate_pair_is_the_id_of_no_node(graph: Graph) -> None:
    for ask in (graph.ancestors, graph.influence, graph.paths, graph.without, graph.scores):
        with pytest.raises(AttrGraphError, match=r"the graph has no node '\\udcff'"):
            ask("\udcff")  # as the command line hands on a byte that is no text
    with pytest.raises(AttrGraphError, match=r"group '\\ud800': expected text for its name"):
        graph.group({"\ud800": graph.select(kind="feature").ids})
    assert len(graph.select(token="\ud800")) == 0 and len(graph.select(pos=10**400)) == 0
