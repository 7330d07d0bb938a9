"""What active features write into the stream, layer by layer, in the order in which the sweep needs it."""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, takewhile

import torch
from jaxtyping import Float, Int
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
    """

    def __init__(self, local: LocalReplacement) -> None:
        active, n_layers, n_pos = local.active, local.run.n_layers, local.run.n_pos
        self._local = local
        self.order = active.pos.argsort(stable=True)  # of each column, the active feature
        # where in the order the features of (pos, layer) begin, at pos * n_layers + layer
        self._bounds = _starts(active.pos * n_layers + active.layer, n_pos * n_layers)
        # and among the active features, at layer * n_pos + pos
        self._rows = _starts(active.layer * n_pos + active.pos, n_pos * n_layers)
        self.is_kept = False  # decoder rows, between sweeps, which otherwise read them again
        self._most_rows = BLOCK_BYTES // (local.run.embedding.shape[1] * local.run.embedding.element_size())
        self._shared: Tensor | None = None

    @property
    def n_bytes(self) -> int:
        """Of all writes into all layers."""
        run = self._local.run
        n_writes = sum(self.n_writes(layer, run.n_pos) for layer in range(run.n_layers))
        return n_writes * run.embedding.shape[1] * run.embedding.element_size()

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

    @cached_property
    def _kept(self) -> list[list[Writes]]:
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
        """Room for what is written at one layer, as many positions at a time as fit `BLOCK_BYTES`."""
        n_layers = self._local.run.n_layers
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        columns = [self._bounds[pos * n_layers + first] for pos in range(n_pos)]
        counts = [self._bounds[pos * n_layers + layer + 1] - columns[pos] for pos in range(n_pos)]
        ends, start = [0, *accumulate(counts)], 0
        while start < n_pos:
            end = max(start + 1, bisect_right(ends, ends[start] + self._most_rows) - 1)
            offsets = [place - ends[start] for place in ends[start : end + 1]]
            yield Writes(self._room(offsets[-1], is_shared=is_shared), start, offsets, columns[start:end])
            start = end

    def _room(self, n: int, *, is_shared: bool) -> Float[Tensor, "n d_model"]:
        """For some writes. The first write to new memory costs more than the write, so what is shared is kept."""
        embedding = self._local.run.embedding
        if not is_shared:
            return large_empty(embedding, n, embedding.shape[1])
        if self._shared is None or len(self._shared) < n:
            self._shared = large_empty(embedding, max(n, self._most_rows), embedding.shape[1])
        return self._shared[:n]

    def _fill(self, writes: Writes, source: int, target: int) -> None:
        """Put the decoder rows of one layer's features where they belong among the writes."""
        active, transcoders, n_layers = self._local.active, self._local.transcoders, self._local.run.n_layers
        first, n = writes.first_pos, len(writes.columns)
        rows = self._rows[source * self._local.run.n_pos + first :][: n + 1]
        starts = self._bounds[first * n_layers + source :: n_layers][:n]
        # where each position's rows go here
        places = [starts[i] - writes.columns[i] + writes.offsets[i] for i in range(n)]
        if writes.vector.device.type == "cpu":  # straight to their places
            for i in range(n):
                some = active.feature[rows[i] : rows[i + 1]]
                transcoders.decoder_rows(source, target, some, out=writes.vector[places[i] : places[i] + len(some)])
        else:  # few calls
            whole = torch.arange(rows[0], rows[-1], device=writes.vector.device)
            written = writes.vector.new_empty(len(whole), writes.vector.shape[1])
            transcoders.decoder_rows(source, target, active.feature[whole], out=written)
            shift = torch.tensor([places[i] - rows[i] for i in range(n)], device=written.device)
            writes.vector.index_copy_(0, whole + shift[active.pos[whole] - first], written)

    def _to_stream(self, writes: Writes, layer: int) -> None:
        """Take complete writes through a norm between MLP and stream, if there is one."""
        norm = self._local.write_norm(layer)
        if norm is not None:
            counts = torch.tensor(writes.offsets).diff()
            pos = torch.arange(writes.first_pos, writes.first_pos + len(counts)).repeat_interleave(counts)
            writes.vector.copy_(norm.linear(writes.vector, pos.to(writes.vector.device)))


def _starts(group: Int[Tensor, " n"], n_groups: int) -> list[int]:
    """Where each group begins when its members are put one after the other, and where the last ends."""
    return [0, *torch.bincount(group, minlength=n_groups).cumsum(0).tolist()]
