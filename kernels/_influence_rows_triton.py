"""Sums over rows of edges without a copy of their sizes: sum |row| by row, and sum of share * |row| by column.

Layout: rows [n_rows, n_columns] with any row stride; `at` [n_at] chooses rows. One program sums one row, or one block
of columns over all chosen rows, in float64: the order is fixed and nothing is atomic.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# not measured yet, for want of a GPU: columns of a program
_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _row_sizes_kernel(rows, at, out, n_columns, row_stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = rows + tl.load(at + tl.program_id(0)).to(tl.int64) * row_stride
    total = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, n_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        total += tl.abs(tl.load(row + columns, mask=columns < n_columns, other=0.0)).to(tl.float64)
    tl.store(out + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _add_shares_kernel(rows, at, share, total, n_at, n_columns, row_stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < n_columns
    found = tl.load(total + columns, mask=is_column, other=0.0)
    for i in range(0, n_at):
        row = rows + tl.load(at + i).to(tl.int64) * row_stride
        found += tl.load(share + i) * tl.abs(tl.load(row + columns, mask=is_column, other=0.0)).to(tl.float64)
    tl.store(total + columns, found, mask=is_column)


def row_sizes_triton(rows: Tensor, at: Tensor) -> Tensor:
    """Of each chosen row the sum of absolute values [n_at], in float64."""
    out = torch.zeros(len(at), dtype=torch.float64, device=rows.device)
    if rows.shape[1]:
        with torch.cuda.device_of(rows):  # Triton launches on the current device; does nothing for a CPU tensor
            _row_sizes_kernel[(len(at),)](rows, at, out, rows.shape[1], rows.stride(0), BLOCK=_BLOCK)
    return out


def add_shares_triton(rows: Tensor, at: Tensor, share: Tensor, total: Tensor) -> None:
    """total [n_columns] += share [n_at] @ |chosen rows|, in place, in float64."""
    if rows.shape[1]:
        grid = (triton.cdiv(rows.shape[1], _BLOCK),)
        with torch.cuda.device_of(rows):
            _add_shares_kernel[grid](rows, at, share, total, len(at), rows.shape[1], rows.stride(0), BLOCK=_BLOCK)
