"""What every picture has, as lines of DOT: rows with names, boxes and curves in their places, text below."""

from collections.abc import Sequence

from attrgraph.viz.dot_text import escape, quote
from attrgraph.viz.layout import Layout
from attrgraph.viz.routes import ARROW_LENGTH, Point
from attrgraph.viz.text import FONT_SIZE, LINE_HEIGHT, wrap

MARGIN = 12.0
_ROW_NAME_WIDTH, _NARROWEST = 46.0, 400.0


def opening(name: str, layout: Layout) -> list[str]:
    """Everything before the boxes; Graphviz then draws all at its place."""
    lines = [
        f"digraph {name} {{",
        "  layout=nop2; outputorder=edgesfirst; pad=0.15;",
        f'  node [fontname="Helvetica", fontsize={FONT_SIZE:g}, shape=box, fixedsize=true, margin=0, style=filled,'
        ' fillcolor="#ffffff", color="#666666", penwidth=0.8];',
        f"  edge [arrowsize={ARROW_LENGTH / 10:g}];",
    ]
    for row in layout.rows:
        if row.name:
            middle = (-MARGIN - _ROW_NAME_WIDTH / 2, (row.low + row.high) / 2)
            lines.append(text_line(f"row {row.name}", row.name, middle, _ROW_NAME_WIDTH, color="#666666"))
    return lines


def edges_of_canvas(layout: Layout) -> tuple[float, float]:
    """Where text below the picture begins, and its width."""
    return -MARGIN - _ROW_NAME_WIDTH, max(layout.width + MARGIN + _ROW_NAME_WIDTH, _NARROWEST)


def paragraphs(text: Sequence[str], left: float, width: float, y: float) -> str:
    """Wrapped text, its first line a line below `y`."""
    lines = [line for paragraph in text for line in wrap(paragraph, width)]
    height = len(lines) * LINE_HEIGHT
    label = "".join(escape(line) + "\\l" for line in lines)
    at = rectangle(left + width / 2, y - LINE_HEIGHT - height / 2, width, height)
    return f'  "caption" [{at}, shape=plaintext, style="", label="{label}"];'


def text_line(key: str, text: str, middle: Point, width: float, color: str = "#000000") -> str:
    """Text without a box."""
    at = rectangle(*middle, width, LINE_HEIGHT)
    return f'  {quote(key)} [{at}, shape=plaintext, style="", fontcolor="{color}", label={quote(text)}];'


def edge(source: str, target: str, curve: Sequence[Point], looks: str) -> str:
    """An arrow along a Bezier curve of 3n + 1 points, the last on the target's edge."""
    # the arrow's head lies between where the curve ends and where the edge does
    (x, y), (tip_x, tip_y) = curve[-2], curve[-1]
    length = max(((tip_x - x) ** 2 + (tip_y - y) ** 2) ** 0.5, 1e-9)
    base = (tip_x + (x - tip_x) / length * ARROW_LENGTH, tip_y + (y - tip_y) / length * ARROW_LENGTH)
    points = " ".join(_point(*point) for point in [*curve[:-1], base])
    return f'  {quote(source)} -> {quote(target)} [{looks}, pos="e,{_point(tip_x, tip_y)} {points}"];'


def rectangle(x: float, y: float, width: float, height: float) -> str:
    """Where and how large; DOT has places in points and sizes in inches."""
    return f'pos="{_point(x, y)}", width={width / 72:.4f}, height={height / 72:.4f}'


def _point(x: float, y: float) -> str:
    # + 0.0: no negative zero
    return f"{round(x, 2) + 0.0:.2f},{round(y, 2) + 0.0:.2f}"
