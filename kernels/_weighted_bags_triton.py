"""Weighted sums of table rows: out[bag] = sum over the bag's entries of weight * table[index].

Layout: bag `j` has the entries `offsets[j] : offsets[j + 1]` of `weights` and `indices`; table [n_rows, d], out
[n_bags, d]. One program sums one bag over one block of columns, entry after entry: the order is fixed and nothing is
atomic.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# not measured yet, for want of a GPU: the most columns a program takes
_MAX_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _weighted_bags_kernel(weights, indices, offsets, table, out, d, BLOCK: tl.constexpr, SUM: tl.constexpr):  # type: ignore[no-untyped-def]
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < d
    start = tl.load(offsets + bag).to(tl.int64)
    end = tl.load(offsets + bag + 1).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=SUM)
    for entry in range(start, end):
        weight = tl.load(weights + entry).to(SUM)
        row = tl.load(indices + entry).to(tl.int64)
        total += weight * tl.load(table + row * d + columns, mask=is_column, other=0.0).to(SUM)
    tl.store(out + bag * d + columns, total.to(out.dtype.element_ty), mask=is_column)


def weighted_bags_triton(weights: Tensor, indices: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """`weighted_bags_reference` in one kernel; sums in float32, or float64 if the table is, and rounds once."""
    n_bags, d = len(offsets) - 1, table.shape[1]
    out = table.new_empty(n_bags, d)
    if out.numel() == 0:
        return out
    block = min(triton.next_power_of_2(d), _MAX_BLOCK)
    grid = (n_bags, triton.cdiv(d, block))
    inputs = [x.contiguous() for x in (weights, indices, offsets, table)]
    dtype = tl.float64 if table.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(table):  # Triton launches on the current device; does nothing for a CPU tensor
        _weighted_bags_kernel[grid](*inputs, out, d, BLOCK=block, SUM=dtype)
    return out
