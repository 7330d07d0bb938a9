"""What active features write into the stream, layer by layer, in the order in which the sweep needs it."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.kernels.edge_rows import Writes
from attrgraph.replacement import LocalReplacement

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
        self._kept: dict[int, list[Writes]] = {}

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
        if not self.is_kept:
            yield from self._gather(layer)
            return
        if layer not in self._kept:
            self._kept[layer] = list(self._gather(layer))
        yield from self._kept[layer]

    def _gather(self, layer: int) -> Iterator[Writes]:
        run = self._local.run
        first = 0 if self._local.transcoders.config.is_cross_layer else layer
        columns = [self._bounds[pos * run.n_layers + first] for pos in range(run.n_pos)]
        counts = [self._bounds[pos * run.n_layers + layer + 1] - columns[pos] for pos in range(run.n_pos)]
        most = BLOCK_BYTES // (run.embedding.shape[1] * run.embedding.element_size())
        start = 0
        while start < run.n_pos:
            end, n = start + 1, counts[start]
            while end < run.n_pos and n + counts[end] <= most:
                n += counts[end]
                end += 1
            offsets = [0]
            for count in counts[start:end]:
                offsets.append(offsets[-1] + count)
            vectors = self._vectors(layer, first, start, offsets, columns[start:end])
            yield Writes(vectors, start, offsets, columns[start:end])
            start = end

    def _vectors(
        self, layer: int, first: int, start: int, offsets: list[int], columns: list[int]
    ) -> Float[Tensor, "n_writes d_model"]:
        """Decoder rows into `layer` of features of layers `first` to `layer` at positions from `start` on, in order."""
        local, active, norm = self._local, self._local.active, self._local.write_norm(layer)
        vectors = active.activation.new_empty(offsets[-1], local.run.embedding.shape[1])
        # from a feature's column to its place here
        shift = torch.tensor(offsets[:-1], device=vectors.device) - torch.tensor(columns, device=vectors.device)
        for source in range(first, layer + 1):
            rows = active.in_layer(source)
            bounds = torch.tensor([start, start + len(columns)], device=vectors.device)
            begin, end = torch.searchsorted(active.pos[rows], bounds).tolist()
            some = slice(rows.start + begin, rows.start + end)
            pos = active.pos[some]
            written = local.transcoders.decoder_rows(source, layer, active.feature[some], vectors)
            written = written if norm is None else norm.linear(written, pos)
            vectors.index_copy_(0, self._column[some] + shift[pos - start], written)
        return vectors
