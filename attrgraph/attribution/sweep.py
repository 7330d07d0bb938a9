"""The formula for an edge, and the sweep that computes it.

With attention patterns and norm scales frozen, everything between a write and a later read is linear. A source `s`
writes vectors `v_s[l, p]` into MLP outputs (or, for a token, into the bottom of the stream); a target `t` reads the
stream with the vector `u_t` at its layer and position. The edge, the direct effect of `s` on what `t` reads, is

    A[t, s] = sum over l and p of  v_s[l, p] . g_t[l, p]

where `g_t`, the adjoint, is `u_t` carried backwards through the frozen blocks. The sweep carries the adjoints of many
targets down together, layer by layer, as matrix products; automatic differentiation is not involved. Targets are swept
in tiles whose make-up depends on the targets alone, so that results do not depend on memory. Everything that is no node
(biases, position embeddings, skipped positions) is collected in the bias column, so that every row sums to what its
target reads. The proof that this is the gradient, and that rows sum up, is `tests/attribution/test_sweep.py`.

Source: Ameisen et al. 2025, "Circuit Tracing", section "Constructing an Attribution Graph for a Prompt",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.sources import BLOCK_BYTES, Sources
from attrgraph.kernels.edge_rows import edge_rows
from attrgraph.memory import large_empty
from attrgraph.models.folded import AttentionAdjoint, SkipAdjoint
from attrgraph.models.frozen import FrozenNorm

# targets of a tile: more make larger matrix products and read decoder rows less often, but take more memory and share
# fewer positions
TILE_ROWS = 128
# share of a tile's rows x positions that two tiles instead must save: each reads decoder rows for itself
WORTH_A_CUT = 0.25


@dataclass(frozen=True)
class ReadVectors:
    """Targets: each reads the stream with a vector at one layer and position, and adds a constant.

    A layer's targets read where its transcoder reads; those of `n_layers`, logits, after the final norm. A target that
    `is_entering` reads the plain stream in front of all that: as it enters the layer's attention, or the final norm.
    """

    layer: Int[Tensor, " n_targets"]
    pos: Int[Tensor, " n_targets"]
    vector: Float[Tensor, "n_targets d_model"]
    constant: Float[Tensor, " n_targets"]
    is_entering: Bool[Tensor, " n_targets"] | None = None  # None: none is

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, index: Tensor | slice) -> "ReadVectors":
        is_entering = None if self.is_entering is None else self.is_entering[index]
        return ReadVectors(self.layer[index], self.pos[index], self.vector[index], self.constant[index], is_entering)

    @property
    def level(self) -> Int[Tensor, " n_targets"]:
        """From the bottom up, two a layer: even where the layer is entered, odd where it is read."""
        level = 2 * self.layer + 1
        return level if self.is_entering is None else level - self.is_entering.to(level)


def feature_reads(local: LocalReplacement, index: Int[Tensor, " n"] | slice = slice(None)) -> ReadVectors:
    """Active features as targets: the encoder row reads, `b_enc` is the constant."""
    active, embedding = local.active, local.run.embedding
    layer, feature = active.layer[index], active.feature[index]
    reads = ReadVectors(
        layer, active.pos[index], embedding.new_empty(len(layer), embedding.shape[1]), embedding.new_empty(len(layer))
    )
    for one in layer.unique().tolist():
        here = (layer == one).nonzero()[:, 0]
        reads.vector[here], reads.constant[here] = local.transcoders.encoder_rows(one, feature[here], embedding)
    return reads


def n_columns(local: LocalReplacement) -> int:
    """Columns of a row of edges: active features, errors layer by layer, token embeddings, bias."""
    return len(local.active) + (local.run.n_layers + 1) * local.run.n_pos + 1


def tiles_of(targets: ReadVectors) -> list[Int[Tensor, " n_tile"]]:
    """Which targets are swept together.

    Those of a tile have similar positions, beyond whose last nothing is computed; within it they join the sweep one
    after the other, from the top layer down.
    """
    by_pos = targets.pos.argsort(stable=True).split(TILE_ROWS) if len(targets) else ()
    parts = [part for some in by_pos for part in _cut(some, targets.pos[some] + 1)]
    return [part[targets.level[part].argsort(stable=True, descending=True)] for part in parts]


def _cut(part: Int[Tensor, " n"], n_pos: Int[Tensor, " n"]) -> list[Int[Tensor, " n_tile"]]:
    """Targets in ascending order of positions, cut where that saves enough of rows x positions, most first."""
    n_before = torch.arange(1, len(part) + 1, device=part.device)
    saved, at = (n_before * (n_pos[-1] - n_pos)).max(0)
    if int(saved) <= WORTH_A_CUT * len(part) * int(n_pos[-1]):
        return [part]
    end = int(at) + 1
    return _cut(part[:end], n_pos[:end]) + _cut(part[end:], n_pos[end:])


class EdgeSweep:
    """Computes edges into any targets of one prompt; what all sweeps need is kept if it fits.

    Args:
        local: the prompt's local replacement model.
        memory_bytes: what a sweep may take besides its result; results do not depend on it. If it is less than one
            tile takes, one tile is swept at a time.
        max_targets: an upper limit on the targets of a sweep, rounded up to whole tiles.
    """

    def __init__(self, local: LocalReplacement, *, memory_bytes: int = 2**30, max_targets: int | None = None) -> None:
        run, size = local.run, local.run.embedding.element_size()
        self._local, self.sources = local, Sources(local)
        passage_bytes = [Passage.n_bytes(local, layer) for layer in range(run.n_layers)]
        kept_bytes = self.sources.n_bytes + sum(passage_bytes)
        memory_bytes = max(0, memory_bytes - run.pattern_bytes)
        self.sources.is_kept = is_kept = kept_bytes <= memory_bytes // 2
        self._passages: list[Passage] | None = [Passage(local, i) for i in range(run.n_layers)] if is_kept else None
        # adjoints, in parallel blocks twice, and edges
        n_adjoints = 2 if any(block.is_parallel for block in run.blocks) else 1
        tile_bytes = TILE_ROWS * size * (n_adjoints * run.n_pos * run.embedding.shape[1] + n_columns(local))
        most = max(1, memory_bytes // tile_bytes)
        # tiles share the reading of decoder rows: with those kept, nothing is gained by sweeping several at once
        n_tiles = 1 if is_kept else min(most, -(-(max_targets or len(local.active) + 1) // TILE_ROWS))
        self._n_together = 1 if is_kept else n_tiles * TILE_ROWS
        self.n_bytes = n_tiles * tile_bytes + (kept_bytes if is_kept else BLOCK_BYTES + max(passage_bytes))

    def edges(
        self,
        targets: ReadVectors,
        *,
        progress: Callable[[int], None] | None = None,
        out: Float[Tensor, "n_targets n_columns"] | None = None,
    ) -> Float[Tensor, "n_targets n_columns"]:
        """Edges from every source to each target: `A[target, source]`, the columns as in `n_columns`.

        Args:
            targets: what reads.
            progress: called with the number of targets just done.
            out: zeros that the edges are written into.
        """
        if out is None:
            out = large_empty(self._local.run.embedding, len(targets), n_columns(self._local)).zero_()
        for together in self.tiles_together(targets):
            tiles = [_Tile(self._local, targets[part], self.sources) for part in together]
            self._sweep(tiles)
            for part, tile in zip(together, tiles, strict=True):
                tile.write(out, part, self.sources.order)
                if progress is not None:
                    progress(len(part))
        return out

    def tiles_together(self, targets: ReadVectors) -> list[list[Int[Tensor, " n_tile"]]]:
        """The tiles of each sweep, which reads for all of them at once."""
        sweeps, n_together = list[list[Tensor]](), 0
        for tile in tiles_of(targets):
            n_together += len(tile)
            if not sweeps or n_together > self._n_together:
                sweeps.append([])
                n_together = len(tile)
            sweeps[-1].append(tile)
        return sweeps

    def _sweep(self, tiles: list["_Tile"]) -> None:
        """Carry the tiles' adjoints from the top to the bottom, and fill their edges on the way."""
        run = self._local.run
        for tile in tiles:
            tile.join(2 * run.n_layers + 1, run.final_norm)
            tile.join(2 * run.n_layers, None)
        for layer in reversed(range(run.n_layers)):
            above = 2 * layer + 2
            for writes in self.sources.into(layer, max(tile.reach[above] for tile in tiles)):
                for tile in tiles:
                    n, n_pos = tile.n_joined[above], tile.reach[above]
                    if writes.first_pos < n_pos:
                        edge_rows(tile.g[:n, :n_pos], writes, tile.edges[:n])
            if not any(tile.n_joined[2 * layer] for tile in tiles):
                continue
            passage = Passage(self._local, layer) if self._passages is None else self._passages[layer]
            for tile in tiles:
                passage.take(tile)
        for tile in tiles:
            tile.embeddings[:] = tile.dots(len(tile.g), [run.embedding])[:, :, 0].T
            if run.position_embedding is not None:
                tile.bias += tile.dots(len(tile.g), [run.position_embedding]).sum((0, 2))


