"""Two graphs in one, as Graphviz DOT text, and the picture that Graphviz makes of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrgraph.errors import GraphFileError
from attrgraph.schema import LABELLED, OUTPUT, PROBABILITY
from attrgraph.viz import MOST_NODES_DRAWN
from attrgraph.viz.canvas import MARGIN, edge, edges_of_canvas, opening, paragraphs, rectangle
from attrgraph.viz.dot_text import quote, write_picture
from attrgraph.viz.layout import Place, lay_out
from attrgraph.viz.routes import route
from attrgraph.viz.scene import Arrow, Box, Scene, feature_text
from attrgraph.viz.text import shorten, visible

if TYPE_CHECKING:
    from attrgraph.graph.comparison.diff import Diff

# of boxes and arrows by status; in print they differ by dashes and darkness
_BOXES = {
    "common": 'fillcolor="#f2f2f2", color="#777777"',
    "left": 'fillcolor="#fbe6cf", color="#b35806", style="filled,dashed"',
    "right": 'fillcolor="#e4def0", color="#542788", penwidth=1.8',
    "token": 'shape=plaintext, style="", fontcolor="#666666"',
}
_ARROWS = {
    "common": 'color="#777777", style=solid',
    "left": 'color="#b35806", style=dashed',
    "right": 'color="#542788", style=solid',
}
_READING = (
    "Grey: in both graphs. Orange, dashed: in the left one only. Violet, thick lines around boxes: in the right one "
    "only. Width of an edge: its share of its target's input, the larger of both. A head that is a dot: the edge is "
    "negative, or changes its sign."
)


def to_dot(diff: "Diff") -> str:
    """DOT text with every box and arrow in its place; both graphs, to the letter, give the same text.

    As in the picture of one graph tokens stand below, layers above one another, and each node over its place in the
    prompts; what differs in look is what is in which graph, as the caption says.
    """
    nodes = _drawn(diff)
    boxes, statuses = _boxes(diff, nodes)
    arrows, looks = _arrows(diff, nodes)
    scene = Scene(boxes, arrows, n_hidden=0)
    layout = lay_out(scene, diff.left.n_layers)
    lines = opening("difference", layout)
    lines += [_box(*each) for each in zip(boxes, layout.places, statuses, strict=True)]
    for arrow, look, curve in zip(arrows, looks, route(arrows, layout), strict=True):
        lines.append(edge(boxes[arrow.source].key, boxes[arrow.target].key, curve, look))
    lines.append(paragraphs([*_prompts(diff), _READING], *edges_of_canvas(layout), -MARGIN))
    return "\n".join([*lines, "}", ""])


def draw_diff(diff: "Diff", path: str | Path, *, overwrite: bool = True) -> None:
    """Draw both graphs into an SVG, PNG or PDF file, or write their DOT text, by the file's ending.

    Raises:
        GraphFileError: an unknown ending, more than 500 nodes, no Graphviz, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".dot" and len(diff.nodes) > MOST_NODES_DRAWN:
        raise GraphFileError(
            f"{path}: {len(diff.nodes)} nodes are too many to draw (at most {MOST_NODES_DRAWN}); "
            "prune both graphs first."
        )
    write_picture(to_dot(diff), path, overwrite=overwrite)


def _drawn(diff: "Diff") -> pd.DataFrame:
    """The nodes in the order in which they stand side by side: answers by probability."""
    nodes = diff.nodes
    probability = [
        _probability(str(label)) if kind == "logit" else 0.0
        for kind, label in zip(nodes["kind"], nodes["label"], strict=True)
    ]
    return nodes.iloc[np.argsort(-np.array(probability), kind="stable")]


def _probability(label: str) -> float:
    found = PROBABILITY.search(label)
    return float(found[1]) if found else 0.0


def _boxes(diff: "Diff", nodes: pd.DataFrame) -> tuple[list[Box], list[str]]:
    """Of nodes, then of places of the prompts where no token is a node, and what is in which graph."""
    rows = list(nodes.itertuples())
    boxes = [_box_of(diff, row) for row in rows]
    statuses = [str(row.status) for row in rows]
    there = {box.pos for box in boxes if box.kind == "embedding"}
    for place, at in diff.places.iterrows():
        if place not in there:
            name = shorten(" / ".join(_tokens(at)))
            boxes.append(Box(f"token {place}", "token", -1, int(str(place)), name, "", 0.0))
            statuses.append("token")
    return boxes, statuses


def _box_of(diff: "Diff", row: Any) -> Box:
    kind, layer, place, label = str(row.kind), int(row.layer), int(row.place), visible(str(row.label))
    name, detail = shorten(label), ""
    match kind:
        case "embedding":
            at = diff.places.loc[place]
            name = shorten(
                " / ".join(_tokens(at) if row.status == "common" else [visible(str(at[f"{row.status}_token"]))])
            )
        case "logit":
            output = OUTPUT.match(label)
            name = shorten(output[1] if output else LABELLED.sub("", label))
            # of a common one there are two, which the graphs by themselves show
            detail = f"p = {_probability(label):.3f}" if PROBABILITY.search(label) and row.status != "common" else ""
        case "error" | "attention error":
            name = kind
        case "feature" | "attention feature":
            name, detail = feature_text(kind, layer, int(row.feature), name)
    return Box(visible(str(row.Index)), kind, layer, place, name, detail, 0.0)


def _tokens(at: "pd.Series[Any]") -> list[str]:
    """What stands at a place of the prompts, once if it is the same."""
    return list(
        dict.fromkeys(visible(str(at[f"{side}_token"])) for side in ("left", "right") if at[f"{side}_pos"] >= 0)
    )


def _arrows(diff: "Diff", nodes: pd.DataFrame) -> tuple[list[Arrow], list[str]]:
    """The least important first, and how each looks."""
    edges, place = diff.edges, {str(name): i for i, name in enumerate(nodes.index)}
    weights = edges[["weight_left", "weight_right"]].fillna(0).to_numpy(dtype=np.float64)
    shares = edges[["share_left", "share_right"]].max(axis=1).to_numpy(dtype=np.float64)
    statuses, arrows, looks = edges["status"].to_numpy(), list[Arrow](), list[str]()
    sources, targets = (edges[end].map(place).to_numpy() for end in ("source", "target"))
    for i in np.lexsort((sources, targets, shares)):
        before, after = weights[i]
        arrow = Arrow(int(sources[i]), int(targets[i]), float(after - before), float(shares[i]))
        head = ", arrowhead=dot" if min(before, after) < 0 else ""
        tooltip = f'tooltip="{before:.4g} -> {after:.4g}"'
        arrows.append(arrow)
        looks.append(f"{_ARROWS[str(statuses[i])]}, penwidth={arrow.width:.2f}, {tooltip}{head}")
    return arrows, looks


def _box(box: Box, place: Place, status: str) -> str:
    at = rectangle(place.x, place.y, place.width, place.height)
    return f"  {quote(box.key)} [{at}, label={quote(chr(10).join(place.lines))}, {_BOXES[status]}];"


def _prompts(diff: "Diff") -> list[str]:
    prompts = [visible(" ".join(graph.prompt_tokens)) for graph in (diff.left, diff.right)]
    counts = diff.summary()
    nodes, edges = (
        f"{counts[what]['common']} {what} in both, {counts[what]['left']} left, {counts[what]['right']} right"
        for what in ("nodes", "edges")
    )
    return [
        f"Left: {prompts[0]} → {counts['left_answer']}",
        f"Right: {prompts[1]} → {counts['right_answer']}",
        f"{nodes}; {edges}.",
    ]
