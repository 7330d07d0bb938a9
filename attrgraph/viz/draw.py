"""A graph as Graphviz DOT text, and the picture that Graphviz makes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrgraph.errors import GraphFileError
from attrgraph.viz import MOST_NODES_DRAWN
from attrgraph.viz.canvas import MARGIN, edge, edges_of_canvas, opening, paragraphs, rectangle, text_line
from attrgraph.viz.caption import LIGHT_BELOW, caption_of, most_influence
from attrgraph.viz.dot_text import quote, write_picture
from attrgraph.viz.layout import DOUBLE_LINE, Layout, Place, lay_out
from attrgraph.viz.routes import Point, route
from attrgraph.viz.scene import Arrow, Box, Groups, is_error, make_scene
from attrgraph.viz.text import LINE_HEIGHT, width_of

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# told apart by colour-blind readers (Okabe and Ito's blue and vermilion), and their tints for small shares
_POSITIVE, _NEGATIVE = ("#0072b2", "#8fc1de"), ("#d55e00", "#eeb68a")
# of the most influential box: dark enough to stand out, light enough for black text in greyscale
_DARKEST = (240, 190, 80)
_LEGEND_SHARES = (0.5, 0.2, 0.05)
_LEGEND_SAMPLE, _LEGEND_GAP = 26.0, 16.0


def to_dot(graph: "Graph", *, groups: Groups | None = None, min_share: float = 0.0, caption: bool = True) -> str:
    """DOT text with every box and arrow in its place. The same graph gives the same text.

    Tokens stand at the bottom in the order of the prompt, layers above one another, the answer on top. An arrow's width
    is its share of its target's input; a positive one is blue and solid, a negative one vermilion and dashed; below a
    share of 5% it is light. A box is the darker the more influence it has. Labels of more than 48 characters end in an
    ellipsis.

    Args:
        graph: any graph; its bias node is not drawn.
        groups: supernodes: each name's member ids are drawn as one box.
        min_share: arrows with less of their target's input are left out; the caption says how many.
        caption: write below what was asked and answered, what is left out, and the scales.

    Raises:
        AttrGraphError: as `attrgraph.viz.scene.make_scene`.
    """
    scene = make_scene(graph, groups=groups, min_share=min_share)
    layout = lay_out(scene, graph.n_layers)
    darkest = most_influence(scene)
    lines = opening("attribution", layout)
    for box, place in zip(scene.boxes, layout.places, strict=True):
        lines.append(_node(box, place, darkest))
    for arrow, curve in zip(scene.arrows, route(scene.arrows, layout), strict=True):
        ends = (scene.boxes[arrow.source].key, scene.boxes[arrow.target].key)
        lines.append(_arrow(*ends, arrow, curve))
    if caption:
        lines += _caption(caption_of(graph, scene, min_share=min_share), layout, darkest)
    return "\n".join([*lines, "}", ""])


def draw_graph(
    graph: "Graph",
    path: str | Path,
    *,
    groups: Groups | None = None,
    min_share: float = 0.0,
    caption: bool = True,
    overwrite: bool = True,
) -> None:
    """Draw the graph into an SVG, PNG or PDF file, or write the DOT text of the drawing, by the file's ending.

    Args:
        graph: pruned, best to some dozen nodes.
        path: ending in .svg, .png, .pdf or .dot.
        groups, min_share, caption: as `to_dot`.
        overwrite: False refuses to replace an existing file.

    Raises:
        GraphFileError: an unknown ending, more than 500 nodes, no Graphviz, or the file cannot be written.
        AttrGraphError: as `to_dot`.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune(0.6)
        >>> ag.draw_graph(graph, "texas.dot", groups={"texas": ["E_584_3"]})  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".dot" and len(graph.nodes) > MOST_NODES_DRAWN:
        raise GraphFileError(
            f"{path}: {len(graph.nodes)} nodes are too many to draw (at most {MOST_NODES_DRAWN}); prune the graph "
            "first, with a lower node threshold."
        )
    write_picture(to_dot(graph, groups=groups, min_share=min_share, caption=caption), path, overwrite=overwrite)