class _Tile:
    """Targets that are swept together, in descending order of levels: those that have joined are the first."""

    def __init__(self, local: LocalReplacement, targets: ReadVectors, sources: Sources) -> None:
        run, n = local.run, len(targets)
        new = run.embedding.new_zeros
        self.local, self.targets = local, targets
        self.n_pos = int(targets.pos.max()) + 1  # causal: nothing after the last target matters
        self.g = large_empty(run.embedding, n, self.n_pos, run.embedding.shape[1]).zero_()  # adjoint of the stream
        # in the order of `sources`, by the unit of activation
        self.edges = large_empty(run.embedding, n, sources.n_columns(self.n_pos)).zero_()
        self.errors, self.embeddings = new(n, run.n_layers, self.n_pos), new(n, self.n_pos)
        self.bias = targets.constant.to(run.embedding, copy=True)
        # how many have joined at or above each level, and beyond the highest
        levels = torch.arange(2 * run.n_layers + 3, device=targets.layer.device)
        self.n_joined: list[int] = (targets.level[:, None] >= levels).sum(0).tolist()
        # and how many positions matter to these: up to their last
        ends = [0, *(targets.pos.cummax(0).values + 1).tolist()]
        self.reach = [ends[n] for n in self.n_joined]
        self.n_spread = 0  # of these have passed attention: the others' adjoints are still at one position

    def join(self, level: int, norm: FrozenNorm | None) -> None:
        """Add the read vectors of a level's targets, taken back through the norm in front of them."""
        joining = slice(self.n_joined[level + 1], self.n_joined[level])
        targets, vector = self.targets[joining], self.targets.vector[joining]
        if norm is not None:
            if norm.bias is not None:
                self.bias[joining] += vector @ norm.bias
            vector = norm.transpose(vector, targets.pos)
        self.g[torch.arange(joining.start, joining.stop, device=vector.device), targets.pos] += vector

    def dots(self, n: int, vectors: Sequence[Tensor]) -> Float[Tensor, "n_pos n n_vectors"]:
        """Of the first `n` adjoints with vectors [n_pos, d_model], position by position."""
        written = torch.stack([vector[: self.n_pos] for vector in vectors], 2)
        return torch.bmm(self.g[:n].transpose(0, 1), written)

    def write(self, out: Tensor, rows: Tensor, order: Tensor) -> None:
        """Put the edges where they belong: into zeros."""
        active, n_pos, run = self.local.active, self.n_pos, self.local.run
        columns = order[: self.edges.shape[1]]
        out[rows[:, None], columns] = self.edges.mul_(active.activation[columns])
        between = out[:, len(active) : -1].unflatten(1, (run.n_layers + 1, run.n_pos))
        between[rows, :-1, :n_pos], between[rows, -1, :n_pos] = self.errors, self.embeddings
        out[rows, -1] = self.bias


