"""What to change in a run: nodes that are set to something else, and what these then write."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.direction import Direction
from attrgraph.attribution.replacement import LocalReplacement, add_written
from attrgraph.errors import InterventionError, as_whole, checked, is_finite, listed
from attrgraph.interventions.component_changes import ComponentChange, along, unit_of
from attrgraph.interventions.node_names import (
    COMPONENTS,
    EMBEDDING,
    Component,
    Node,
    Place,
    counted,
    is_key,
    place_of,
    slice_of,
)
from attrgraph.models.components import Site
from attrgraph.transcoders import ActiveFeatures, Transcoders
from attrgraph.transcoders.transcoders import FeatureKey

_WAYS = ("value", "scale", "add", "mean", "from_prompt")


@checked
@dataclass(frozen=True)
class Intervention:
    """Nodes that are set, all in the same way: by exactly one of `value`, `scale`, `add`, `mean` and `from_prompt`.

    A feature has an activation; errors, embeddings and components of blocks are vectors. Features, errors and
    embeddings are set to, or by, what they are in the unchanged run; components and directions where they are computed,
    so that a multiple is one of what other changes have made of them, as a hook in the model would do it.

    Args:
        nodes: one or several. A node is the id that graphs give: `3_458_8` or `3/458@8` a feature, `3_-1_8` an error,
            `E_45_5` or `embedding@5` an embedding; or, for a feature, (layer, feature, position). A feature can be
            named at several positions: `3/458@2:5`, or a slice or a range in the triple. `3/458@8:` and
            `slice(8, None)` are all from 8 on, in `generate` those of new tokens too; -1 is the prompt's last. Features
            need not be active.
            A component is `head:2.0@8` (what head 0 of block 2 mixes), `attn:2@8` and `mlp:2@8` (what they add to the
            stream), `resid:2@8` (the stream that enters block 2; that of a block too many enters the final norm),
            `resid_mid:2@8` (after attention), or `q:2.0@8`, `k:2.0@8` and `v:2.0@8`, at positions as above, and without
            any at all; or a `Direction`.
        value: the new activation; of a vector, a row of as many numbers; of a direction, its unit vector's coefficient.
        scale: a multiple of what the node is; 0 takes it out, negative numbers reverse its sign. Of a direction, 0
            projects it out.
        add: added to the activation, to the vector, or to the coefficient.
        mean: a text, or several, each as a prompt: the node is set to its mean over all their positions but skipped
            ones, a feature to its mean activation.
        from_prompt: another prompt of the same length: the node is set to what it is there at the same position.

    Raises:
        InterventionError: none or several of the five are given.
    """

    nodes: Node | Iterable[Node]
    value: Any = None  # a number, or a row of them in whatever holds one
    scale: float | None = None
    add: Any = None
    mean: Any = None  # a prompt or several
    from_prompt: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, str | Component | Direction) and not is_key(
            self.nodes
        ):  # to be gone through twice
            object.__setattr__(self, "nodes", tuple(self.nodes))
        given = [name for name in _WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise InterventionError(f"a node is set by one of {', '.join(_WAYS[:-1])} and {_WAYS[-1]}; got {got}.")
        (name,) = given
        if name in ("mean", "from_prompt"):
            return
        number = getattr(self, name)
        row = None if name == "scale" else listed(number)
        if row is not None and row and all(map(is_finite, row)):
            object.__setattr__(self, name, tuple(float(each) for each in row))
        elif not is_finite(number):
            expected = "a finite number" if name == "scale" else "a finite number, or of a vector a row of them"
            raise InterventionError(f"a node is set by {name} {number!r:.60}; expected {expected}.")

    def each(self) -> list[Place]:
        """The nodes one by one: the id of an embedding, (layer, feature, positions), -1 for an error, or a component.

        Raises:
            InterventionError: something is no node.
        """
        is_one = isinstance(self.nodes, str | Component | Direction) or is_key(self.nodes)
        return [place_of(node) for node in ([self.nodes] if is_one else self.nodes)]  # type: ignore[union-attr]

    def activation(self, now: Any) -> Any:
        """The new activation of a feature that has this one, or the new coefficient of a direction."""
        if self.value is not None:
            return self.value
        return now * self.scale if self.scale is not None else now + (self.add or 0.0)

    def vector(self, now: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """What takes the place of a vector."""
        if self.scale is not None:
            return now * self.scale
        given = now.new_tensor(self.value if self.value is not None else self.add)
        return given.expand_as(now) if self.value is not None else now + given

    def check_width(self, node: object, width: int | None) -> None:
        """Raise InterventionError unless the node, a vector of this width, or else a number, can be set so."""
        given = self.value if self.value is not None else self.add
        n = len(given) if isinstance(given, tuple) else None
        if given is None or n == width:
            return
        got = "one number" if n is None else f"{n} numbers"
        if width is None:
            raise InterventionError(f"node {node} is one number; value and add take one, got {got}.")
        raise InterventionError(
            f"node {node} is a vector of {width} numbers; set it by scale, mean or from_prompt, or by value or add "
            f"with so many; got {got}."
        )


@dataclass
class Changes:
    """What interventions change in one prompt's run."""

    features: dict[FeatureKey, tuple[float, float]] = field(default_factory=dict)  # activation before and after
    # added to MLP outputs by (layer, position); at layer -1 to the stream below all layers
    vectors: dict[tuple[int, int], Float[Tensor, " d_model"]] = field(default_factory=dict)
    components: list[ComponentChange] = field(default_factory=list)

    @property
    def layers(self) -> list[int]:
        """At which features or errors are set; components hold no MLP."""
        return [layer for layer, *_ in (*self.features, *self.vectors) if layer >= 0]

    def reaches(self, layer: int) -> bool:
        """Whether features of a layer may have changed before they are set."""
        return bool(self.components) or any(at < layer for at, *_ in (*self.features, *self.vectors))

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
    changes, sets = Changes(), list(interventions)
    places = [(one, key) for one in sets for key in places_of(local, one)]
    changes.components = component_changes(local, sets, local.run.n_pos)
    if not places and not changes.components:
        raise InterventionError("nothing is set; name at least one node.")
    seen = set[str | FeatureKey]()
    for one, key in places:
        if key in seen:
            raise InterventionError(f"node {key} is set twice; set it once.")
        seen.add(key)
        if isinstance(key, str):
            _set_embedding(local, changes, key, one)
        elif key[1] == -1:
            layer, _, pos = key
            one.check_width(key, local.errors.shape[-1])
            changes.vectors[layer, pos] = one.vector(local.errors[layer, pos]) - local.errors[layer, pos]
    features = [(one, key) for one, key in places if not isinstance(key, str) and key[1] != -1]
    for (one, key), now in zip(features, local.active.at([key for _, key in features]), strict=True):
        one.check_width(f"{key} (a feature)", None)
        if one.scale is not None and not now:
            raise InterventionError(
                f"feature {key} is not active, so no multiple of it changes anything; give a value."
            )
        changes.features[key] = now, one.activation(now)
    return changes


