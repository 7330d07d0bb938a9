"""What can be patched: of two runs, what each node of one adds or lacks in the other, and where that goes in.

A node's change is a vector: what the node is in the run that it is taken from, minus what it is in the run that it is
put into. It is added at one site and one position:

- components (`models.components`): where they are, heads at what the output projection reads;
- embeddings: to the stream that enters the first block;
- features and errors: where their layer's transcoder writes; of a feature what it writes into its own layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.models.components import KINDS, See, Site, observed, sites_of
from attrgraph.models.frozen import widened
from attrgraph.models.hooks import on_output
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import node_id

# of nodes that need transcoders
OF_TRANSCODERS = ("feature", "error")
PATCHED_KINDS = ("embedding", *OF_TRANSCODERS, *KINDS)
# the site where transcoders write, which differs from `mlp` by a norm behind the MLP or a factor
WRITES = "write"
# which have a row for each head
_OF_HEADS = ("q", "k", "v", "head")


@dataclass(frozen=True)
class Recorded:
    """One prompt's run."""

    token_ids: Int[Tensor, " n_pos"]
    values: dict[Site, Tensor]  # [n_pos, d_model] or [n_pos, n_heads, d_head], at least in float32
    logits: Float[Tensor, " d_vocab"]  # of the last position
    embedding: Float[Tensor, "n_pos d_model"] | None
    local: LocalReplacement | None


@dataclass(frozen=True)
class Places:
    """Positions that correspond to each other."""

    clean: Int[Tensor, " n_places"]  # by which nodes are named
    source: Int[Tensor, " n_places"]  # in the run that nodes are taken from
    base: Int[Tensor, " n_places"]  # in the run that is patched into


@dataclass(frozen=True)
class Patches:
    """Nodes of one kind and one layer, each of which is patched alone."""

    kind: str
    layer: int  # -1 of embeddings
    site: Site
    pos: Int[Tensor, " n"]  # in the clean prompt
    at: Int[Tensor, " n"]  # in the run that is patched into
    head: Int[Tensor, " n"] | None
    feature: Int[Tensor, " n"] | None  # index in its layer; the token of an embedding
    is_changed: Bool[Tensor, " n"]  # whether the node is not the same in both runs
    vectors: Callable[[Tensor], Tensor]  # changes of some nodes [n_some, d], by their numbers

    def __len__(self) -> int:
        return len(self.at)

    def add_to(self, x: Tensor, row: Tensor, some: Tensor) -> None:
        """Add the change of each of some nodes to a row of its own of what the site computes, in place."""
        index = (row, self.at[some]) if self.head is None else (row, self.at[some], self.head[some])
        x[index] = (widened(x[index]) + self.vectors(some)).to(x)

    def ids(self, names: Mapping[int, str] | None = None, *, of_one_prompt: bool = True) -> list[str]:
        """Names of the nodes: those of graphs, and of components such as `head:1.2@8` (layer, head, position).

        Args:
            names: of positions of the clean prompt, to be used instead.
            of_one_prompt: whether embeddings are called by their tokens.
        """
        positions = self.pos.tolist()
        features = [-1] * len(self) if self.feature is None else self.feature.tolist()
        places = [str(pos) if names is None else names[pos] for pos in positions]
        if self.kind in KINDS:
            heads = [""] * len(self) if self.head is None else [f".{head}" for head in self.head.tolist()]
            return [f"{self.kind}:{self.layer}{head}@{place}" for head, place in zip(heads, places, strict=True)]
        if self.kind == "embedding" and not of_one_prompt:
            return [f"embedding@{place}" for place in places]
        if names is not None and self.kind != "embedding":
            return [f"{self.layer}/{feature}@{place}" for feature, place in zip(features, places, strict=True)]
        return [str(node_id(self.kind, self.layer, *one)) for one in zip(positions, features, strict=True)]

    def where(self, is_wanted: Bool[Tensor, " n"]) -> "Patches":
        """Some of the nodes."""
        if bool(is_wanted.all()):
            return self
        kept, vectors = is_wanted.nonzero()[:, 0], self.vectors
        some: dict[str, Any] = {name: x[kept] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **some, vectors=lambda numbers: vectors(kept[numbers]))


@contextmanager
def observed_sites(model: LanguageModel, sites: Iterable[Site], see: See) -> Iterator[None]:
    """`models.components.observed`, also of where transcoders write."""
    sites = list(sites)
    layers = sorted({site.layer for site in sites if site.kind == WRITES})
    modules = []
    if layers:
        is_behind = model.need_transcoders().config.feature_output_hook == "hook_mlp_out"
        modules = [(model.mlp_module if is_behind else model.mlp_inner_module)(layer) for layer in layers]
    with (
        on_output(modules, lambda i, x: see(Site(WRITES, layers[i]), x)),
        observed(model, [site for site in sites if site.kind != WRITES], see),
    ):
        yield


