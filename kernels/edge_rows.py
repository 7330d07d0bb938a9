"""Edges from adjoints: out[row, column of source] += adjoint[row, pos of source] . vector[source]."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.kernels.choose import uses_triton

# not measured yet, for want of a GPU: sources of one matrix product of the kernel
ITEM_SOURCES = 64


@dataclass(frozen=True)
class Writes:
    """What sources write at some consecutive positions, position by position.

    The sources at `first_pos + i` are `vector[offsets[i] : offsets[i + 1]]`; their columns are consecutive too, from
    `columns[i]` on.
    """

    vector: Float[Tensor, "n_writes d_model"]
    first_pos: int
    offsets: Sequence[int]
    columns: Sequence[int]

    def items(self, n_pos: int) -> Int[Tensor, "n_items 4"]:
        """For a kernel: position, first and end source, first column, of at most `ITEM_SOURCES` of one position."""
        positions, table = self._items
        return table[: bisect_left(positions, n_pos)]

    @cached_property
    def _items(self) -> tuple[list[int], Tensor]:
        rows = [
            (self.first_pos + i, start, min(start + ITEM_SOURCES, end), column + start - first)
            for i, ((first, end), column) in enumerate(zip(pairwise(self.offsets), self.columns, strict=True))
            for start in range(first, end, ITEM_SOURCES)
        ]
        table = torch.tensor(rows, dtype=torch.int64, device=self.vector.device).view(-1, 4)
        return [row[0] for row in rows], table


def edge_rows_reference(
    adjoint: Float[Tensor, "n_rows n_pos d_model"], writes: Writes, out: Float[Tensor, "n_rows n_columns"]
) -> None:
    """The specification: one dot product per row and source."""
    for i, column in enumerate(writes.columns):
        pos = writes.first_pos + i
        for j in range(writes.offsets[i], writes.offsets[i + 1]):
            if pos < adjoint.shape[1]:
                out[:, column + j - writes.offsets[i]] += (adjoint[:, pos] * writes.vector[j]).sum(-1)


def edge_rows(
    adjoint: Float[Tensor, "n_rows n_pos d_model"], writes: Writes, out: Float[Tensor, "n_rows n_columns"]
) -> None:
    """`edge_rows_reference` as one matrix product per position, added in place.

    Args:
        adjoint: read vectors carried back to the place where the sources write.
        writes: of the sources; those beyond the adjoint's last position have no effect: attention is causal.
        out: edges from other layers' writes, which this adds to.
    """
    if uses_triton(out) and out.dtype != torch.float64:  # GPUs multiply float64 matrices elsewhere
        from attrgraph.kernels._edge_rows_triton import edge_rows_triton

        edge_rows_triton(adjoint, writes.vector, writes.items(adjoint.shape[1]), out, ITEM_SOURCES)
        return
    n_pos = min(len(writes.columns), adjoint.shape[1] - writes.first_pos)
    for i in range(n_pos):
        start, end = writes.offsets[i], writes.offsets[i + 1]
        if end > start:
            edges = out[:, writes.columns[i] : writes.columns[i] + end - start]
            edges.addmm_(adjoint[:, writes.first_pos + i], writes.vector[start:end].T)
