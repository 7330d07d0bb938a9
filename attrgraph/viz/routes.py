"""How arrows get from box to box: upward, through the gaps between the boxes of the rows that they pass."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from attrgraph.viz.layout import Layout, Place
from attrgraph.viz.scene import Arrow

Point = tuple[float, float]
# in points: how near to a box an arrow may come, how far apart arrows through one gap run, if there is room, and how
# far apart they leave a box
_CLEARANCE, _APART, _PORT = 2.5, 1.5, 7.0
ARROW_LENGTH = 5.0


class _Crossing(NamedTuple):
    """How an arrow wants to pass a row of boxes."""

    x: float  # at the middle of the row
    reach: float  # how far it is from there at the row's edges
    width: float
    arrow: int


def route(arrows: Sequence[Arrow], layout: Layout) -> list[list[Point]]:
    """For each arrow a Bezier curve: 3n + 1 points, the first on its source's edge, the last on its target's."""
    starts, ends = _ports(arrows, layout.places)
    upward = [i for i, arrow in enumerate(arrows) if _rows_between(arrow, layout) is not None]
    passing = _through_gaps([arrows[i] for i in upward], [(starts[i], ends[i]) for i in upward], layout)
    curves = dict(zip(upward, passing, strict=True))
    return [
        _smooth(curves[i]) if i in curves else _sideways(layout.places[arrow.source], layout.places[arrow.target])
        for i, arrow in enumerate(arrows)
    ]


def _rows_between(arrow: Arrow, layout: Layout) -> range | None:
    """The rows that an arrow passes; none for one that does not lead upward."""
    low, high = layout.places[arrow.source].row, layout.places[arrow.target].row
    return range(low + 1, high) if low < high else None


def _ports(arrows: Sequence[Arrow], places: Sequence[Place]) -> tuple[list[Point], list[Point]]:
    """Where arrows leave the tops and reach the bottoms of boxes: side by side, in the order of their directions."""
    leaving, arriving = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for i, arrow in enumerate(arrows):
        leaving[arrow.source].append(i)
        arriving[arrow.target].append(i)
    starts, ends = [(0.0, 0.0)] * len(arrows), [(0.0, 0.0)] * len(arrows)
    for box, members in leaving.items():
        place = places[box]
        members.sort(key=lambda i: (_lean(place, places[arrows[i].target]), i))
        for i, x in zip(members, _side_by_side(place, len(members)), strict=True):
            starts[i] = (x, place.y + place.height / 2)
    for box, members in arriving.items():
        place = places[box]
        members.sort(key=lambda i: (_lean(place, places[arrows[i].source]), i))
        for i, x in zip(members, _side_by_side(place, len(members)), strict=True):
            ends[i] = (x, place.y - place.height / 2)
    return starts, ends


def _lean(box: Place, other: Place) -> float:
    """How far to the right the other box lies, for its distance up or down."""
    return (other.x - box.x) / max(abs(other.y - box.y), 1.0)


def _side_by_side(place: Place, n: int) -> list[float]:
    step = min(_PORT, 0.85 * place.width / n)
    return [place.x + (i - (n - 1) / 2) * step for i in range(n)]


def _through_gaps(arrows: Sequence[Arrow], ends: Sequence[tuple[Point, Point]], layout: Layout) -> list[list[Point]]:
    """For each arrow the points that it passes: a straight line, moved aside where a box is in its way."""
    wanted = defaultdict[int, list[_Crossing]](list)
    for i, (arrow, (start, end)) in enumerate(zip(arrows, ends, strict=True)):
        for row in _rows_between(arrow, layout) or ():
            low, high = (_on_line(start, end, y) for y in (layout.rows[row].low, layout.rows[row].high))
            wanted[row].append(_Crossing((low + high) / 2, abs(high - low) / 2, arrow.width, i))
    points = [[start] for start, _ in ends]
    for row in sorted(wanted):
        low, high = layout.rows[row].low, layout.rows[row].high
        moved = _move_aside(sorted(wanted[row]), _gaps(layout, row))
        for crossing in wanted[row]:
            if crossing.arrow in moved:  # upright past the boxes
                crossed = [(moved[crossing.arrow], low), (moved[crossing.arrow], high)]
            else:
                crossed = [(_on_line(*ends[crossing.arrow], y), y) for y in (low, high)]
            points[crossing.arrow] += crossed
    return [[*each, end] for each, (_, end) in zip(points, ends, strict=True)]


def _on_line(start: Point, end: Point, y: float) -> float:
    return start[0] + (end[0] - start[0]) * (y - start[1]) / (end[1] - start[1])


def _gaps(layout: Layout, row: int) -> list[tuple[float, float]]:
    """Where a row can be passed; the outermost gaps have no end."""
    boxes = sorted((place.left, place.right) for place in layout.places if place.row == row)
    edges = [float("-inf"), *(x for box in boxes for x in box), float("inf")]
    return [(low + _CLEARANCE, high - _CLEARANCE) for low, high in zip(edges[::2], edges[1::2], strict=True)]


def _move_aside(crossings: Sequence[_Crossing], gaps: Sequence[tuple[float, float]]) -> dict[int, float]:
    """Where arrows pass, by their numbers, if not where they want to: in the nearest gap, side by side."""
    at_left, at_right = defaultdict[int, list[_Crossing]](list), defaultdict[int, list[_Crossing]](list)
    for crossing in crossings:
        gap = min(range(len(gaps)), key=lambda g: (max(gaps[g][0] - crossing.x, crossing.x - gaps[g][1], 0.0), g))
        low, high = gaps[gap]
        reach = crossing.reach + crossing.width / 2
        if low <= crossing.x - reach and crossing.x + reach <= high:
            continue
        (at_left if crossing.x - low < high - crossing.x else at_right)[gap].append(crossing)
    out = dict[int, float]()
    for gap, (low, high) in enumerate(gaps):
        room = sum(crossing.width + _APART for crossing in at_left[gap] + at_right[gap])
        scale = min(1.0, (high - low) / room) if room else 1.0
        x = low
        for crossing in at_left[gap]:
            out[crossing.arrow] = x + scale * crossing.width / 2
            x += scale * (crossing.width + _APART)
        x = high
        for crossing in reversed(at_right[gap]):
            out[crossing.arrow] = x - scale * crossing.width / 2
            x -= scale * (crossing.width + _APART)
    return out


def _smooth(points: Sequence[Point]) -> list[Point]:
    """A curve through points that lie ever higher: it starts and ends upright, and never swings past a point.

    x is a cubic of y between points; its slopes are the harmonic means of the chords', 0 where they turn.

    Source: Fritsch and Butland 1984, "A method for constructing local monotone piecewise cubic interpolants"
    """
    chords = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(points)]
    slopes = [0.0, *(2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in pairwise(chords)), 0.0]
    out = [points[0]]
    for (a, b), (slope_a, slope_b) in zip(pairwise(points), pairwise(slopes), strict=True):
        third = (b[1] - a[1]) / 3
        out += [(a[0] + slope_a * third, a[1] + third), (b[0] - slope_b * third, b[1] - third), b]
    return out


def _sideways(source: Place, target: Place) -> list[Point]:
    """An arc on the right, between boxes of one row or downward: supernodes may read each other."""
    bulge = max(source.right, target.right) + 30.0
    start, end = (source.right, source.y), (target.right, target.y)
    return [start, (bulge, source.y), (bulge, target.y), end]
