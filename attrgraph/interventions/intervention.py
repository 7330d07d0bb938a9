"""What to change in a run: nodes that are set to something else, and what these then write."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement, add_written
from attrgraph.errors import InterventionError, as_whole, checked, is_finite
from attrgraph.schema import canonical_id
from attrgraph.transcoders import ActiveFeatures, Transcoders
from attrgraph.transcoders.transcoders import FeatureKey

# the same at several positions; with an open slice also at those that are generated
Positions = int | slice
Place = str | tuple[int, int, Positions]
# as users write it: a graph's id of the node, or numbers of whatever integer type their table has
Node = str | tuple[SupportsIndex, SupportsIndex, SupportsIndex | slice | range]
# LAYER/FEATURE@START:STOP, either end open; or one position, from the end
_PLACES = re.compile(r"(\d+)/(-1|\d+)@(?:(-\d+)|(-?\d+)?:(-?\d+)?)")
_FEATURE, _EMBEDDING = re.compile(r"(\d+)_(-1|\d+)_(\d+)"), re.compile(r"E_(\d+)_(\d+)")


@checked
@dataclass(frozen=True)
class Intervention:
    """Nodes that are set, all in the same way: exactly one of `value`, `scale` and `add`.

    Args:
        nodes: one or several. A node is the id that graphs give: `3_458_8` or `3/458@8` a feature, `3_-1_8` an error,
            `E_45_5` an embedding; or, for a feature, (layer, feature, position). A feature can be named at several
            positions: `3/458@2:5`, or a slice or a range in the triple. `3/458@8:` and `slice(8, None)` are all from
            8 on, in `generate` those of new tokens too; -1 is the prompt's last. Features need not be active.
        value: the new activation; features only.
        scale: a multiple of what the node is in the unchanged run; 0 takes it out, negative numbers reverse its sign.
        add: a number added to the activation in the unchanged run; features only.

    Raises:
        InterventionError: none or several of the three are given.
    """

    nodes: Node | Iterable[Node]
    value: float | None = None
    scale: float | None = None
    add: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, str) and not _is_key(self.nodes):  # so that they can be gone through twice
            object.__setattr__(self, "nodes", tuple(self.nodes))
        given = [name for name in ("value", "scale", "add") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise InterventionError(f"a node is set by one of value, scale and add; got {got}.")
        number = getattr(self, given[0])
        if not is_finite(number):
            raise InterventionError(f"a node is set by {given[0]} {number!r:.60}; expected a finite number.")

    def each(self) -> list[Place]:
        """The nodes one by one: the id of an embedding, else (layer, feature, positions), the feature -1 for an error.

        Raises:
            InterventionError: something is no node.
        """
        is_one = isinstance(self.nodes, str) or _is_key(self.nodes)
        return [_key_of(node) for node in ([self.nodes] if is_one else self.nodes)]

    def activation(self, now: float) -> float:
        """The new activation of a feature that has this one."""
        if self.value is not None:
            return self.value
        return now * self.scale if self.scale is not None else now + (self.add or 0.0)


@dataclass
class Changes:
    """What interventions change in one prompt's run."""

    features: dict[FeatureKey, tuple[float, float]] = field(default_factory=dict)  # activation before and after
    # added to MLP outputs by (layer, position); at layer -1 to the stream below all layers
    vectors: dict[tuple[int, int], Float[Tensor, " d_model"]] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """At which features or errors are set."""
        return [layer for layer, *_ in (*self.features, *self.vectors) if layer >= 0]

    def undone(self) -> "Changes":
        """The same features set to what they are in the unchanged run."""
        return Changes({key: (now, now) for key, (now, _) in self.features.items()})

    def embedding(self, local: LocalReplacement) -> Float[Tensor, "n_pos d_model"]:
        """What is added to the stream below all layers."""
        out = torch.zeros_like(local.run.embedding)
        for (layer, pos), vector in self.vectors.items():
            if layer == -1:
                out[pos] = vector
        return out

    def add_errors(self, outs: Sequence[Tensor] | Tensor) -> None:
        """Add what errors change to the MLP outputs of all layers."""
        for (layer, pos), vector in self.vectors.items():
            if layer >= 0:
                outs[layer][pos] += vector

    def writes(
        self, local: LocalReplacement, *, own_layer_only: bool = False
    ) -> Float[Tensor, "n_layers n_pos d_model"]:
        """What is added to each layer's MLP output: changed features' writes, in their own layer only if so asked."""
        out = torch.zeros_like(local.errors)
        self.add_errors(out)
        add_changes(out, local.transcoders, self.features, own_layer_only=own_layer_only)
        return out