def places_of(local: LocalReplacement, one: Intervention) -> list[str | FeatureKey]:
    """Nodes of the prompt's graph, position by position; of several positions those that are skipped are left out."""
    n_pos, skipped = local.run.n_pos, set(local.is_skipped.nonzero().flatten().tolist())
    found = list[str | FeatureKey]()
    for node in one.each():
        if isinstance(node, Component | Direction):
            continue
        if isinstance(node, str):
            found.append(node)
            continue
        layer, feature, where = node
        if layer == feature == -1:
            found += _embeddings(local, where)
            continue
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


def _embeddings(local: LocalReplacement, where: int | slice) -> list[str]:
    n_pos, token_ids = local.run.n_pos, local.run.token_ids.tolist()
    found = [f"E_{token_ids[pos]}_{pos}" for pos in counted(where, n_pos, n_pos)]
    if not found:
        raise InterventionError(f"embedding: the prompt of positions 0 to {n_pos - 1} reaches none of {where}.")
    return found


def component_changes(local: LocalReplacement, sets: Iterable[Intervention], n_total: int) -> list[ComponentChange]:
    """How components and directions are set in a text of at most so many tokens that begins with the prompt.

    Raises:
        InterventionError: as `resolve`.
    """
    found, seen, n_prompt = list[ComponentChange](), set[Any](), local.run.n_pos
    for one in sets:
        for node in one.each():
            if not isinstance(node, Component | Direction):
                continue
            positions = counted(positions_of(node), n_prompt, n_total)
            if not positions:
                raise InterventionError(
                    f"{named(node)}: the text of positions 0 to {n_total - 1} reaches none of these."
                )
            key = tuple(unit_of(node).tolist()) if isinstance(node, Direction) else (node.kind, node.head)
            places = {(key, node.layer, pos) for pos in positions}
            if seen & places:
                raise InterventionError(f"node {named(node)} is set twice; set it once.")
            seen |= places
            found.append(_component_change(local, one, node, positions))
    return found


