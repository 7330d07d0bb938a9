"""What active features write into the stream, layer by layer, in the order in which the sweep needs it."""

from collections.abc import Iterator
from itertools import accumulate, takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.kernels.edge_rows import Writes
from attrgraph.memory import large_empty
from attrgraph.transcoders.paging import release

# of decoder rows that are gathered at a time where not all are kept: chosen, not tuned
BLOCK_BYTES = 64 * 2**20


class Sources:
    """The active features of a prompt, position by position and within a position layer by layer.

    In this order, what features of lower layers write at one position is one stretch of columns, for every layer
    written into. A decoder row is written by the unit of activation: edges are multiplied by activations at the end.

    Args:
        local: the prompt's local replacement model.
        is_kept: keep decoder rows between sweeps, which otherwise read them again.
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
        # and among the active features, at layer * n_pos + pos
        counts = torch.bincount(active.layer * n_pos + active.pos, minlength=n_pos * n_layers)
        row_ends: list[int] = counts.cumsum(0).tolist()
        self._rows = [0, *row_ends]
        self.is_kept = is_kept
        self._kept: list[list[Writes]] | None = None
        self._shared: Tensor | None = None

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

    def into(self, layer: int, n_pos: int) -> Iterator[Writes]:
        """What is written into the stream at one layer and the first positions, some of them at a time.

        If rows are not kept, the next takes the place of the one before.
        """
        if self.is_kept:
            if self._kept is None:
                self._kept = self._gather_all()
            yield from takewhile(lambda writes: writes.first_pos < n_pos, self._kept[layer])
            return
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        for writes in self._blocks(layer, n_pos, is_shared=True):
            for source in range(first, layer + 1):
                self._fill(writes, source, layer)
            self._to_stream(writes, layer)
            yield writes
        for source in range(first, layer + 1):
            release(self._local.transcoders.layers[source].W_dec)

    def _gather_all(self) -> list[list[Writes]]:
        """Of all layers: each source layer's rows are read once, for all layers that they write into."""
        transcoders = self._local.transcoders
        run = self._local.run
        into = [list(self._blocks(layer, run.n_pos, is_shared=False)) for layer in range(run.n_layers)]
        for source, weights in enumerate(transcoders.layers):
            for target in range(source, source + transcoders.n_targets(source)):
                for writes in into[target]:
                    self._fill(writes, source, target)
            release(weights.W_dec)
        for layer, blocks in enumerate(into):
            for writes in blocks:
                self._to_stream(writes, layer)
        return into

    def _blocks(self, layer: int, n_pos: int, *, is_shared: bool) -> Iterator[Writes]:
        """Room for what is written at one layer, as many positions at a time as fit `BLOCK_BYTES`.

        If it is shared, all have the same: to be used before the next.
        """
        embedding, n_layers = self._local.run.embedding, self._local.run.n_layers
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
            yield Writes(self._room(n, is_shared=is_shared), start, offsets, columns[start:end])
            start = end

    def _room(self, n: int, *, is_shared: bool) -> Float[Tensor, "n d_model"]:
        """For some writes. The first write to new memory costs more than the write, so what is shared is kept."""
        embedding = self._local.run.embedding
        if not is_shared:
            return large_empty(embedding, n, embedding.shape[1])
        if self._shared is None or len(self._shared) < n:
            most = BLOCK_BYTES // (embedding.shape[1] * embedding.element_size())
            self._shared = large_empty(embedding, max(n, most), embedding.shape[1])
        return self._shared[:n]

    def _fill(self, writes: Writes, source: int, target: int) -> None:
        """Put the decoder rows of one layer's features where they belong among the writes."""
        active, transcoders, n_layers = self._local.active, self._local.transcoders, self._local.run.n_layers
        first, n = writes.first_pos, len(writes.columns)
        rows = self._rows[source * self._local.run.n_pos + first :][: n + 1]
        starts = self._bounds[first * n_layers + source :: n_layers][:n]
        # from a position's columns to its places here
        shifts = [offset - column for offset, column in zip(writes.offsets[:-1], writes.columns, strict=True)]
        if writes.vector.device.type == "cpu":  # straight to their places
            for i in range(n):
                place, some = starts[i] + shifts[i], active.feature[rows[i] : rows[i + 1]]
                transcoders.decoder_rows(source, target, some, out=writes.vector[place : place + len(some)])
        else:  # few calls
            whole = slice(rows[0], rows[-1])
            written = writes.vector.new_empty(rows[-1] - rows[0], writes.vector.shape[1])
            transcoders.decoder_rows(source, target, active.feature[whole], out=written)
            shift = torch.tensor(shifts, device=written.device)[active.pos[whole] - first]
            writes.vector.index_copy_(0, self._column[whole] + shift, written)

    def _to_stream(self, writes: Writes, layer: int) -> None:
        """Take complete writes through a norm between MLP and stream, if there is one."""
        norm = self._local.write_norm(layer)
        if norm is not None:
            counts = torch.tensor(writes.offsets).diff()
            pos = torch.arange(writes.first_pos, writes.first_pos + len(counts)).repeat_interleave(counts)
            writes.vector.copy_(norm.linear(writes.vector, pos.to(writes.vector.device)))
