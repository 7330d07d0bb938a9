"""What active features write into the stream, layer by layer, in the order in which the sweep needs it."""

from collections.abc import Iterator
from itertools import accumulate

import torch

from attrgraph.kernels.edge_rows import Writes
from attrgraph.memory import large_empty
from attrgraph.replacement import LocalReplacement
from attrgraph.transcoders.paging import release

# of decoder rows that are gathered at a time where not all are kept: a choice, not tuned
BLOCK_BYTES = 64 * 2**20


class Sources:
    """The active features of a prompt, position by position and within a position layer by layer.

    In this order, what features of lower layers write at one position is one stretch of columns, for every layer
    written into. A decoder row is written by the unit of activation: edges are multiplied by activations at the end.

    Args:
        local: the prompt's local replacement model.
        is_kept: keep decoder rows between sweeps, which otherwise read them anew.
    """

    def __init__(self, local: LocalReplacement, *, is_kept: bool = False) -> None:
        active, n_layers, n_pos = local.active, local.run.n_layers, local.run.n_pos
        self._local = local
        self.order = active.pos.argsort(stable=True)  # of each column, the active feature
        self._column = torch.empty_like(self.order)  # of each active feature
        self._column[self.order] = torch.arange(len(self.order), device=self.order.device)
        counts = torch.bincount(active.pos * n_layers + active.layer, minlength=n_pos * n_layers)
        ends: list[int] = counts.cumsum(0).tolist()
        # where in the order the features of (pos, layer) begin, at pos * n_layers + layer
        self._bounds = [0, *ends]
        self.is_kept = is_kept
        self._kept: list[list[Writes]] | None = None

    @property
    def n_bytes(self) -> int:
        """Of all writes into all layers."""
        local = self._local
        per_layer = torch.bincount(local.active.layer, minlength=local.run.n_layers).tolist()
        n_writes: int = sum(n * local.transcoders.n_targets(layer) for layer, n in enumerate(per_layer))
        return n_writes * local.run.embedding.shape[1] * local.run.embedding.element_size()

    def n_columns(self, n_pos: int) -> int:
        """Features at the first `n_pos` positions."""
        return self._bounds[n_pos * self._local.run.n_layers]

    def n_writes(self, layer: int, n_pos: int) -> int:
        """Into one layer, at the first `n_pos` positions."""
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        n_layers = self._local.run.n_layers
        starts = self._bounds[first : n_pos * n_layers : n_layers]
        return sum(self._bounds[layer + 1 : n_pos * n_layers + 1 : n_layers]) - sum(starts)

    def into(self, layer: int) -> Iterator[Writes]:
        """What is written into the stream at one layer, some positions at a time."""
        if self.is_kept:
            if self._kept is None:
                self._kept = self._gather_all()
            yield from self._kept[layer]
            return
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        for writes in self._blocks(layer):
            for source in range(first, layer + 1):
                self._fill(writes, source, layer)
            yield writes
        for source in range(first, layer + 1):
            release(self._local.transcoders.layers[source].W_dec)

    def _gather_all(self) -> list[list[Writes]]:
        """Of all layers: each source layer's rows are read once, for all layers that they write into."""
        transcoders = self._local.transcoders
        into = [list(self._blocks(layer)) for layer in range(self._local.run.n_layers)]
        for source, weights in enumerate(transcoders.layers):
            for target in range(source, source + transcoders.n_targets(source)):
                for writes in into[target]:
                    self._fill(writes, source, target)
            release(weights.W_dec)
        return into

    def _blocks(self, layer: int) -> Iterator[Writes]:
        """Room for what is written at one layer, as many positions at a time as fit `BLOCK_BYTES`."""
        embedding, n_layers, n_pos = self._local.run.embedding, self._local.run.n_layers, self._local.run.n_pos
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        columns = [self._bounds[pos * n_layers + first] for pos in range(n_pos)]
        counts = [self._bounds[pos * n_layers + layer + 1] - columns[pos] for pos in range(n_pos)]
        most, start = BLOCK_BYTES // (embedding.shape[1] * embedding.element_size()), 0
        while start < n_pos:
            end, n = start + 1, counts[start]
            while end < n_pos and n + counts[end] <= most:
                n += counts[end]
                end += 1
            offsets = [0, *accumulate(counts[start:end])]
            yield Writes(large_empty(embedding, n, embedding.shape[1]), start, offsets, columns[start:end])
            start = end

    def _fill(self, writes: Writes, source: int, target: int) -> None:
        """Put the decoder rows of one layer's features where they belong among the writes."""
        local, active, norm = self._local, self._local.active, self._local.write_norm(target)
        rows, device = active.in_layer(source), writes.vector.device
        bounds = torch.tensor([writes.first_pos, writes.first_pos + len(writes.columns)], device=device)
        begin, end = torch.searchsorted(active.pos[rows], bounds).tolist()
        some = slice(rows.start + begin, rows.start + end)
        pos = active.pos[some]
        # from a feature's column to its place here
        shift = torch.tensor(writes.offsets[:-1], device=device) - torch.tensor(writes.columns, device=device)
        places = self._column[some] + shift[pos - writes.first_pos]
        written = local.transcoders.decoder_rows(source, target, active.feature[some], writes.vector)
        writes.vector.index_copy_(0, places, written if norm is None else norm.linear(written, pos))