@torch.no_grad()
def record(
    model: LanguageModel, token_ids: Int[Tensor, " n_pos"], kinds: Sequence[str], local: LocalReplacement | None
) -> Recorded:
    """Run a prompt and keep what its components compute."""
    values = dict[Site, Tensor]()

    def see(site: Site, x: Tensor) -> None:
        values[site] = widened(x[0]).clone()

    with observed(model, sites_of(model, kinds), see):
        logits = model.logits(token_ids[None], logits_to_keep=1)[0, -1]
    embedding = None
    if "embedding" in kinds:
        embedding = (model.run(token_ids, keep_patterns=False) if local is None else local.run).embedding
    return Recorded(token_ids, values, widened(logits), embedding, local)


def patches_of(
    model: LanguageModel, kinds: Sequence[str], source: Recorded, base: Recorded, places: Places, tokens: Tensor
) -> list[Patches]:
    """All nodes of these kinds, kind by kind, from the lowest layer up.

    Args:
        source: the run that nodes are taken from.
        base: the run that is patched into.
        places: positions that correspond.
        tokens: of the clean prompt, by which embeddings are named.
    """
    found = list[Patches]()
    for kind in kinds:
        if kind == "embedding":
            assert source.embedding is not None and base.embedding is not None
            change = source.embedding[places.source] - base.embedding[places.base]
            found.append(_dense(kind, -1, Site("resid", 0), change, places, tokens[places.clean]))
        elif kind in OF_TRANSCODERS:
            assert source.local is not None and base.local is not None
            make = _features if kind == "feature" else _errors
            found += [make(source.local, base.local, layer, places) for layer in range(model.n_layers)]
        else:
            for site in sites_of(model, [kind]):
                change = source.values[site][places.source] - base.values[site][places.base]
                found.append(_dense(kind, site.layer, site, change, places))
    return [patches for patches in found if len(patches)]


def _dense(kind: str, layer: int, site: Site, change: Tensor, places: Places, feature: Tensor | None = None) -> Patches:
    """Nodes with a change at every place, [n_places, d], or of heads [n_places, n_heads, d_head]."""
    pos, at, head = places.clean, places.base, None
    if kind in _OF_HEADS:
        n_heads = change.shape[1]
        head = torch.arange(n_heads, device=pos.device).repeat(len(pos))
        pos, at = pos.repeat_interleave(n_heads), at.repeat_interleave(n_heads)
    change = change.flatten(0, -2)
    is_changed = (change != 0).any(-1)
    return Patches(kind, layer, site, pos, at, head, feature, is_changed, change.__getitem__)


def _errors(source: LocalReplacement, base: LocalReplacement, layer: int, places: Places) -> Patches:
    places = _not_skipped(source, base, places)
    change = source.errors[layer][places.source] - base.errors[layer][places.base]
    return _dense("error", layer, Site(WRITES, layer), change, places)


def _features(source: LocalReplacement, base: LocalReplacement, layer: int, places: Places) -> Patches:
    """Features of one layer that are active in either run."""
    places, transcoders = _not_skipped(source, base, places), base.transcoders
    keys, parts = list[Tensor](), list[tuple[Tensor, Tensor]]()
    for local, positions in ((source, places.source), (base, places.base)):
        rows = local.active.in_layer(layer)
        # of every position the place, or -1
        place = torch.full((local.run.n_pos,), -1, device=positions.device)
        place[positions] = torch.arange(len(positions), device=positions.device)
        at, feature, activation = (
            place[local.active.pos[rows]],
            local.active.feature[rows],
            local.active.activation[rows],
        )
        is_here = at >= 0
        keys.append(at[is_here] * max(transcoders.n_features[layer], 1) + feature[is_here])
        parts.append((keys[-1], activation[is_here]))
    both = torch.cat(keys).unique()
    change = base.errors.new_zeros(len(both))
    for sign, (key, activation) in zip((1, -1), parts, strict=True):
        change.index_add_(0, torch.searchsorted(both, key), sign * activation)
    at, feature = both // max(transcoders.n_features[layer], 1), both % max(transcoders.n_features[layer], 1)

    def vectors(some: Tensor) -> Tensor:
        rows = transcoders.decoder_rows(
            layer, layer, feature[some], out=change.new_empty(len(some), base.errors.shape[-1])
        )
        return change[some, None] * rows

    site = Site(WRITES, layer)
    return Patches("feature", layer, site, places.clean[at], places.base[at], None, feature, change != 0, vectors)


def _not_skipped(source: LocalReplacement, base: LocalReplacement, places: Places) -> Places:
    """The places that have features and errors in both runs."""
    kept = ~(source.is_skipped[places.source] | base.is_skipped[places.base])
    return Places(places.clean[kept], places.source[kept], places.base[kept])
