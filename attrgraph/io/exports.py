"""Graphs for other programs: GraphML, GEXF for Gephi, JSON for Cytoscape, tables as CSV and Parquet.

All without this package's bias node, as in JSON files; bias nodes of other tools stay. Nodes have the columns of
`graph.nodes`, edges `source`, `target`, `weight` and `share` (of what the target reads, the sum of |weight| into it).
No value is null: where a program would show a node without a label, its id stands in for it.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd
from scipy import sparse

from attrgraph.errors import GraphFileError
from attrgraph.files import check_writable, write_whole
from attrgraph.influence.influence import row_shares
from attrgraph.schema import BIAS_ID, COLUMNS
from attrgraph.viz.layout import lay_out
from attrgraph.viz.scene import make_scene

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

EXPORT_ENDINGS = (".graphml", ".gexf", ".cyjs", ".csv", ".parquet")
_TABLES = (".csv", ".parquet")
# What XML 1.0 does not allow, and the carriage return, which its readers turn into a line feed; readers of CSV stumble
# over the same. Other formats hold all but halves of surrogate pairs, which no encoding has.
_NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# red, green, blue of edges: Okabe and Ito's blue and vermilion; and of nodes
_POSITIVE, _NEGATIVE, _NODE = (0, 114, 178), (213, 94, 0), (230, 159, 0)
# in the units of Gephi's canvas: sizes of nodes with no and with all influence, and the thickest edge
_SMALLEST, _LARGEST, _THICKEST = 8.0, 40.0, 10.0


def export_graph(graph: "Graph", path: str | Path, *, overwrite: bool = False) -> int:
    """Write the graph for another program, in the format of the file's ending.

    `.graphml`; `.gexf`, with colours, sizes and places for Gephi; `.cyjs`, with places for Cytoscape; `.csv` and
    `.parquet`: a table of edges, and beside it, for NAME.csv, the nodes in NAME.nodes.csv.

    Characters that a format cannot hold, in XML and CSV control characters, are replaced: a control character by its
    picture (U+2400 and following), another by U+FFFD.

    Returns:
        How many characters were replaced.

    Raises:
        GraphFileError: an unknown ending, Parquet without pyarrow, or a file that exists or cannot be written.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune()
        >>> ag.export_graph(graph, "texas.gexf")  # doctest: +SKIP
        0
    """
    path = Path(path)
    if path.suffix not in EXPORT_ENDINGS:
        raise GraphFileError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(EXPORT_ENDINGS)}.")
    if path.suffix == ".parquet":
        check_parquet(f"{path}: ")
    for file in export_files(path):
        check_writable(file, overwrite=overwrite)
    graph = without_own_bias(graph)
    cleaner = _Cleaner(_SURROGATE if path.suffix in (".cyjs", ".parquet") else _NOT_IN_XML)
    if path.suffix in _TABLES:
        # the file that was asked for comes last: when it is there, all is there
        for file, table in zip(export_files(path)[::-1], (_nodes(graph, cleaner), _edges(graph)), strict=True):
            write_whole(file, partial(_write_table, table), overwrite=overwrite)
        return cleaner.n_replaced
    network = _network(graph, cleaner)
    match path.suffix:
        case ".graphml":
            data = _graphml(network)
        case ".gexf":
            data = _gexf(network, graph)
        case _:
            data = _cytoscape(network, graph)
    write_whole(path, lambda temporary: temporary.write_bytes(data), overwrite=overwrite)
    return cleaner.n_replaced


def export_files(path: Path) -> tuple[Path, ...]:
    """The files that are written for this name."""
    return (path, path.with_suffix(f".nodes{path.suffix}")) if path.suffix in _TABLES else (path,)


def check_parquet(where: str) -> None:
    """Raise GraphFileError, with this before the message, if no Parquet files can be written."""
    if find_spec("pyarrow") is None:
        raise GraphFileError(f"{where}Parquet needs pyarrow; install it with: pip install pyarrow. CSV needs nothing.")


def without_own_bias(graph: "Graph") -> "Graph":
    """Without the node for all that is constant; other tools' bias nodes stand for single biases."""
    kept = graph.nodes.index != BIAS_ID
    adjacency = sparse.csr_array(graph.adjacency[kept][:, kept])
    return graph.replace(nodes=graph.nodes[kept], adjacency=adjacency)


class _Cleaner:
    """Replaces characters, and counts them."""

    def __init__(self, forbidden: re.Pattern[str]) -> None:
        self._forbidden = forbidden
        self.n_replaced = 0

    def __call__(self, text: str) -> str:
        out, n = self._forbidden.subn(lambda found: _replacement(found.group()), text)
        self.n_replaced += n
        return out