class Passage:
    """The way of adjoints from above one layer to below it."""

    def __init__(self, local: LocalReplacement, layer: int) -> None:
        block, write_norm = local.run.blocks[layer], local.write_norm(layer)
        self._layer, self._is_parallel, self._read_norm = layer, block.is_parallel, local.read_norm(layer)
        self._attention = AttentionAdjoint.of(block)
        error, constant = local.errors[layer], local.constants[layer]
        if write_norm is not None:
            error, constant = write_norm.linear(error), write_norm.apply(constant)
        W_skip = local.transcoders.layers[layer].W_skip
        self._skip = None if W_skip is None else SkipAdjoint.of(W_skip.to(error), self._read_norm, write_norm)
        if self._skip is not None and self._skip.constant is not None:
            constant = constant + self._skip.constant
        if block.is_parallel:
            constant = constant + self._attention.constant
        self._error, self._constant = error, constant

    @staticmethod
    def n_bytes(local: LocalReplacement, layer: int) -> int:
        """Of what a passage holds."""
        attention, W_skip = local.run.blocks[layer].attention, local.transcoders.layers[layer].W_skip
        held = [attention.W_O, attention.W_V, W_skip, *[local.run.embedding] * 3]
        n_entries = sum(x.numel() for x in held if x is not None) + len(attention.W_O) * local.run.n_pos**2
        return n_entries * local.run.embedding.element_size()

    def take(self, tile: _Tile) -> None:
        """Carry a tile's adjoints past the layer's error, constants, skip and attention; the layer's targets join."""
        layer = self._layer
        n_above, n_on = tile.n_joined[2 * layer + 2], tile.n_joined[2 * layer + 1]
        dots = tile.dots(n_above, [self._error, self._constant])
        tile.errors[:n_above, layer] = dots[:, :, 0].T
        tile.bias[:n_above] += dots[:, :, 1].sum(0)
        g = tile.g[:n_above]
        # in a parallel block attention reads the stream below both branches, and not what joins at this layer
        at_attention = g.clone() if self._is_parallel else tile.g[:n_on]
        if self._skip is not None:
            self._skip.add_to(g)
        tile.join(2 * layer + 1, self._read_norm)
        if not self._is_parallel:
            tile.bias[:n_on] += tile.dots(n_on, [self._attention.constant]).sum((0, 2))
        n_passing = len(at_attention)
        self._attention.add_to(
            tile.g[:n_passing], at_attention, n_spread=tile.n_spread, pos=tile.targets.pos[:n_passing]
        )
        tile.n_spread = n_passing
        tile.join(2 * layer, None)
