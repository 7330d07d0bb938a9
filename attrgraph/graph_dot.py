"""A graph as Graphviz DOT text, and the picture that Graphviz makes of it."""

from pathlib import Path

import numpy as np

from attrgraph.errors import GraphFileError
from attrgraph.formats import NO_GRAPHVIZ, PICTURE_FORMATS
from attrgraph.graph import Graph
from attrgraph.influence import row_shares
from attrgraph.output import write_whole

_SHAPES = {"feature": "ellipse", "error": "diamond", "embedding": "box", "logit": "box", "bias": "point"}
_FILLS = {"feature": "#eef3fb", "error": "#eeeeee", "embedding": "#fdf3dc", "logit": "#dff2e1", "bias": "#ffffff"}
_POSITIVE, _NEGATIVE = "#2060b0", "#c03020"
# width in points of an edge that is all of its target's input
_WIDEST = 6.0


def to_dot(graph: Graph) -> str:
    """DOT text: tokens at the bottom, layers upward as ranks. The same graph gives the same text.

    A positive edge is blue and solid, a negative one red and dashed; its width is its share of its target's input.
    """
    lines = [
        "digraph attribution {",
        "  rankdir=BT; ranksep=0.6; nodesep=0.15; newrank=true;",
        '  node [fontname="Helvetica", fontsize=10, style=filled, color="#888888"];',
        "  edge [arrowsize=0.5];",
        f"  labelloc=t; fontname=Helvetica; fontsize=11; label={_quote(_caption(graph))};",
    ]
    nodes = graph.nodes.reset_index()
    for layer, members in nodes.groupby("layer", sort=True):
        members = members.sort_values(["pos", "kind", "feature"], kind="stable")
        lines.append(
            f"  subgraph layer_{int(layer) + 1} {{ rank=same; {_anchor(int(layer))} [style=invis, shape=point];"
        )
        for node in members.itertuples():
            text = str(node.label)
            if node.kind == "feature":
                text += f"\nL{node.layer}/{node.feature} {node.token}@{node.pos}"
            elif node.kind == "error":
                text += f"\n{node.token}@{node.pos}"
            shape, fill = _SHAPES[str(node.kind)], _FILLS[str(node.kind)]
            lines.append(f'    {_quote(str(node.node_id))} [label={_quote(text)}, shape={shape}, fillcolor="{fill}"];')
        if layer == -1:  # tokens stand in the order of the prompt
            lines.append(f"    {' -> '.join(_quote(str(name)) for name in members['node_id'])} [style=invis];")
        lines.append("  }")
    # the invisible chain keeps every layer on a rank of its own
    anchors = [_anchor(int(layer)) for layer in sorted(nodes["layer"].unique())]
    lines.append(f"  {' -> '.join(anchors)} [style=invis];")
    edges, shares = graph.adjacency.tocoo(), row_shares(graph.adjacency).tocoo()
    ids = nodes["node_id"].to_numpy()
    for i in np.lexsort((edges.col, edges.row)):
        weight = edges.data[i]
        sign = f'color="{_POSITIVE}", style=solid' if weight > 0 else f'color="{_NEGATIVE}", style=dashed'
        width = max(0.2, _WIDEST * shares.data[i])
        ends = f"{_quote(str(ids[edges.col[i]]))} -> {_quote(str(ids[edges.row[i]]))}"
        lines.append(f'  {ends} [{sign}, penwidth={width:.2f}, tooltip="{weight:.4g}"];')
    return "\n".join([*lines, "}", ""])


def render(graph: Graph, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw the graph into an SVG, PNG or PDF file, by its name, with Graphviz.

    Raises:
        GraphFileError: Graphviz is not installed, or the file cannot be written.
    """
    import graphviz

    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in PICTURE_FORMATS:
        raise GraphFileError(f"{path}: a picture is one of {', '.join(PICTURE_FORMATS)}.")
    try:
        picture = graphviz.Source(to_dot(graph)).pipe(format=kind)
    except graphviz.ExecutableNotFound as e:
        raise GraphFileError(f"{path}: {NO_GRAPHVIZ}") from e
    except graphviz.CalledProcessError as e:
        raise GraphFileError(f"{path}: Graphviz failed ({str(e).splitlines()[-1]}).") from e
    write_whole(path, lambda temporary: temporary.write_bytes(picture), overwrite=overwrite)


def _caption(graph: Graph) -> str:
    pruning = graph.metadata.get("pruning")
    what = "unpruned"
    if pruning is not None:
        nodes, edges = pruning["node_threshold"], pruning["edge_threshold"]
        what = f"pruned to {nodes:.0%} of node and {edges:.0%} of edge influence"
    return f"{' '.join(graph.prompt_tokens)}\n{len(graph.nodes)} nodes, {graph.adjacency.nnz} edges, {what}"


def _anchor(layer: int) -> str:
    return f"anchor_{layer + 1}"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", " ")
    return f'"{escaped}"'
