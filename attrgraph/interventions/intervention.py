"""What to change in a run: nodes that are set to something else, and what these then write."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement, add_written
from attrgraph.errors import InterventionError
from attrgraph.schema import canonical_id
from attrgraph.transcoders import ActiveFeatures, Transcoders

# (layer, feature, position)
FeatureKey = tuple[int, int, int]
# the same at several positions; with an open slice also at those that are generated
Positions = int | slice | range
Place = str | tuple[int, int, Positions]
# as users write it: a graph's id of the node, or numbers of whatever integer type their table has
Node = str | tuple[SupportsIndex, SupportsIndex, SupportsIndex | slice | range]
# LAYER/FEATURE@START:STOP, either end open
_RANGE = re.compile(r"(\d+)/(\d+)@(\d*):(\d*)")
_FEATURE, _EMBEDDING = re.compile(r"(\d+)_(-1|\d+)_(\d+)"), re.compile(r"E_(\d+)_(\d+)")


@dataclass(frozen=True)
class Intervention:
    """Nodes that are set, all in the same way: exactly one of `value`, `scale` and `add`.

    Args:
        nodes: one or several. A node is the id that graphs give: `3_458_8` or `3/458@8` a feature, `3_-1_8` an error,
            `E_45_5` an embedding; or, for a feature, (layer, feature, position). A feature can be named at several
            positions: `3/458@2:5`, or a slice or a range in the triple. `3/458@8:` and `slice(8, None)` are all from
            8 on, in `generate` those of new tokens too. Features need not be active.
        value: the new activation; features only.
        scale: a multiple of what the node is in the unchanged run; 0 takes it out, negative numbers reverse its sign.
        add: a number added to the activation in the unchanged run; features only.

    Raises:
        InterventionError: none or several of the three are given.
    """

    nodes: Node | Sequence[Node]
    value: float | None = None
    scale: float | None = None
    add: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("value", "scale", "add") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise InterventionError(f"a node is set by one of value, scale and add; got {got}.")
        number = getattr(self, given[0])
        if not math.isfinite(number):
            raise InterventionError(f"a node is set by {given[0]} {number}; expected a finite number.")

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

    embedding: Float[Tensor, "n_pos d_model"]  # added to the stream at the bottom
    errors: Float[Tensor, "n_layers n_pos d_model"]  # added to MLP outputs
    features: dict[FeatureKey, tuple[float, float]] = field(default_factory=dict)  # activation before and after
    layers: list[int] = field(default_factory=list)  # at which features or errors are set

    @staticmethod
    def none(local: LocalReplacement) -> "Changes":
        """That leave everything as it is."""
        return Changes(torch.zeros_like(local.run.embedding), torch.zeros_like(local.errors))

    def undone(self, local: LocalReplacement) -> "Changes":
        """The same features set to what they are in the unchanged run."""
        return replace(Changes.none(local), features={key: (now, now) for key, (now, _) in self.features.items()})

    def writes(
        self, local: LocalReplacement, *, own_layer_only: bool = False
    ) -> Float[Tensor, "n_layers n_pos d_model"]:
        """What is added to each layer's MLP output: changed features' writes, in their own layer only if so asked."""
        out = self.errors.clone()
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
    changes = Changes.none(local)
    seen = set[str | FeatureKey]()
    for one in interventions:
        for key in _places(local, one):
            if key in seen:
                raise InterventionError(f"node {key} is set twice; set it once.")
            seen.add(key)
            if isinstance(key, str):
                _set_embedding(local, changes, key, one)
            else:
                _set_in_layer(local, changes, key, one)
    if not seen:
        raise InterventionError("nothing is set; name at least one node.")
    return changes


def _is_key(node: Any) -> bool:
    """Whether it is (layer, feature, positions), the numbers of whatever integer type a table has."""
    if not isinstance(node, Sequence) or isinstance(node, str) or len(node) != 3:
        return False
    return all(isinstance(x, Integral) for x in node[:2]) and isinstance(node[2], Integral | slice | range)


def _key_of(node: Any) -> Place:
    """See `Intervention.each`."""
    if isinstance(node, str):
        node = canonical_id(node)
        several = _RANGE.fullmatch(node.strip())
        if several:
            layer, number, start, stop = several.groups()
            return int(layer), int(number), slice(int(start) if start else None, int(stop) if stop else None)
        feature, embedding = _FEATURE.fullmatch(node), _EMBEDDING.fullmatch(node)
        if embedding:
            return f"E_{int(embedding[1])}_{int(embedding[2])}"
        return (int(feature[1]), int(feature[2]), int(feature[3])) if feature else node
    if not _is_key(node):
        raise InterventionError(f"node {node!r} is no node; expected a graph's node id, or (layer, feature, position).")
    layer, feature, pos = node
    if not isinstance(pos, Integral) and (pos.step or 1) < 0:
        raise InterventionError(f"node {node!r} counts positions down; give the slice or range with a positive step.")
    return int(layer), int(feature), int(pos) if isinstance(pos, Integral) else pos


def _places(local: LocalReplacement, one: Intervention) -> Iterable[str | FeatureKey]:
    """The nodes of one prompt, position by position; of several positions those that are skipped are left out."""
    n_pos, skipped = local.run.n_pos, set(local.is_skipped.nonzero().flatten().tolist())
    for node in one.each():
        if isinstance(node, str) or isinstance(node[2], int):
            yield node  # type: ignore[misc]
            continue
        layer, feature, several = node
        positions: Iterable[int] = range(n_pos)[several] if isinstance(several, slice) else several  # type: ignore[assignment]
        places = [(layer, feature, pos) for pos in positions if pos not in skipped]
        if one.scale is not None:  # a multiple of nothing
            places = [key for key in places if feature == -1 or key in local.active.by_key]
        if not places:
            raise InterventionError(f"{node}: at none of these positions of 0 to {n_pos - 1} is anything to set.")
        yield from places


def _set_embedding(local: LocalReplacement, changes: Changes, node: str, one: Intervention) -> None:
    match, token_ids = _EMBEDDING.fullmatch(node), local.run.token_ids.tolist()
    if not match or int(match[2]) >= len(token_ids) or token_ids[int(match[2])] != int(match[1]):
        raise InterventionError(
            f"node {node!r} is not in this prompt's graph; expected LAYER_FEATURE_POSITION, LAYER_-1_POSITION (an "
            "error), E_TOKEN_POSITION (an embedding), or (layer, feature, position), at a position of 0 to "
            f"{len(token_ids) - 1}."
        )
    pos = int(match[2])
    changes.embedding[pos] = (_scale_of(one, node) - 1) * local.run.embedding[pos]


def _set_in_layer(local: LocalReplacement, changes: Changes, key: FeatureKey, one: Intervention) -> None:
    """Set an error, or a feature."""
    layer, feature, pos = key
    if not 0 <= layer < local.run.n_layers or not 0 <= pos < local.run.n_pos:
        raise InterventionError(
            f"node {key} (layer, feature, position) is not in this prompt's run of {local.run.n_layers} layers and "
            f"{local.run.n_pos} positions."
        )
    changes.layers.append(layer)
    if feature == -1:
        changes.errors[layer, pos] = (_scale_of(one, key) - 1) * local.errors[layer, pos]
        return
    n_features = local.transcoders.n_features[layer]
    if not 0 <= feature < n_features:
        raise InterventionError(f"layer {layer} has features 0 to {n_features - 1}; got {feature}.")
    if bool(local.is_skipped[pos]):
        raise InterventionError(f"position {pos} has no features: it is skipped (see skip_positions).")
    now = local.active.by_key.get(key, 0.0)
    if one.scale is not None and not now:
        raise InterventionError(f"feature {key} is not active, so no multiple of it changes anything; give a value.")
    changes.features[key] = now, one.activation(now)


def _scale_of(one: Intervention, node: str | FeatureKey) -> float:
    if one.scale is None:
        raise InterventionError(f"node {node} is a vector, which has no activation; set it by scale.")
    return one.scale
