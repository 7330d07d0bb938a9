"""What follows from changes where attention patterns and norm scales stay as they were."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement, activations_at, add_written, run_replaced
from attrgraph.errors import InterventionError
from attrgraph.interventions.component_changes import apply_changes
from attrgraph.interventions.intervention import Changes
from attrgraph.models.components import Site
from attrgraph.transcoders import ActiveFeatures


def check_not_of_patterns(changes: Changes) -> None:
    """Raise InterventionError if queries or keys are set, which decide patterns only."""
    for one in changes.components:
        if one.site.kind in ("q", "k"):
            raise InterventionError(
                f"{one.site.kind}:{one.site.layer}.{one.head}: with attention patterns frozen, nothing follows from "
                "queries and keys; set them in mode constrained or free."
            )


def frozen_change(
    local: LocalReplacement, changes: Changes, unchanged: Mapping[Site, Tensor]
) -> tuple[Tensor, ActiveFeatures]:
    """The changes alone, carried up through linear maps: of uncapped logits, and what features would read.

    `unchanged`: what the components that are set compute in the unchanged run.
    """
    run, active, writes, read_changes = local.run, local.active, changes.writes(local), list[Tensor]()

    def out_at(layer: int, read: Tensor) -> Tensor:
        read_changes.append(activations_at(local, layer, read, is_linear=True))
        return writes[layer]

    def see(layer: int, kind: str, change: Tensor) -> Tensor:
        site = Site(kind, layer)
        if site not in unchanged:
            return change
        now = unchanged[site] + change
        new = apply_changes(site, now[None], [changes.components])
        return change if new is None else change + (new[0] - now)

    stream = changes.embedding(local)
    for layer in range(run.n_layers):
        stream = local.carry(layer, stream, out_at, is_linear=True, see=partial(see, layer))
    stream = see(run.n_layers, "resid", stream)
    would_read = replace(active, activation=active.activation + torch.cat(read_changes))
    return run.W_U @ run.final_norm.linear(stream)[-1], would_read


def with_frozen_attention(local: LocalReplacement, changes: Changes) -> tuple[Tensor, ActiveFeatures]:
    """Uncapped logits of the local replacement model with features recomputed, and their activations."""
    outs, parts = list[Tensor](local.errors + local.constants), list[ActiveFeatures]()
    changes.add_errors(outs)

    def out_at(layer: int, read: Tensor) -> Tensor:
        active = _with_set(local.transcoders.encode_one(layer, read, local.is_skipped), changes, layer)
        parts.append(active)
        add_written(outs, local.transcoders, active, layer, active.activation)
        return outs[layer]

    def see(layer: int, kind: str, x: Tensor) -> Tensor:
        new = apply_changes(Site(kind, layer), x[None], [changes.components])
        return x if new is None else new[0]

    logits = run_replaced(local, local.run.embedding + changes.embedding(local), out_at, see)
    return logits, ActiveFeatures.join(parts)


def _with_set(active: ActiveFeatures, changes: Changes, layer: int) -> ActiveFeatures:
    """One layer's features, those that are set with their new activations."""
    here = {key: after for key, (_, after) in changes.features.items() if key[0] == layer}
    return active.with_set(list(here), list(here.values())) if here else active
