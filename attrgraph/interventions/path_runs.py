"""Runs of path patching: a sender changed with all else held, and a receiver changed with all above it live."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrgraph.interventions.patch_pair import PatchedPair
from attrgraph.interventions.patch_sites import Patches, Recorded, observed_sites
from attrgraph.interventions.patched_runs import gradients, rows_at_once
from attrgraph.models.components import Site
from attrgraph.models.frozen import widened
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress

ANSWER = "answer"
# what is kept of every layer of a sender's run, in widths of the stream: queries, keys, values, MLPs, and copies
_KEPT_STREAMS = 8


@dataclass(frozen=True)
class Part:
    """A sender or a receiver; only heads have a number, embeddings lie at layer -1, the answer above all layers."""

    kind: str
    layer: int
    head: int = -1

    @property
    def name(self) -> str:
        """Such as head:1.2, mlp:3, answer."""
        layer = "" if self.kind in ("embedding", ANSWER) else f":{self.layer}"
        return f"{self.kind}{layer}" + ("" if self.head < 0 else f".{self.head}")

    @property
    def site(self) -> Site:
        """Where it is changed."""
        return Site("resid", 0) if self.kind == "embedding" else Site(self.kind, self.layer)

    def of(self, x: Tensor) -> Tensor:
        """Its part of what the site computes, [..., n_pos, d]."""
        return x if self.head < 0 else x[..., self.head, :]


Edge = tuple[Part, Part, float]


def edge_effects(
    model: LanguageModel,
    pair: PatchedPair,
    senders: Sequence[Part],
    receivers: Sequence[Part],
    *,
    is_exact: bool,
    memory_budget: int | str | None,
    progress: Progress,
) -> list[Edge]:
    """The effect of every edge from a sender up to a receiver, by sender; see `patch_paths`."""
    n_pos, found = len(pair.base.token_ids), list[Edge]()
    sites = {one.site for one in receivers if one.kind != ANSWER}
    slopes = {} if is_exact or not sites else gradients(model, pair.base, sites, pair.measure)
    n_senders = rows_at_once(model, n_pos, memory_budget, n_kept=_KEPT_STREAMS)
    n_rows = rows_at_once(model, n_pos, memory_budget)
    before = float(pair.measure.of(pair.base.logits[None])[0])
    for start in range(0, len(senders), n_senders):
        some = senders[start : start + n_senders]
        told, logits = _told(model, pair, some, sites)
        direct = pair.measure.of(logits) - before
        # by receiver, so that few sites of a batch are observed
        pairs = [(i, to) for to in receivers for i in range(len(some)) if _is_above(model, some[i], to)]
        live = [(i, to) for i, to in pairs if to.kind != ANSWER]
        if is_exact:
            effects = iter(_live_effects(model, pair, live, told, n_rows))
        else:
            effects = (
                float((to.of(told[to.site][i]).double() * to.of(slopes[to.site]).double()).sum()) for i, to in live
            )
        edges = [(some[i], to, float(direct[i]) if to.kind == ANSWER else next(effects)) for i, to in pairs]
        found += sorted(edges, key=lambda edge: senders.index(edge[0]))
        progress("paths", start + len(some), len(senders))
    return found


def _is_above(model: LanguageModel, sender: Part, receiver: Part) -> bool:
    """Whether the receiver reads a stream to which the sender has added."""
    if receiver.layer == sender.layer:
        is_parallel = model.family.is_parallel(model.config)
        return receiver.kind == "mlp" and sender.kind in ("head", "attn") and not is_parallel
    return receiver.layer > sender.layer


@torch.no_grad()
def _told(
    model: LanguageModel, pair: PatchedPair, senders: Sequence[Part], sites: set[Site]
) -> tuple[dict[Site, Tensor], Tensor]:
    """Of each sender, a row: what it changes at receivers' sites while all else is held; and the logits."""
    base, changed = pair.base, list(_changes(pair, senders))
    told = dict[Site, Tensor]()

    def see(site: Site, x: Tensor) -> Tensor | None:
        if site in sites:
            told[site] = widened(x) - base.values[site]
        new = x.clone()
        if site.kind in ("attn", "mlp"):
            # of a layer's own heads attention adds what they make of it
            is_held = [site.kind == "mlp" or (one.kind, one.layer) != ("head", site.layer) for one in senders]
            new[torch.tensor(is_held, device=x.device)] = base.values[site].to(x)
        for row, patches, some in changed:
            if patches.site == site:
                patches.add_to(new, torch.full_like(some, row), some)
        return new

    layers = range(model.n_layers)
    held = {Site(kind, layer) for kind in ("attn", "mlp") for layer in layers}
    with observed_sites(model, held | sites | {one.site for one in senders}, see):
        logits = model.logits(base.token_ids.expand(len(senders), -1), logits_to_keep=1)[:, -1]
    return told, logits


def _changes(pair: PatchedPair, senders: Sequence[Part]) -> Iterator[tuple[int, Patches, Tensor]]:
    """Of each sender's row, what is changed: at all positions."""
    by_place = {(patches.kind, patches.layer): patches for patches in pair.patches}
    for row, sender in enumerate(senders):
        patches = by_place[sender.kind, sender.layer]
        is_own = patches.is_changed if patches.head is None else patches.is_changed & (patches.head == sender.head)
        yield row, patches, is_own.nonzero()[:, 0]


@torch.no_grad()
def _live_effects(
    model: LanguageModel, pair: PatchedPair, edges: Sequence[tuple[int, Part]], told: dict[Site, Tensor], n_rows: int
) -> Iterator[float]:
    """The metric with each edge's receiver changed by what its sender told it, minus the metric without."""
    before = pair.measure.of(pair.base.logits[None])[0]
    for start in range(0, len(edges), n_rows):
        batch = edges[start : start + n_rows]
        yield from (pair.measure.of(_with_told(model, pair.base, batch, told)) - before).tolist()


def _with_told(
    model: LanguageModel, base: Recorded, edges: Sequence[tuple[int, Part]], told: dict[Site, Tensor]
) -> Tensor:
    """Logits of runs in each of which one receiver is changed."""

    def see(site: Site, x: Tensor) -> Tensor:
        x = x.clone()
        for row, (sender, receiver) in enumerate(edges):
            if receiver.site == site:
                own = receiver.of(x[row])  # a view
                own.copy_(widened(own) + receiver.of(told[site][sender]))
        return x

    with observed_sites(model, {receiver.site for _, receiver in edges}, see):
        return model.logits(base.token_ids.expand(len(edges), -1), logits_to_keep=1)[:, -1]
