"""A scene as text of Graphviz's DOT language, and the picture that Graphviz makes of it."""

from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.files import NO_GRAPHVIZ, PICTURE_FORMATS, write_whole
from attrgraph.schema import unique_names
from attrgraph.viz import MOST_NODES_DRAWN, MOST_TOKENS_DRAWN
from attrgraph.viz.layout import DOUBLE_LINE, Layout, Row
from attrgraph.viz.routes import Point, route
from attrgraph.viz.scene import Scene
from attrgraph.viz.text import FONT_SIZE, LINE_HEIGHT, wrap

# of text without a box
PLAIN = 'shape=plaintext, style=""'
_GREY_TEXT = f'{PLAIN}, fontcolor="#666666"'
_MARGIN, _ROW_NAME_WIDTH, _NARROWEST = 12.0, 46.0, 400.0
_ARROW_LENGTH = 5.0
# Graphviz stops at names of many thousand characters
_LONGEST_KEY = 500
# names of what stands below the boxes; see `legend.py`
_KEYS_BELOW = ("caption", *(f"legend {number}{end}" for number in range(9) for end in ("", " from", " to", " box")))
_BEGINNING = f"""digraph attribution {{
  layout=nop2; outputorder=edgesfirst; pad=0.15;
  node [fontname="Helvetica", fontsize={FONT_SIZE:g}, shape=box, fixedsize=true, margin=0, style=filled, \
fillcolor="#ffffff", color="#666666", penwidth=0.8];
  edge [arrowsize={_ARROW_LENGTH / 10:g}];"""


def scene_as_dot(
    scene: Scene, layout: Layout, box_looks: Iterable[str], arrow_looks: Iterable[str], below: Sequence[str] = ()
) -> str:
    """DOT text with every box and arrow in its place; Graphviz only draws it.

    Args:
        box_looks, arrow_looks: DOT attributes of each box and arrow; tokens that are no nodes have a look of their own.
        below: lines of DOT after them, as `legend.py` makes them.
    """
    lines = [_BEGINNING]
    rows = [_row_key(row) for row in layout.rows]
    keys = unique_names([*_KEYS_BELOW, *rows, *(box.key[:_LONGEST_KEY] for box in scene.boxes)])[
        len(_KEYS_BELOW) + len(rows) :
    ]
    for row in layout.rows:
        if row.name:
            x, y = -_MARGIN - _ROW_NAME_WIDTH / 2, (row.low + row.high) / 2
            lines.append(node(_row_key(row), quote(row.name), (x, y), (_ROW_NAME_WIDTH, LINE_HEIGHT), _GREY_TEXT))
    for key, box, place, look in zip(keys, scene.boxes, layout.places, box_looks, strict=True):
        outer = 2 * DOUBLE_LINE if box.kind == "group" else 0.0  # that line is drawn around the box
        size = (place.width - outer, place.height - outer)
        shown = _GREY_TEXT if box.kind == "token" else look
        lines.append(node(key, quote("\n".join(place.lines)), (place.x, place.y), size, shown))
    for arrow, curve, look in zip(scene.arrows, route(scene.arrows, layout), arrow_looks, strict=True):
        lines.append(edge(keys[arrow.source], keys[arrow.target], curve, look))
    return "\n".join([*lines, *below, "}", ""])


def _row_key(row: Row) -> str:
    return f"row {row.name}"


def below_picture(layout: Layout) -> tuple[float, float, float]:
    """Left, top and width of what is written below the boxes."""
    return -_MARGIN - _ROW_NAME_WIDTH, -_MARGIN, max(layout.width + _MARGIN + _ROW_NAME_WIDTH, _NARROWEST)


def paragraphs(text: Iterable[str], left: float, top: float, width: float) -> str:
    """Wrapped text that begins a line below `top`."""
    lines = [line for paragraph in text for line in wrap(paragraph, width)]
    height = len(lines) * LINE_HEIGHT
    label = "".join(f"{_escape(line)}\\l" for line in lines)
    return node("caption", f'"{label}"', (left + width / 2, top - LINE_HEIGHT - height / 2), (width, height), PLAIN)


def node(key: str, label: str, middle: Point, size: Point, look: str) -> str:
    """A rectangle; DOT has places in points and sizes in inches."""
    parts = [f'pos="{_point(middle)}"', f"width={size[0] / 72:.4f}", f"height={size[1] / 72:.4f}", f"label={label}"]
    return f"  {quote(key)} [{', '.join([*parts, *([look] if look else [])])}];"


def edge(source: str, target: str, curve: Sequence[Point], look: str) -> str:
    """An arrow along a Bezier curve of 3n + 1 points, the last on the target's edge."""
    # the arrow's head lies between where the curve ends and where the edge does
    (x, y), (tip_x, tip_y) = curve[-2:]
    share = _ARROW_LENGTH / max(((tip_x - x) ** 2 + (tip_y - y) ** 2) ** 0.5, 1e-9)
    base = (tip_x + (x - tip_x) * share, tip_y + (y - tip_y) * share)
    points = " ".join(_point(point) for point in [*curve[:-1], base])
    return f'  {quote(source)} -> {quote(target)} [{look}, pos="e,{_point(curve[-1])} {points}"];'


def quote(text: str) -> str:
    """A string of DOT; line breaks are centred ones."""
    return '"' + "\\n".join(map(_escape, text.split("\n"))) + '"'


def _escape(text: str) -> str:
    """Text inside quotes: backslashes begin DOT's escapes, ampersands its entities."""
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def _point(point: Point) -> str:
    # + 0.0: no negative zero
    return ",".join(f"{round(each, 2) + 0.0:.2f}" for each in point)


def check_prompt(tokens: Sized) -> None:
    """Raise GraphFileError for a prompt that is too long for a picture, which has a box for each of its tokens."""
    if len(tokens) > MOST_TOKENS_DRAWN:
        raise GraphFileError(f"a prompt of {len(tokens)} tokens is too long to draw (at most {MOST_TOKENS_DRAWN}).")


def write_picture(make_dot: Callable[[], str], path: str | Path, *, n_nodes: int, overwrite: bool) -> None:
    """Write DOT text into a .dot file, or have Graphviz draw it into an SVG, PNG or PDF file.

    Raises:
        GraphFileError: an unknown ending, more nodes than can be drawn, Graphviz is not installed or fails, or the file
            cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind == "dot":
        write_whole(path, lambda file: file.write_text(make_dot(), encoding="utf-8"), overwrite=overwrite)
        return
    if kind not in PICTURE_FORMATS:
        endings = ", ".join(f".{name}" for name in (*PICTURE_FORMATS, "dot"))
        raise GraphFileError(f"{path}: unknown ending {path.suffix!r}; expected one of {endings}.")
    if n_nodes > MOST_NODES_DRAWN:
        raise GraphFileError(
            f"{path}: {n_nodes} nodes are too many to draw (at most {MOST_NODES_DRAWN}); prune first, with a lower "
            "node threshold."
        )
    import graphviz

    try:
        picture = graphviz.Source(make_dot()).pipe(format=kind)
    except graphviz.ExecutableNotFound as e:
        raise GraphFileError(f"{path}: {NO_GRAPHVIZ}") from e
    except (graphviz.CalledProcessError, OSError) as e:
        raise GraphFileError(f"{path}: Graphviz failed ({str(e).splitlines()[-1]}).") from e
    write_whole(path, lambda file: file.write_bytes(picture), overwrite=overwrite)
