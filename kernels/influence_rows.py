"""Influence through rows of edges, from the top layer down: total = sum over rows of flow[row] * |row| / sum |row|."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.kernels.choose import uses_triton

# of rows whose absolute values are taken at a time: a choice, not tuned
_BLOCK_BYTES = 8 * 2**20


def influence_rows_reference(
    rows: Float[Tensor, "n_rows n_columns"],
    column: Int[Tensor, " n_rows"],
    level: Int[Tensor, " n_rows"],
    weight: Float[Tensor, " n_rows"],
) -> tuple[Float[Tensor, " n_columns"], Float[Tensor, " n_rows"]]:
    """The specification: one row after the other, those of the highest level first."""
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    flow = weight.to(torch.float64, copy=True)
    for row in level.argsort(descending=True, stable=True).tolist():
        if column[row] >= 0:
            flow[row] += total[column[row]]
        size = rows[row].abs().to(torch.float64)
        if size.sum() > 0:
            total += flow[row] * size / size.sum()
    return total, flow


def influence_rows(
    rows: Float[Tensor, "n_rows n_columns"],
    column: Int[Tensor, " n_rows"],
    level: Int[Tensor, " n_rows"],
    weight: Float[Tensor, " n_rows"],
) -> tuple[Float[Tensor, " n_columns"], Float[Tensor, " n_rows"]]:
    """`influence_rows_reference` a level at a time.

    Args:
        rows: edges into some nodes; a row's sources all have lower levels than the row.
        column: which column is the row's own node; -1 for none.
        level: of the row's node.
        weight: what flows into the row's node from outside.

    Returns:
        The influence of every column's node, and the flow into every row's node: its influence plus its weight.
    """
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    flow = weight.to(torch.float64, copy=True)
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1] * rows.element_size()))
    held = rows.new_empty(0 if uses_triton(rows) else min(step, len(rows)), rows.shape[1])
    for of_level in level.unique().flip(0):
        at = (level == of_level).nonzero()[:, 0]
        own = column[at]
        flow[at] += torch.where(own >= 0, total[own.clamp_min(0)], 0.0)
        if uses_triton(rows):
            from attrgraph.kernels._influence_rows_triton import add_shares_triton, row_sizes_triton

            sums = row_sizes_triton(rows, at)
            add_shares_triton(rows, at, torch.where(sums > 0, flow[at] / sums, 0.0), total)
            continue
        for some in at.split(step):
            size = torch.index_select(rows, 0, some, out=held[: len(some)]).abs_()
            sums = size.sum(1).to(torch.float64)
            share = torch.where(sums > 0, flow[some] / sums, 0.0)
            total += share.to(size.dtype) @ size
    return total, flow
