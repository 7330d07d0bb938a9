"""Edges from adjoints: out[row, column of source] += adjoint[row, pos of source] . vector[source]."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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
    n_pos = min(len(writes.columns), adjoint.shape[1] - writes.first_pos)
    for i in range(n_pos):
        start, end = writes.offsets[i], writes.offsets[i + 1]
        if end > start:
            edges = out[:, writes.columns[i] : writes.columns[i] + end - start]
            edges.addmm_(adjoint[:, writes.first_pos + i], writes.vector[start:end].T)
