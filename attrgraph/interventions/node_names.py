"""How users name what is set: nodes of graphs, features at several positions, components of blocks, directions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from attrgraph.attribution.direction import Direction
from attrgraph.errors import InterventionError, as_whole
from attrgraph.schema import canonical_id

# the same at several positions; with an open slice also at those that are generated
Positions = int | slice


@dataclass(frozen=True)
class Component:
    """A component of a block at some positions; see `models.components`."""

    kind: str
    layer: int
    head: int | None  # of q, k, v and head
    positions: Positions
    name: str


# of tuples, (-1, -1, positions) are embeddings
Place = str | tuple[int, int, Positions] | Component | Direction
# as users write it: a graph's id of the node, or numbers of whatever integer type their table has
Node = str | tuple[SupportsIndex, SupportsIndex, SupportsIndex | slice | range] | Component | Direction
# LAYER/FEATURE@START:STOP, either end open; or one position, from the end
_PLACES = re.compile(r"(\d+)/(-1|\d+)@(?:(-\d+)|(-?\d+)?:(-?\d+)?)")
_FEATURE, EMBEDDING = re.compile(r"(\d+)_(-1|\d+)_(\d+)"), re.compile(r"E_(\d+)_(\d+)")
# KIND:LAYER.HEAD@POSITIONS; without positions at all
_EMBEDDINGS = re.compile(r"embedding(?:@(?:(-?\d+)|(-?\d+)?:(-?\d+)?))?")
_COMPONENT = re.compile(r"([a-z_]+):(\d+)(?:\.(\d+))?(?:@(?:(-?\d+)|(-?\d+)?:(-?\d+)?))?")
_OF_HEADS = ("head", "q", "k", "v")
_WITHOUT = ("attn", "mlp", "resid", "resid_mid")


def is_key(node: Any) -> bool:
    """Whether it is (layer, feature, positions), the numbers of whatever integer type a table has."""
    if not isinstance(node, Sequence) or isinstance(node, str) or len(node) != 3:
        return False
    return None not in map(as_whole, node[:2]) and (isinstance(node[2], slice | range) or as_whole(node[2]) is not None)


def place_of(node: Any) -> Place:
    """See `Intervention.each`."""
    if isinstance(node, Component | Direction):
        return node
    if isinstance(node, str):
        return _place_of_text(canonical_id(node).strip())
    if not is_key(node):
        raise InterventionError(f"node {node!r} is no node; expected a graph's node id, or (layer, feature, position).")
    layer, feature, pos = node
    return int(layer), int(feature), int(pos) if not isinstance(pos, slice | range) else slice_of(pos, node)


def _place_of_text(node: str) -> Place:
    if several := _PLACES.fullmatch(node):
        layer, number, one, *ends = several.groups()
        return int(layer), int(number), _positions(one, *ends)
    if embeddings := _EMBEDDINGS.fullmatch(node):
        return -1, -1, _positions(*embeddings.groups())
    if component := _COMPONENT.fullmatch(node):
        kind, layer, head, one, *ends = component.groups()
        _check_component(node, kind, head)
        return Component(kind, int(layer), None if head is None else int(head), _positions(one, *ends), node)
    if embedding := EMBEDDING.fullmatch(node):
        return f"E_{int(embedding[1])}_{int(embedding[2])}"
    feature = _FEATURE.fullmatch(node)
    return (int(feature[1]), int(feature[2]), int(feature[3])) if feature else node


def _check_component(name: str, kind: str, head: str | None) -> None:
    if kind not in (*_OF_HEADS, *_WITHOUT):
        raise InterventionError(f"{name}: component {kind!r} is not known; {COMPONENTS}.")
    if (kind in _OF_HEADS) != (head is not None):
        expected = f"{kind}:LAYER.HEAD, such as {kind}:2.0@8" if head is None else f"{kind}:LAYER, such as {kind}:2@8"
        raise InterventionError(f"{name} names {'no' if head is None else 'a'} head; expected {expected}.")


COMPONENTS = (
    f"expected {', '.join(kind + ':LAYER.HEAD' for kind in _OF_HEADS)}, {', '.join(k + ':LAYER' for k in _WITHOUT)}"
)


def _positions(one: str | None, start: str | None, stop: str | None) -> Positions:
    return int(one) if one else slice(*(int(end) if end else None for end in (start, stop)))


def slice_of(positions: slice | range, node: Any) -> slice:
    """Positions as a slice of Python's numbers: a range names no others, and counts none from the end."""
    ends = [positions.start, positions.stop]
    step = 1 if positions.step is None else positions.step
    if not all(end is None or as_whole(end) is not None for end in ends) or (as_whole(step) or 0) < 1:
        raise InterventionError(
            f"node {node!r} counts positions down, or not in whole numbers; expected a slice with a step above 0."
        )
    if isinstance(positions, range) and min(ends) < 0:
        raise InterventionError(
            f"node {node!r} has a range below 0, which the text does not reach; give a slice to count from the end."
        )
    start, stop = (None if end is None else int(end) for end in ends)
    return slice(start, stop, None if step == 1 else int(step))


def counted(positions: Positions, n_prompt: int, n_total: int) -> range:
    """Positions of a text of so many that begins with a prompt; those from the end count from the prompt's."""
    if isinstance(positions, int):
        pos = positions + n_prompt if positions < 0 else positions
        return range(pos, pos + 1) if 0 <= pos < n_total else range(0)
    start, stop = (max(0, n_prompt + i) if i is not None and i < 0 else i for i in (positions.start, positions.stop))
    return range(n_total)[start : stop : positions.step]