def _replacement(char: str) -> str:
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    return "\ufffd"


def _nodes(graph: "Graph", clean: _Cleaner) -> pd.DataFrame:
    nodes = graph.nodes.reset_index()
    for column in ("node_id", *(name for name, kind in COLUMNS.items() if kind == "str")):
        nodes[column] = [clean(str(text)) for text in nodes[column]]
    return nodes


def _edges(graph: "Graph") -> pd.DataFrame:
    """In the order of targets, then of sources."""
    ids = graph.nodes.index.to_numpy()
    edges, shares = graph.adjacency.tocoo(), row_shares(graph.adjacency).tocoo()
    # float64 holds every weight exactly, and its text reads back as the same number
    columns = {"weight": edges.data.astype("float64"), "share": shares.data}
    return pd.DataFrame({"source": ids[edges.col], "target": ids[edges.row], **columns})


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False, engine="pyarrow")
    else:
        table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def _network(graph: "Graph", clean: _Cleaner) -> "nx.DiGraph[str]":
    """As `Graph.to_networkx`, with shares, plain Python values, clean text, and a label for every node."""
    out: nx.DiGraph[str] = nx.DiGraph(
        prompt=clean(str(graph.metadata.get("prompt") or "".join(graph.prompt_tokens))), n_layers=graph.n_layers
    )
    nodes = _nodes(graph, clean)
    nodes["label"] = [label or node for label, node in zip(nodes["label"], nodes["node_id"], strict=True)]
    for row in nodes.to_dict("records"):
        # a number that is not known is left out
        known = {key: value for key, value in row.items() if not isinstance(value, float) or isfinite(value)}
        out.add_node(known.pop("node_id"), **known)
    for edge in _edges(graph).to_dict("records"):
        out.add_edge(edge.pop("source"), edge.pop("target"), **edge)
    return out


def _graphml(network: "nx.DiGraph[str]") -> bytes:
    buffer = BytesIO()
    nx.write_graphml(network, buffer)
    return buffer.getvalue()


def _gexf(network: "nx.DiGraph[str]", graph: "Graph") -> bytes:
    attributes: Any = network.nodes  # the stubs know no attributes
    largest = max((attributes[name]["influence"] for name in network), default=0.0) or 1.0
    for name, (x, y) in zip(network, _places(graph), strict=True):
        amount = attributes[name]["influence"] / largest
        attributes[name]["viz"] = {
            "color": _color(_NODE, 0.2 + 0.8 * amount),
            "size": _SMALLEST + amount * (_LARGEST - _SMALLEST),
            "position": {"x": x, "y": y, "z": 0.0},
        }
    for _, _, edge in network.edges(data=True):
        color = _color(_POSITIVE if edge["weight"] > 0 else _NEGATIVE, 1.0)
        edge["viz"] = {"color": color, "thickness": max(_THICKEST * edge["share"], 0.2)}
    buffer = BytesIO()
    nx.write_gexf(network, buffer)
    # the day of writing; the same graph gives the same bytes
    return re.sub(rb' lastmodifieddate="[^"]*"', b"", buffer.getvalue(), count=1)


def _color(color: tuple[int, int, int], amount: float) -> dict[str, Any]:
    """From white to the colour."""
    red, green, blue = (round(255 - amount * (255 - channel)) for channel in color)
    return {"r": red, "g": green, "b": blue, "a": 1.0}


def _cytoscape(network: "nx.DiGraph[str]", graph: "Graph") -> bytes:
    """What Cytoscape and Cytoscape.js open; y runs downward there."""
    attributes: Any = network.nodes  # the stubs know no attributes
    nodes = [
        {
            "data": {"id": name, "name": attributes[name]["label"], "value": name, **attributes[name]},
            "position": {"x": x, "y": 0.0 - y},
        }
        for name, (x, y) in zip(network, _places(graph), strict=True)
    ]
    edges = [
        {"data": {"id": f"{source} -> {target}", "source": source, "target": target, **edge}}
        for source, target, edge in network.edges(data=True)
    ]
    document = {
        "format_version": "1.0",
        "generated_by": "attrgraph",
        "target_cytoscapejs_version": "~2.1",
        "directed": True,
        "multigraph": False,
        "data": {"name": network.graph["prompt"], **network.graph},
        "elements": {"nodes": nodes, "edges": edges},
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def _places(graph: "Graph") -> Iterator[tuple[float, float]]:
    """Where a picture has the nodes."""
    scene = make_scene(graph)
    layout = lay_out(scene, graph.n_layers)
    for box, place in zip(scene.boxes, layout.places, strict=True):
        if box.kind != "token":
            yield round(place.x, 2), round(place.y, 2)