def positions_of(node: Component | Direction) -> int | slice:
    """Where a component is set."""
    where: Any = node.positions if isinstance(node, Component) else node.pos
    if where is None or isinstance(where, slice | range):
        return slice(None) if where is None else slice_of(where, named(node))
    pos = as_whole(where)
    if pos is None:
        raise InterventionError(f"{named(node)}: expected a whole number, a slice, or None for all positions.")
    return pos


def named(node: Component | Direction) -> str:
    """As messages say it."""
    return node.name if isinstance(node, Component) else f"Direction(..., layer={node.layer}, pos={node.pos})"


def _component_change(
    local: LocalReplacement, one: Intervention, node: Component | Direction, positions: range
) -> ComponentChange:
    d_model = local.errors.shape[-1]
    if isinstance(node, Direction):
        if len(node.vector) != d_model:
            raise InterventionError(f"{named(node)} has {len(node.vector)} numbers; the model's stream has {d_model}.")
        one.check_width(named(node), None)
        return ComponentChange(Site("resid", node.layer), None, positions, along(node, one.activation))
    site = Site(node.kind, node.layer)
    if node.head is None:
        one.check_width(node.name, d_model)
    elif node.layer < local.run.n_layers:  # of others `observed` says that there are none
        attention = local.run.blocks[node.layer].attention
        n_heads = len(attention.W_V if node.kind in ("k", "v") else attention.W_O)
        if node.head >= n_heads:
            raise InterventionError(f"{node.name}: the model has {node.kind} of heads 0 to {n_heads - 1}.")
        one.check_width(node.name, attention.W_O.shape[-1])
    return ComponentChange(site, node.head, positions, one.vector)


def _set_embedding(local: LocalReplacement, changes: Changes, node: str, one: Intervention) -> None:
    match, token_ids = EMBEDDING.fullmatch(node), local.run.token_ids.tolist()
    if not match or int(match[2]) >= len(token_ids) or token_ids[int(match[2])] != int(match[1]):
        raise InterventionError(
            f"node {node!r} is not in this prompt's graph; expected LAYER/FEATURE@POSITION or LAYER_FEATURE_POSITION, "
            "as 3/458@5 (at several positions 3/458@2:5, at all 3/458@0:), LAYER_-1_POSITION (an error), "
            f"E_TOKEN_POSITION (an embedding), or (layer, feature, position), at positions 0 to {len(token_ids) - 1}; "
            f"or a component: {COMPONENTS}, each followed by @POSITIONS or nothing."
        )
    pos = int(match[2])
    now = local.run.embedding[pos]
    one.check_width(node, len(now))
    changes.vectors[-1, pos] = one.vector(now) - now


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
