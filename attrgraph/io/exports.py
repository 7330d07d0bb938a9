"""Graphs in every format, by the file's ending.

GraphML, GEXF for Gephi, JSON for Cytoscape and the tables leave out this package's bias node, as JSON files do; bias
nodes of other tools stay. Nodes have the columns of `graph.nodes`, edges `source`, `target`, `weight` and `share` (of
what the target reads, the sum of |weight| into it). Of a graph that is not exact, networks have a note, GEXF as its
description, and tables a column `is_exact`, which is False. No value is null: a node without a label is labelled by its
id.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from html import escape
from io import BytesIO
from math import isfinite
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pandas as pd

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import GRAPH_FORMATS, NO_GRAPHVIZ, PICTURE_ENDINGS, PROFILES, check_writable, write_whole
from attrgraph.influence.influence import row_shares
from attrgraph.io.json_writing import check_page, check_profile, write_json
from attrgraph.io.native import save_graph
from attrgraph.io.networkx_graph import to_networkx, without_own_bias
from attrgraph.io.safe_text import NOT_IN_CSV, NOT_IN_XML, SURROGATE, Cleaner
from attrgraph.schema import COLUMNS, inexact_note, unique_names
from attrgraph.viz import MOST_TOKENS_DRAWN
from attrgraph.viz.draw import draw_graph
from attrgraph.viz.layout import lay_out
from attrgraph.viz.scene import make_scene

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

_TABLES, _NETWORKS = (".csv", ".parquet"), (".graphml", ".gexf", ".cyjs")
# every ending in which a graph can be written
ENDINGS = (*GRAPH_FORMATS, *PICTURE_ENDINGS, *_NETWORKS, *_TABLES)
# red, green, blue of edges: Okabe and Ito's blue and vermilion; and of nodes
_POSITIVE, _NEGATIVE, _NODE = (0, 114, 178), (213, 94, 0), (230, 159, 0)
# in the units of Gephi's canvas: sizes of nodes with no and with all influence, and the thickest edge
_SMALLEST, _LARGEST, _THICKEST = 8.0, 40.0, 10.0


@checked
def export_graph(
    graph: "Graph",
    path: str | Path,
    *,
    profile: str = PROFILES[0],
    scan: str | None = None,
    source_set: str | None = None,
    overwrite: bool = True,
) -> list[str]:
    """Write the graph in the format of the file's ending.

    `.safetensors` keeps everything; `.json` is for other tools' viewers, by profile; `.svg`, `.png`, `.pdf` and `.dot`
    are pictures; `.graphml`; `.gexf`, with colours, sizes and places for Gephi; `.cyjs`, with places for Cytoscape;
    `.csv` and `.parquet`: a table of edges, and for NAME.csv the nodes in NAME.nodes.csv. Settings of `.json` are as in
    `Graph.to_json`.

    Characters that a format cannot hold, in XML and CSV control characters, are replaced: a control character by its
    picture (U+2400 and following), another by U+FFFD. Ids that are then alike get a number. In CSV, text that a
    spreadsheet would compute has an apostrophe before it. A symbolic link stays: the file that it names is written.

    Returns:
        What had to be changed for readers of the format, one sentence each.

    Raises:
        GraphFileError: as `check_output`, or the graph cannot be written in this format.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune()
        >>> ag.export_graph(graph, "texas.gexf")  # doctest: +SKIP
        []
    """
    path = Path(path)
    check_output(path, profile=profile, overwrite=overwrite)
    if path.suffix == ".safetensors":
        save_graph(graph, path, overwrite=overwrite)
        return []
    if path.suffix == ".json":
        return write_json(graph, path, profile, scan=scan, source_set=source_set, overwrite=overwrite)
    if path.suffix in PICTURE_ENDINGS:
        draw_graph(graph, path, overwrite=overwrite)
        return []
    forbidden = {".cyjs": SURROGATE, ".parquet": SURROGATE, ".csv": NOT_IN_CSV}.get(path.suffix, NOT_IN_XML)
    clean = Cleaner(forbidden, for_spreadsheets=path.suffix == ".csv")
    graph = _with_clean_nodes(without_own_bias(graph), clean)
    if path.suffix in _TABLES:
        # the file that was asked for comes last: when it is there, all is there
        for file, table in zip(files_of(path)[::-1], (graph.nodes.reset_index(), _edges(graph)), strict=True):
            table = table.assign(is_exact=False) if inexact_note(graph.metadata) else table
            write_whole(file, partial(_write_table, table), overwrite=overwrite)
    else:
        writers = {".graphml": _graphml, ".gexf": _gexf, ".cyjs": _cytoscape}
        data = writers[path.suffix](_network(graph, clean), graph)
        write_whole(path, lambda temporary: temporary.write_bytes(data), overwrite=overwrite)
    return [f"{clean.n_replaced} characters replaced that the format cannot hold"] if clean.n_replaced else []


def check_output(path: Path, *, profile: str = PROFILES[0], overwrite: bool) -> None:
    """Raise if a graph could not be written there; to be asked before long work.

    Raises:
        GraphFileError: an unknown ending or profile, a program or package that is missing, a file that exists and must
            not be overwritten, or a folder that cannot be written to, or whose list of graphs is damaged.
    """
    check_format(path.suffix, profile=profile, where=f"{path}: ")
    for file in files_of(path):
        check_writable(file, overwrite=overwrite)
    if path.suffix == ".json":
        check_page(path, profile)


def check_format(ending: str, *, profile: str, where: str = "") -> None:
    """Raise GraphFileError for an ending or a JSON profile in which no graph can be written here."""
    check_profile(profile)
    if ending not in ENDINGS:
        raise GraphFileError(f"{where}unknown ending {ending!r}; expected one of {', '.join(ENDINGS)}.")
    if ending in PICTURE_ENDINGS and ending != ".dot" and which("dot") is None:
        raise GraphFileError(f"{where}{NO_GRAPHVIZ}")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that writing a graph to this name makes."""
    return (path, path.with_suffix(f".nodes{path.suffix}")) if path.suffix in _TABLES else (path,)


