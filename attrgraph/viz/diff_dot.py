"""Two graphs in one, as Graphviz DOT text, and the picture that Graphviz makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrgraph.schema import LABELLED, OUTPUT, PROBABILITY
from attrgraph.viz.dot_text import below_picture, check_prompt, paragraphs, scene_as_dot, write_picture
from attrgraph.viz.layout import lay_out
from attrgraph.viz.scene import Arrow, Scene, bare_tokens, box_of
from attrgraph.viz.text import visible

if TYPE_CHECKING:
    from attrgraph.graph.comparison.diff import Diff

# of boxes and arrows by status; in print they differ by dashes and darkness
_BOXES = {
    "common": 'fillcolor="#f2f2f2", color="#777777"',
    "left": 'fillcolor="#fbe6cf", color="#b35806", style="filled,dashed"',
    "right": 'fillcolor="#e4def0", color="#542788", penwidth=1.8',
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
    """DOT text with every box and arrow in its place. The same two graphs give the same text.

    As in the picture of one graph, tokens are at the bottom, layers above one another, and each node is above its place
    in the prompts; how boxes and arrows look says which graph has them, as the caption explains.
    """
    check_prompt(diff.places)
    nodes = _nodes(diff)
    boxes = [box_of(row) for row in nodes.itertuples()]
    tokens = bare_tokens([_at_place(diff, "token", place) for place in range(len(diff.places))], boxes)
    statuses = [*nodes["status"], *("common" for _ in tokens)]
    # prompts of two lengths have one place at two positions
    boxes = [
        replace(box, detail=_at_place(diff, "pos", box.pos, status)) if box.layer < 0 else box
        for box, status in zip(boxes + tokens, statuses, strict=True)
    ]
    arrows, arrow_looks = _arrows(diff, nodes)
    scene = Scene(boxes, arrows)
    layout = lay_out(scene, diff.left.n_layers)
    looks = [_BOXES[status] for status in statuses]
    caption = paragraphs([*_summary(diff), _READING], *below_picture(layout))
    return scene_as_dot(scene, layout, looks, arrow_looks, [caption])


def draw_diff(diff: "Diff", path: str | Path, *, overwrite: bool = True) -> None:
    """Draw both graphs into an SVG, PNG or PDF file, or write their DOT text, by the file's ending.

    Raises:
        GraphFileError: an unknown ending, more than 500 nodes, no Graphviz, or the file cannot be written.
    """
    write_picture(lambda: to_dot(diff), path, n_nodes=len(diff.nodes), overwrite=overwrite)


def _nodes(diff: "Diff") -> pd.DataFrame:
    """The nodes with the columns that boxes are made of, in the order of boxes side by side: answers by probability."""
    tokens, probabilities = list[str](), list[float]()
    for row in diff.nodes.itertuples():
        label, token, probability = str(row.label), "", np.nan
        if row.kind == "embedding":
            token = _at_place(diff, "token", row.place, row.status)
        elif row.kind == "logit":
            output, found = OUTPUT.match(label), PROBABILITY.search(label)
            token = output[1] if output else LABELLED.sub("", label)
            probability = float(found[1]) if found else np.nan
        tokens.append(token)
        probabilities.append(probability)
    order = np.argsort(-np.nan_to_num(probabilities), kind="stable")
    # a common answer has two probabilities, which are in the picture of each graph
    shown = np.where(diff.nodes["status"] == "common", np.nan, probabilities)
    nodes = diff.nodes.rename(columns={"place": "pos"})
    return nodes.assign(token=tokens, probability=shown, influence=0.0).iloc[order]


def _at_place(diff: "Diff", what: str, place: Any, status: str = "common") -> str:
    """The token or the position at a place of the prompts in one graph; in both, once if it is the same."""
    at, sides = diff.places.loc[place], ("left", "right") if status == "common" else (status,)
    return " / ".join(dict.fromkeys(visible(str(at[f"{side}_{what}"])) for side in sides if at[f"{side}_pos"] >= 0))


def _arrows(diff: "Diff", nodes: pd.DataFrame) -> tuple[list[Arrow], list[str]]:
    """The least important first, and how each looks."""
    edges, number = diff.edges, {str(name): i for i, name in enumerate(nodes.index)}
    weights = edges[["weight_left", "weight_right"]].fillna(0).to_numpy(dtype=np.float64)
    shares = edges[["share_left", "share_right"]].max(axis=1).to_numpy(dtype=np.float64)
    sources, targets = (edges[end].map(number).to_numpy() for end in ("source", "target"))
    statuses, arrows, looks = edges["status"].to_numpy(), list[Arrow](), list[str]()
    for i in np.lexsort((sources, targets, shares)):
        before, after = weights[i]
        arrow = Arrow(int(sources[i]), int(targets[i]), float(after - before), float(shares[i]))
        head = ", arrowhead=dot" if min(before, after) < 0 else ""
        tooltip = f'tooltip="{before:.4g} -> {after:.4g}"'
        arrows.append(arrow)
        looks.append(f"{_ARROWS[statuses[i]]}, penwidth={arrow.width:.2f}, {tooltip}{head}")
    return arrows, looks


def _summary(diff: "Diff") -> list[str]:
    summary = diff.summary()
    nodes, edges = (
        f"{summary[what]['common']} {what} in both, {summary[what]['left']} left, {summary[what]['right']} right"
        for what in ("nodes", "edges")
    )
    return [
        f"Left: {visible(' '.join(diff.left.prompt_tokens))} → {summary['left_answer']}",
        f"Right: {visible(' '.join(diff.right.prompt_tokens))} → {summary['right_answer']}",
        f"{nodes}; {edges}.",
        *(f"Note: {visible(note)}." for note in diff.notes),
    ]
