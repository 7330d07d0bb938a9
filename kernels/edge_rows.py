"""Edges from adjoints: out[row, source] = adjoint[row, pos[source]] . vector[source]."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor


def edge_rows_reference(
    adjoint: Float[Tensor, "n_rows n_pos d_model"],
    vectors: Float[Tensor, "n_sources d_model"],
    positions: Int[Tensor, " n_sources"],
) -> Float[Tensor, "n_rows n_sources"]:
    """The specification: gather each source's position of the adjoint, then one dot product per row and source."""
    return torch.einsum("rsd,sd->rs", adjoint[:, positions], vectors)


def edge_rows(
    adjoint: Float[Tensor, "n_rows n_pos d_model"],
    vectors: Float[Tensor, "n_sources d_model"],
    positions: Int[Tensor, " n_sources"],
) -> Float[Tensor, "n_rows n_sources"]:
    """`edge_rows_reference` without the gathered copy: one matrix product per position.

    Args:
        adjoint: read vectors carried back to the place where the sources write.
        vectors: what each source writes there.
        positions: where each source writes; must ascend, so that a position's sources are contiguous.
            A source whose position lies beyond the adjoint's last one has no effect: attention is causal.
    """
    n_rows, n_pos, _ = adjoint.shape
    out = adjoint.new_zeros(n_rows, len(vectors))
    bounds = torch.searchsorted(positions, torch.arange(n_pos + 1, device=positions.device)).tolist()
    for pos, (start, end) in enumerate(pairwise(bounds)):
        if end > start:
            torch.mm(adjoint[:, pos], vectors[start:end].T, out=out[:, start:end])
    return out