def _with_clean_nodes(graph: "Graph", clean: Cleaner) -> "Graph":
    texts = [name for name, kind in COLUMNS.items() if kind == "str"]
    nodes = graph.nodes.assign(**{name: [clean(str(text)) for text in graph.nodes[name]] for name in texts})
    ids = pd.Index(unique_names(clean(str(name)) for name in nodes.index), name="node_id", dtype="str")
    return graph.replace(nodes=nodes.set_axis(ids))


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


def _network(graph: "Graph", clean: Cleaner) -> Any:
    """As `Graph.to_networkx`, with shares, clean text, a label for every node, and without numbers that are unknown."""
    network: Any = to_networkx(graph)  # the stubs know no attributes
    network.graph["prompt"] = clean(network.graph["prompt"])
    for name, values in network.nodes(data=True):
        values["label"] = values["label"] or name
        for key in [key for key, value in values.items() if isinstance(value, float) and not isfinite(value)]:
            del values[key]
    for edge in _edges(graph).itertuples():
        network.edges[edge.source, edge.target]["share"] = edge.share
    return network


def _graphml(network: Any, graph: "Graph") -> bytes:
    import networkx as nx

    buffer = BytesIO()
    nx.write_graphml(network, buffer)
    return buffer.getvalue()


def _gexf(network: Any, graph: "Graph") -> bytes:
    import networkx as nx

    nodes = network.nodes(data=True)
    largest = max((values["influence"] for _, values in nodes), default=0.0) or 1.0
    for (_, values), (x, y) in zip(nodes, _places(graph), strict=True):
        amount = values["influence"] / largest
        values["viz"] = {
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
    data = re.sub(rb' lastmodifieddate="[^"]*"', b"", buffer.getvalue(), count=1)
    note = f"<description>{escape(network.graph.get('note', ''))}</description></meta>".encode()
    return data.replace(b"</meta>", note, 1) if "note" in network.graph else data


def _color(color: tuple[int, int, int], amount: float) -> dict[str, Any]:
    """From white to the colour."""
    red, green, blue = (round(255 - amount * (255 - channel)) for channel in color)
    return {"r": red, "g": green, "b": blue, "a": 1.0}


def _cytoscape(network: Any, graph: "Graph") -> bytes:
    """What Cytoscape and Cytoscape.js open; y runs downward there."""
    nodes = [
        {"data": {"id": name, "name": values["label"], "value": name, **values}, "position": {"x": x, "y": 0.0 - y}}
        for (name, values), (x, y) in zip(network.nodes(data=True), _places(graph), strict=True)
    ]
    # ids of nodes and edges must differ
    ids = unique_names([*network, *(f"{source} -> {target}" for source, target in network.edges)])[len(network) :]
    edges = [
        {"data": {"id": edge_id, "source": source, "target": target, **values}}
        for edge_id, (source, target, values) in zip(ids, network.edges(data=True), strict=True)
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
    """Where a picture has the nodes, and where it would have bias nodes of other tools, which pictures leave out.

    Of a prompt that is too long to draw, tokens that are no nodes take no room.
    """
    kinds = graph.nodes["kind"].replace("bias", "unknown")
    tokens = graph.prompt_tokens if len(graph.prompt_tokens) <= MOST_TOKENS_DRAWN else []
    scene = make_scene(graph.replace(nodes=graph.nodes.assign(kind=kinds), prompt_tokens=tokens))
    for box, place in zip(scene.boxes, lay_out(scene, graph.n_layers).places, strict=True):
        if box.kind != "token":
            yield round(place.x, 2), round(place.y, 2)
