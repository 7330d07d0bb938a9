"""Edges from adjoints: out[row, column of source] += adjoint[row, pos of source] . vector[source].

Layout: adjoint [n_rows, n_pos, d] and out [n_rows, n_columns] with any row stride, vector [n_writes, d] contiguous.
`items` [n_items, 4]: position, first and end place in `vector`, first column: at most `BN` sources of one position. One
program computes a block of rows against one item and adds it to `out`; no two programs touch the same edge.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# not measured yet, for want of a GPU: rows and numbers of a program's matrix products
_BLOCK_ROWS, _BLOCK_D = 32, 32


@triton.jit  # type: ignore[untyped-decorator]
def _edge_rows_kernel(  # type: ignore[no-untyped-def]
    adjoint, vector, items, out, n_rows, d, row_stride, pos_stride, out_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    item = items + tl.program_id(0).to(tl.int64) * 4
    pos, start, end, column = tl.load(item), tl.load(item + 1), tl.load(item + 2), tl.load(item + 3)
    rows = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
    sources = start + tl.arange(0, BN)
    is_row, is_source = rows < n_rows, sources < end
    left = adjoint + rows[:, None] * row_stride + pos * pos_stride
    right = vector + sources[:, None] * d
    total = tl.zeros([BM, BN], dtype=tl.float32)
    for first in range(0, d, BK):
        k = first + tl.arange(0, BK)
        is_k = (k < d)[None, :]
        a = tl.load(left + k[None, :], mask=is_row[:, None] & is_k, other=0.0)
        b = tl.load(right + k[None, :], mask=is_source[:, None] & is_k, other=0.0)
        total += tl.dot(a, tl.trans(b), input_precision="ieee")
    columns = column + tl.arange(0, BN)
    place = out + rows[:, None] * out_stride + columns[None, :]
    is_edge = is_row[:, None] & is_source[None, :]
    total += tl.load(place, mask=is_edge, other=0.0).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=is_edge)


def edge_rows_triton(adjoint: Tensor, vector: Tensor, items: Tensor, out: Tensor, item_sources: int) -> None:
    """Add the edges of items of at most so many sources in one kernel; sums in float32."""
    n_rows, _, d = adjoint.shape
    if not n_rows or not len(items):
        return
    adjoint = adjoint if adjoint.stride(2) == 1 else adjoint.contiguous()
    grid = (len(items), triton.cdiv(n_rows, _BLOCK_ROWS))
    with torch.cuda.device_of(out):  # Triton launches on the current device; does nothing for a CPU tensor
        _edge_rows_kernel[grid](
            adjoint, vector.contiguous(), items, out, n_rows, d, adjoint.stride(0), adjoint.stride(1), out.stride(0),
            BM=_BLOCK_ROWS, BN=item_sources, BK=_BLOCK_D,
        )  # fmt: skip
