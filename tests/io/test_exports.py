"""Graphs in other programs' formats, each read back by another reader: the same nodes, the same weights, no nulls."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import COLUMNS

Build = Callable[..., LanguageModel]
ENDINGS = ("graphml", "gexf", "cyjs", "csv", "parquet")
VIZ = "{http://www.gexf.net/1.2draft/viz}"


@pytest.fixture
def graph(traced_model: Build, prompt: list[int]) -> ag.Graph:
    return ag.trace(traced_model(), prompt).prune(0.5, 0.9)


def read_network(path: Path) -> "nx.DiGraph[str]":
    """As other programs read it: node ids, and attributes of nodes and edges."""
    match path.suffix:
        case ".graphml":
            return nx.read_graphml(path)
        case ".gexf":
            return nx.read_gexf(path)
        case ".cyjs":
            return nx.cytoscape_graph(json.loads(path.read_text(encoding="utf-8")))
        case ".csv":
            floats = [*(name for name, kind in COLUMNS.items() if kind == "float64"), "weight", "share"]
            # pandas' own reading of numbers was not exact in every version
            nodes, edges = (
                pd.read_csv(name, keep_default_na=False, converters=dict.fromkeys(floats, float))
                for name in (path.with_suffix(".nodes.csv"), path)
            )
        case _:
            nodes, edges = (pd.read_parquet(name) for name in (path.with_suffix(".nodes.parquet"), path))
    out: nx.DiGraph[str] = nx.DiGraph()
    for row in nodes.to_dict("records"):
        out.add_node(row.pop("node_id"), **row)
    for row in edges.to_dict("records"):
        out.add_edge(row.pop("source"), row.pop("target"), **row)
    return out


@pytest.mark.parametrize("ending", ENDINGS)
def test_nodes_and_weights_come_back_equal_and_none_is_null(ending: str, graph: ag.Graph, tmp_path: Path) -> None:
    path = tmp_path / f"g.{ending}"
    assert ag.export_graph(graph, path) == []
    again = read_network(path)
    assert list(again) == list(graph.nodes.index)
    for name, row in graph.nodes.iterrows():
        there = again.nodes[name]
        for column in COLUMNS:
            assert there[column] == row[column], (name, column)
            assert type(there[column]) is {"str": str, "int64": int, "float64": float}[COLUMNS[column]], column
    dense, ids = graph.adjacency.toarray(), list(graph.nodes.index)
    weights = np.zeros(dense.shape)
    shares = np.zeros(dense.shape)
    for source, target, edge in again.edges(data=True):
        weights[ids.index(target), ids.index(source)] = edge["weight"]
        shares[ids.index(target), ids.index(source)] = edge["share"]
    assert np.array_equal(weights, dense.astype(np.float64))  # exact: text holds every digit
    sums = shares.sum(1)[np.abs(dense).sum(1) > 0]
    np.testing.assert_allclose(sums, 1.0, rtol=1e-12)  # float64 sums of some dozen numbers
    assert ((shares > 0) == (dense != 0)).all()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_graph_gives_the_same_bytes(ending: str, graph: ag.Graph, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ag.export_graph(graph, tmp_path / f"{name}.{ending}")
    files = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("a."))
    tables = {f"a.nodes.{ending}"} if ending in ("csv", "parquet") else set()
    assert set(files) == {f"a.{ending}", *tables}
    for name in files:
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("a.", "b.", 1)).read_bytes()
    assert b"lastmodified" not in (tmp_path / f"a.{ending}").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_bias_node_is_left_out(ending: str, traced_model: Build, prompt: list[int], tmp_path: Path) -> None:
    whole = ag.trace(traced_model(), prompt[:4])
    ag.export_graph(whole, tmp_path / f"g.{ending}")
    again = read_network(tmp_path / f"g.{ending}")
    assert "B" in whole.nodes.index and "B" not in again
    assert again.number_of_nodes() == len(whole.nodes) - 1


# label, and what files that cannot hold it have instead, with how many characters replaced
HOSTILE = [
    ('a"b,c;\n\t<x> & é 東京 😀', 'a"b,c;\n\t<x> & é 東京 😀', 0),
    ("x\x00\x1b[31m", "x␀␛[31m", 2),
    ("a\rb", "a␍b", 1),
    ("\uffff", "\ufffd", 1),
]


@pytest.mark.parametrize(("label", "in_xml", "n_replaced"), HOSTILE)
@pytest.mark.parametrize("ending", ENDINGS)
def test_hostile_text_comes_back_or_is_replaced_and_counted(
    ending: str, label: str, in_xml: str, n_replaced: int, graph: ag.Graph, tmp_path: Path
) -> None:
    nodes = graph.nodes.assign(label=[label, *graph.nodes["label"].iloc[1:]])
    changed = ag.Graph(nodes, graph.adjacency, graph.prompt_tokens, graph.metadata)
    repairs = ag.export_graph(changed, tmp_path / f"g.{ending}")
    is_text = ending in ("graphml", "gexf", "csv")
    n = n_replaced if is_text else 0
    assert repairs == ([f"{n} characters replaced that the format cannot hold"] if n else [])
    again = read_network(tmp_path / f"g.{ending}")
    assert again.nodes[nodes.index[0]]["label"] == (in_xml if is_text else label)


# ids that are alike once what a format cannot hold is replaced, or once an edge is named by its ends
ALIKE = [
    "\x00",
    "\u2400",
    "a\rb",
    "a\u240db",
    "\ufffe",
    "\ufffd",
    "=1",
    "'=1",
    "x",
    "x -> y",
    "y -> z",
    "z",
    "a-2",
    "",
    " ",
]
FORMULAS = ["=1+1", "+1", "-1", "@x", "\t=1", "\n=1", "\uff1d1"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_ids_stay_distinct_and_every_text_can_be_read(ending: str, graph: ag.Graph, tmp_path: Path) -> None:
    odd = [*FORMULAS, "]]>", "<b>", "\u202e", "\x85", "NA", "\x1b[2J"]
    ids = [*ALIKE, *graph.nodes.index[len(ALIKE) :]]
    token = [odd[i % len(odd)] for i in range(len(ids))]
    nodes = graph.nodes.assign(token=token, label=token).set_axis(pd.Index(ids, name="node_id", dtype="str"))
    ag.export_graph(graph.replace(nodes=nodes), tmp_path / f"g.{ending}")
    again = read_network(tmp_path / f"g.{ending}")
    assert (again.number_of_nodes(), again.number_of_edges()) == (len(nodes), graph.adjacency.nnz)
    if ending == "csv":
        assert {f"'{text}" for text in FORMULAS} <= {data["token"] for _, data in again.nodes(data=True)}
        assert "\x1b" not in (tmp_path / "g.nodes.csv").read_text(encoding="utf-8")
        assert any(data["weight"] < 0 for _, _, data in again.edges(data=True))  # numbers stay numbers
    if ending == "cyjs":
        elements = json.loads((tmp_path / "g.cyjs").read_text(encoding="utf-8"))["elements"]
        names = [one["data"]["id"] for kind in ("nodes", "edges") for one in elements[kind]]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("ending", ["graphml", "gexf", "cyjs"])
def test_unlabelled_nodes_show_their_ids_and_the_prompt_may_hold_anything(
    ending: str, graph: ag.Graph, tmp_path: Path
) -> None:
    metadata = {**graph.metadata, "prompt": "half a pair: \ud800"}
    bare = ag.Graph(graph.nodes.assign(label=""), graph.adjacency, graph.prompt_tokens, metadata)
    path = tmp_path / f"g.{ending}"
    assert ag.export_graph(bare, path) == ["1 characters replaced that the format cannot hold"]
    assert all(data["label"] == name for name, data in read_network(path).nodes(data=True))


def test_gephi_gets_colours_sizes_and_places_as_in_pictures(graph: ag.Graph, tmp_path: Path) -> None:
    ag.export_graph(graph, tmp_path / "g.gexf")
    ag.export_graph(graph, tmp_path / "g.cyjs")
    tree = ElementTree.parse(tmp_path / "g.gexf")
    nodes = [element for element in tree.iter() if element.tag.endswith("}node")]
    heights, sizes = dict[str, float](), dict[str, float]()
    for node in nodes:
        name = str(node.get("id"))
        heights[name] = float(node.find(f"{VIZ}position").get("y"))
        sizes[name] = float(node.find(f"{VIZ}size").get("value"))
    layers, influence = graph.nodes["layer"], graph.nodes["influence"]
    order = layers.sort_values(kind="stable").index
    for below, above in pairwise(order):
        assert layers[below] == layers[above] or heights[below] < heights[above]
    assert max(sizes, key=sizes.__getitem__) == influence.idxmax()
    colours = {
        tuple(edge.find(f"{VIZ}color").get(channel) for channel in "rgb")
        for edge in tree.iter()
        if edge.tag.endswith("}edge")
    }
    assert colours == {("0", "114", "178"), ("213", "94", "0")}
    document = json.loads((tmp_path / "g.cyjs").read_text(encoding="utf-8"))
    for node in document["elements"]["nodes"]:
        assert node["position"]["y"] == -heights[node["data"]["id"]]  # it runs downward there
    assert len({edge["data"]["id"] for edge in document["elements"]["edges"]}) == graph.adjacency.nnz


def test_networkx_has_the_prompt_as_it_was_written() -> None:
    prompt = "in the state containing dallas the capital is"
    graph = ag.trace(ag.load_model("demo"), prompt).prune(0.5)
    assert graph.to_networkx().graph == {"prompt": prompt, "n_layers": 4}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_graph_of_one_node_or_none_is_written(ending: str, graph: ag.Graph, tmp_path: Path) -> None:
    for n in (1, 0):
        kept = np.arange(len(graph.nodes)) < n
        part = ag.Graph(graph.nodes[kept], graph.adjacency[kept][:, kept], graph.prompt_tokens, graph.metadata)
        ag.export_graph(part, tmp_path / f"{n}.{ending}")
        assert read_network(tmp_path / f"{n}.{ending}").number_of_nodes() == n


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_exports_that_cannot_be_written_are_refused(graph: ag.Graph, tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match=r"unknown ending '\.xlsx'; expected one of \.json, \.safetensors"):
        ag.export_graph(graph, tmp_path / "g.xlsx")
    (tmp_path / "g.nodes.csv").write_text("mine")
    with pytest.raises(GraphFileError, match=r"g\.nodes\.csv: exists"):
        ag.export_graph(graph, tmp_path / "g.csv", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["g.nodes.csv"]
    assert (tmp_path / "g.nodes.csv").read_text() == "mine"
    ag.export_graph(graph, tmp_path / "g.csv")
