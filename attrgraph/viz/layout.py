"""Where boxes stand: a column for every position of the prompt, a row for every layer, the answer on top."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

from attrgraph.viz.scene import Box, Scene
from attrgraph.viz.text import LINE_HEIGHT, width_of, wrap

# all in points; chosen by eye, on graphs of 15 to 170 nodes
_LINE_WIDTH = 88.0
_MARGIN = 5.0
_GAP, _COLUMN_GAP = 12.0, 16.0
_ROW_GAP, _INNER_ROW_GAP = 34.0, 16.0
_NARROWEST_TOKEN = 18.0
# how far Graphviz draws the outer line of a double box from the inner one
DOUBLE_LINE = 4.0
# width over height that pictures come near to, and the most boxes side by side that are tried for it
_ASPECT, _MOST_ABREAST = 1.4, 8


@dataclass(frozen=True)
class Place:
    """A box's rectangle, and its lines of text."""

    x: float  # of the middle
    y: float
    width: float
    height: float
    row: int  # counted from below
    lines: tuple[str, ...]

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Row:
    """Boxes at one height."""

    low: float
    high: float
    name: str  # of the layer, at its lowest row; else empty


@dataclass(frozen=True)
class Layout:
    """Places in the order of the scene's boxes; x runs from 0 to `width`, y from 0 to `height`."""

    places: list[Place]
    rows: list[Row]
    width: float
    height: float


def lay_out(scene: Scene, n_layers: int) -> Layout:
    """Place every box.

    Boxes at one layer and position stand side by side, in the order of the graph's nodes, and in several rows if there
    are many: as many abreast as bring the whole picture nearest to the usual shape of a figure. Layers without a box
    take no height.
    """
    candidates = [_lay_out(scene, n_layers, abreast) for abreast in range(1, _MOST_ABREAST + 1)]
    return min(candidates, key=lambda layout: abs(log(max(layout.width, 1) / max(layout.height, 1) / _ASPECT)))


def lines_of(box: Box) -> tuple[str, ...]:
    """The lines of text in a box."""
    lines = wrap(box.name, _LINE_WIDTH) if box.name else []
    return (*lines, *([box.detail] if box.detail else []))


def _stage(box: Box) -> tuple[int, int]:
    """Rows in order: within a layer attention is read by the MLP."""
    return box.layer, 0 if box.kind.startswith("attention") else 1


def _lay_out(scene: Scene, n_layers: int, abreast: int) -> Layout:
    boxes, lines = scene.boxes, [lines_of(box) for box in scene.boxes]
    borders = [_MARGIN + (DOUBLE_LINE if box.kind == "group" else 0.0) for box in boxes]
    text_widths = [
        max((width_of(line) for line in each), default=0.0) + 2 * border
        for each, border in zip(lines, borders, strict=True)
    ]
    is_token = [box.layer == -1 for box in boxes]
    # all boxes but tokens have one width, which calms the picture
    inner = max((w for w, token in zip(text_widths, is_token, strict=True) if not token), default=0.0)
    widths = [max(w, _NARROWEST_TOKEN) if token else inner for w, token in zip(text_widths, is_token, strict=True)]
    cells = defaultdict[tuple[int, int], dict[int, list[int]]](lambda: defaultdict(list))
    for number, box in enumerate(boxes):
        cells[_stage(box)][box.pos].append(number)
    stages = sorted(cells)
    top = next((stage for stage in stages if stage[0] == n_layers), None)
    columns = _columns([cells[stage] for stage in stages if stage != top], widths, abreast)
    total = max((x + width / 2 for x, width in columns.values()), default=0.0)
    places: list[Place | None] = [None] * len(boxes)
    rows, y = list[Row](), 0.0
    for stage in stages:
        if stage == top:
            split = [_spread(cells[stage], widths, columns, total)]
        else:
            split = _split(cells[stage], widths, columns, abreast)
        for inner_row, members in enumerate(split):
            height = max(len(lines[n]) * LINE_HEIGHT + 2 * borders[n] - _MARGIN for n, _ in members)
            y += 0 if not rows else _INNER_ROW_GAP if inner_row else _ROW_GAP
            for number, x in members:
                places[number] = Place(x, y + height / 2, widths[number], height, len(rows), lines[number])
            is_first = inner_row == 0 and (not rows or stage[0] != stages[stages.index(stage) - 1][0])
            rows.append(Row(y, y + height, _row_name(stage[0], n_layers) if is_first else ""))
            y += height
    placed = [place for place in places if place is not None]
    left = min((place.left for place in placed), default=0.0)
    if left < 0:
        placed = [Place(p.x - left, p.y, p.width, p.height, p.row, p.lines) for p in placed]
    return Layout(placed, rows, max((place.right for place in placed), default=0.0), y)


def _row_name(layer: int, n_layers: int) -> str:
    return {-1: "tokens", n_layers: "answer"}.get(layer, f"layer {layer}")


def _columns(
    stages: Sequence[dict[int, list[int]]], widths: Sequence[float], abreast: int
) -> dict[int, tuple[float, float]]:
    """The middle and the width of every position's column."""
    needed = defaultdict[int, float](float)
    for cells in stages:
        for pos, members in cells.items():
            n_abreast = ceil(len(members) / ceil(len(members) / abreast))
            width = max(widths[number] for number in members)
            needed[pos] = max(needed[pos], n_abreast * (width + _GAP) - _GAP)
    out, x = dict[int, tuple[float, float]](), 0.0
    for pos in sorted(needed):
        out[pos] = (x + needed[pos] / 2, needed[pos])
        x += needed[pos] + _COLUMN_GAP
    return out


def _split(
    cells: dict[int, list[int]], widths: Sequence[float], columns: dict[int, tuple[float, float]], abreast: int
) -> list[list[tuple[int, float]]]:
    """Rows of (box, x) for one layer."""
    rows = defaultdict[int, list[tuple[int, float]]](list)
    for pos in sorted(cells):
        members = cells[pos]
        n_rows = ceil(len(members) / abreast)
        n_abreast = ceil(len(members) / n_rows)
        for row in range(n_rows):
            part = members[row * n_abreast : (row + 1) * n_abreast]
            rows[row] += _side_by_side(part, widths, columns[pos][0])
    return [rows[row] for row in sorted(rows)]


def _spread(
    cells: dict[int, list[int]], widths: Sequence[float], columns: dict[int, tuple[float, float]], total: float
) -> list[tuple[int, float]]:
    """The answers in one row, around their position, but not beyond the right edge of what is below."""
    members = [number for pos in sorted(cells) for number in cells[pos]]
    width = sum(widths[number] for number in members) + _GAP * (len(members) - 1)
    middle = columns.get(max(cells), (total / 2, 0.0))[0]
    return _side_by_side(members, widths, max(min(middle, total - width / 2), width / 2))


def _side_by_side(members: Sequence[int], widths: Sequence[float], middle: float) -> list[tuple[int, float]]:
    x = middle - (sum(widths[number] for number in members) + _GAP * (len(members) - 1)) / 2
    out = []
    for number in members:
        out.append((number, x + widths[number] / 2))
        x += widths[number] + _GAP
    return out
