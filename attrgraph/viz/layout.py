"""Where boxes are placed: a column for every position of the prompt, a row for every layer, the answer on top."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

    width: float
    height: float
    lines: tuple[str, ...]
    x: float = 0.0  # of the middle
    y: float = 0.0
    row: int = 0  # counted from below


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


# of one row: numbers of boxes by position
_Cells = dict[int, list[int]]


def lay_out(scene: Scene, n_layers: int) -> Layout:
    """Place every box.

    Boxes at one layer and position are placed side by side, in the order of the graph's nodes, and in several rows if
    there are many: as many in a row as bring the whole picture nearest to the usual shape of a figure. Layers without a
    box take no height.
    """
    sizes = _sizes(scene.boxes)
    candidates = [_arrange(scene.boxes, sizes, n_layers, abreast) for abreast in range(1, _MOST_ABREAST + 1)]
    return min(candidates, key=lambda layout: abs(log(max(layout.width, 1) / max(layout.height, 1) / _ASPECT)))


def _sizes(boxes: Sequence[Box]) -> list[Place]:
    """The size of every box, with its text, not yet at its place."""
    out = []
    for box in boxes:
        lines = tuple(line for line in (*wrap(box.name, _LINE_WIDTH), box.detail) if line)
        border = DOUBLE_LINE if box.kind == "group" else 0.0
        width = max(map(width_of, lines), default=0.0) + 2 * (_MARGIN + border)
        out.append(Place(max(width, _NARROWEST_TOKEN), len(lines) * LINE_HEIGHT + _MARGIN + 2 * border, lines))
    # all boxes but tokens have one width, which makes the picture calmer
    inner = max((size.width for size, box in zip(out, boxes, strict=True) if box.layer >= 0), default=0.0)
    return [size if box.layer < 0 else replace(size, width=inner) for size, box in zip(out, boxes, strict=True)]


def _arrange(boxes: Sequence[Box], sizes: Sequence[Place], n_layers: int, abreast: int) -> Layout:
    rows = _rows(boxes, n_layers, abreast)
    middles, total = _columns([cells for (layer, _), cells in rows if layer != n_layers], sizes)
    places, placed_rows, y, below = dict[int, Place](), list[Row](), 0.0, (-2, False)
    for stage, cells in rows:
        if placed_rows:
            y += _INNER_ROW_GAP if stage == below else _ROW_GAP
        height = max(sizes[number].height for members in cells.values() for number in members)
        for pos, members in cells.items():
            span = _span(members, sizes)
            # answers may be wider than their column, but stay above the rest of the picture if there is room
            x = max(min(middles.get(pos, total / 2), total - span / 2) - span / 2, 0.0)
            for number in members:
                size = sizes[number]
                middle = x + size.width / 2
                places[number] = replace(size, height=height, x=middle, y=y + height / 2, row=len(placed_rows))
                x += size.width + _GAP
        name = {-1: "tokens", n_layers: "answer"}.get(stage[0], f"layer {stage[0]}")
        placed_rows.append(Row(y, y + height, name if stage[0] != below[0] else ""))
        y, below = y + height, stage
    width = max((place.x + place.width / 2 for place in places.values()), default=0.0)
    return Layout([places[number] for number in range(len(boxes))], placed_rows, width, y)


def _rows(boxes: Sequence[Box], n_layers: int, abreast: int) -> list[tuple[tuple[int, bool], _Cells]]:
    """Rows from below, each with its stage: a layer, first its attention, then its MLP, which reads the attention."""
    stages = defaultdict[tuple[int, bool], _Cells](lambda: defaultdict(list))
    for number, box in enumerate(boxes):
        stages[box.layer, not box.kind.startswith("attention")][box.pos].append(number)
    out = []
    for stage, cells in sorted(stages.items()):
        if stage[0] == n_layers:  # the answers are one row
            out.append((stage, {max(cells): [number for pos in sorted(cells) for number in cells[pos]]}))
            continue
        split = defaultdict[int, _Cells](dict)
        for pos, members in cells.items():
            n_in_row = ceil(len(members) / ceil(len(members) / abreast))
            for row, start in enumerate(range(0, len(members), n_in_row)):
                split[row][pos] = members[start : start + n_in_row]
        out += [(stage, split[row]) for row in sorted(split)]
    return out


def _columns(rows: Sequence[_Cells], sizes: Sequence[Place]) -> tuple[Mapping[int, float], float]:
    """The middle of every position's column, and the width of all."""
    needed = defaultdict[int, float](float)
    for cells in rows:
        for pos, members in cells.items():
            needed[pos] = max(needed[pos], _span(members, sizes))
    out, x = dict[int, float](), 0.0
    for pos, width in sorted(needed.items()):
        out[pos] = x + width / 2
        x += width + _COLUMN_GAP
    return out, max(x - _COLUMN_GAP, 0.0)


def _span(members: Sequence[int], sizes: Sequence[Place]) -> float:
    """The width of boxes side by side."""
    return sum(sizes[number].width + _GAP for number in members) - _GAP