def _node(box: Box, place: Place, darkest: float) -> str:
    looks = {
        "token": 'shape=plaintext, style="", fontcolor="#666666"',
        "logit": 'style="filled,bold", color="#000000", penwidth=1.6',
        "embedding": "",
        "group": "peripheries=2",
        "feature": 'style="filled,rounded"',
        "attention feature": 'style="filled,diagonals"',
        "unknown": "shape=octagon",
    }
    look = 'style="filled,dashed"' if is_error(box) else looks.get(box.kind, "")
    # the outer line of a double box is drawn around it
    outer = 2 * DOUBLE_LINE if box.kind == "group" else 0.0
    parts = [
        rectangle(place.x, place.y, place.width - outer, place.height - outer),
        f"label={quote(chr(10).join(place.lines))}",
    ]
    if box.kind not in ("token", "logit"):
        parts.append(f'fillcolor="{_fill(box.influence / darkest if darkest > 0 else 0.0)}"')
    return f"  {quote(box.key)} [{', '.join([*parts, *([look] if look else [])])}];"


def _fill(share: float) -> str:
    """White to the darkest; what is no number is white."""
    amount = min(max(share, 0.0), 1.0) if share == share else 0.0
    return "#" + "".join(f"{round(255 - amount * (255 - channel)):02x}" for channel in _DARKEST)


def _arrow(source: str, target: str, arrow: Arrow, curve: Sequence[Point]) -> str:
    tooltip = f"{arrow.weight:.4g}, {arrow.share:.1%} of the input"
    return edge(source, target, curve, f'{_line(arrow)}, tooltip="{tooltip}"')


def _line(arrow: Arrow) -> str:
    strong, light = _POSITIVE if arrow.weight > 0 else _NEGATIVE
    color, style = strong if arrow.share >= LIGHT_BELOW else light, "solid" if arrow.weight > 0 else "dashed"
    return f'color="{color}", style={style}, penwidth={arrow.width:.2f}'


def _caption(text: Sequence[str], layout: Layout, darkest: float) -> list[str]:
    """The legend and the caption, below everything else."""
    left, width = edges_of_canvas(layout)
    out, y = _legend(left, width, darkest)
    return [*out, paragraphs(text, left, width, y)]


def _legend(left: float, width: float, darkest: float) -> tuple[list[str], float]:
    """Samples of arrows and boxes with what they mean, and the height of their last line."""
    arrows = [(Arrow(0, 0, 1.0, share), f"{share:.0%} of the target's input") for share in _LEGEND_SHARES]
    arrows += [(Arrow(0, 0, 1.0, 0.15), "raises the target"), (Arrow(0, 0, -1.0, 0.15), "lowers it")]
    samples: list[tuple[Arrow | float, str]] = [*arrows, (0.0, "no influence"), (1.0, f"influence {darkest:.3f}")]
    out, x, y = list[str](), left, -MARGIN - LINE_HEIGHT
    for number, (sample, text) in enumerate(samples):
        text_width = width_of(text)
        if x > left and x + _LEGEND_SAMPLE + text_width > left + width:
            x, y = left, y - 1.4 * LINE_HEIGHT
        key = f"legend {number}"
        if isinstance(sample, Arrow):
            ends = [f"{key} {end}" for end in ("from", "to")]
            for end, end_x in zip(ends, (x, x + _LEGEND_SAMPLE), strict=True):
                out.append(f'  {quote(end)} [{rectangle(end_x, y, 0.1, 0.1)}, label="", style=invis];')
            out.append(_arrow(ends[0], ends[1], sample, [(x + _LEGEND_SAMPLE * i / 3, y) for i in range(4)]))
        else:
            at = rectangle(x + _LEGEND_SAMPLE / 2, y, _LEGEND_SAMPLE, LINE_HEIGHT)
            out.append(f'  {quote(key + " box")} [{at}, label="", fillcolor="{_fill(sample)}"];')
        out.append(text_line(key, text, (x + _LEGEND_SAMPLE + 4 + text_width / 2, y), text_width))
        x += _LEGEND_SAMPLE + 4 + text_width + _LEGEND_GAP
    return out, y