def add_changes(
    out: Float[Tensor, "n_layers n_pos d_model"],
    transcoders: Transcoders,
    features: Mapping[FeatureKey, tuple[float, float]],
    *,
    own_layer_only: bool,
) -> None:
    """Add to MLP outputs what features write more, or less, when their activations go from one value to another."""
    keys = sorted((layer, pos, feature) for layer, feature, pos in features)
    layer, pos, feature = torch.tensor(keys, device=out.device, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    values = [features[i, k, j] for i, j, k in keys]
    changed = ActiveFeatures(layer, pos, feature, out.new_tensor([after - before for before, after in values]))
    for one in layer.unique().tolist():
        into = out[: one + 1] if own_layer_only else out
        add_written(into, transcoders, changed, one, changed.activation[changed.in_layer(one)])


def resolve(local: LocalReplacement, interventions: Iterable[Intervention]) -> Changes:
    """Find the nodes in a prompt's run.

    Raises:
        InterventionError: a node that the run does not have or that cannot be set this way, or one that is set twice.
    """
    changes, seen = Changes(), set[str | FeatureKey]()
    places = [(one, key) for one in interventions for key in places_of(local, one)]
    if not places:
        raise InterventionError("nothing is set; name at least one node.")
    for one, key in places:
        if key in seen:
            raise InterventionError(f"node {key} is set twice; set it once.")
        seen.add(key)
        if isinstance(key, str):
            _set_embedding(local, changes, key, one)
        elif key[1] == -1:
            layer, _, pos = key
            changes.vectors[layer, pos] = (_scale_of(one, key) - 1) * local.errors[layer, pos]
    features = [(one, key) for one, key in places if not isinstance(key, str) and key[1] != -1]
    for (one, key), now in zip(features, local.active.at([key for _, key in features]), strict=True):
        if one.scale is not None and not now:
            raise InterventionError(
                f"feature {key} is not active, so no multiple of it changes anything; give a value."
            )
        changes.features[key] = now, one.activation(now)
    return changes


def _is_key(node: Any) -> bool:
    """Whether it is (layer, feature, positions), the numbers of whatever integer type a table has."""
    if not isinstance(node, Sequence) or isinstance(node, str) or len(node) != 3:
        return False
    return None not in map(as_whole, node[:2]) and (isinstance(node[2], slice | range) or as_whole(node[2]) is not None)


def _key_of(node: Any) -> Place:
    """See `Intervention.each`."""
    if isinstance(node, str):
        node = canonical_id(node)
        several = _PLACES.fullmatch(node.strip())
        if several:
            layer, number, one, *ends = several.groups()
            start, stop = (int(end) if end else None for end in ends)
            return int(layer), int(number), int(one) if one else slice(start, stop)
        feature, embedding = _FEATURE.fullmatch(node), _EMBEDDING.fullmatch(node)
        if embedding:
            return f"E_{int(embedding[1])}_{int(embedding[2])}"
        return (int(feature[1]), int(feature[2]), int(feature[3])) if feature else node
    if not _is_key(node):
        raise InterventionError(f"node {node!r} is no node; expected a graph's node id, or (layer, feature, position).")
    layer, feature, pos = node
    return int(layer), int(feature), int(pos) if not isinstance(pos, slice | range) else _slice_of(pos, node)


def _slice_of(positions: slice | range, node: Any) -> slice:
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


def places_of(local: LocalReplacement, one: Intervention) -> list[str | FeatureKey]:
    """The nodes of one prompt, position by position; of several positions those that are skipped are left out."""
    n_pos, skipped = local.run.n_pos, set(local.is_skipped.nonzero().flatten().tolist())
    found = list[str | FeatureKey]()
    for node in one.each():
        if isinstance(node, str):
            found.append(node)
            continue
        layer, feature, where = node
        if isinstance(where, int):
            key = (layer, feature, where + n_pos if where < 0 else where)
            _check(local, key, is_skipped=key[2] in skipped)
            found.append(key)
            continue
        places = [(layer, feature, pos) for pos in range(n_pos)[where] if pos not in skipped]
        for key in places:
            _check(local, key, is_skipped=False)
        if one.scale is not None and feature != -1:  # a multiple of nothing
            places = [key for key, now in zip(places, local.active.at(places), strict=True) if now]
        if not places:
            raise InterventionError(f"{node}: at none of these positions of 0 to {n_pos - 1} is anything to set.")
        found += places
    return found


def _set_embedding(local: LocalReplacement, changes: Changes, node: str, one: Intervention) -> None:
    match, token_ids = _EMBEDDING.fullmatch(node), local.run.token_ids.tolist()
    if not match or int(match[2]) >= len(token_ids) or token_ids[int(match[2])] != int(match[1]):
        raise InterventionError(
            f"node {node!r} is not in this prompt's graph; expected LAYER/FEATURE@POSITION or LAYER_FEATURE_POSITION, "
            "as 3/458@5 (at several positions 3/458@2:5, at all 3/458@0:), LAYER_-1_POSITION (an error), "
            f"E_TOKEN_POSITION (an embedding), or (layer, feature, position), at positions 0 to {len(token_ids) - 1}."
        )
    pos = int(match[2])
    changes.vectors[-1, pos] = (_scale_of(one, node) - 1) * local.run.embedding[pos]


def _check(local: LocalReplacement, key: FeatureKey, *, is_skipped: bool) -> None:
    """Raise unless the run has the error or feature."""
    layer, feature, pos = key
    if not 0 <= layer < local.run.n_layers or not 0 <= pos < local.run.n_pos:
        raise InterventionError(
            f"node {key} (layer, feature, position) is not in this prompt's run of {local.run.n_layers} layers and "
            f"{local.run.n_pos} positions."
        )
    n_features = local.transcoders.n_features[layer]
    if feature != -1 and n_features == 0:
        raise InterventionError(f"layer {layer} has no features: its transcoder is missing; change {layer}_-1_{pos}.")
    if not -1 <= feature < n_features:
        raise InterventionError(f"layer {layer} has features 0 to {n_features - 1}; got {feature}.")
    if is_skipped:
        what = "error" if feature == -1 else "features"
        raise InterventionError(f"position {pos} has no {what}: it is skipped (skip_positions, --skip-positions).")


def _scale_of(one: Intervention, node: str | FeatureKey) -> float:
    if one.scale is None:
        raise InterventionError(f"node {node} is a vector, which has no activation; set it by scale.")
    return one.scale
