"""The frozen-attention adjoint: out[r, key, v] = sum over queries and over the heads h of value head v of
pattern[h, query, key] * x[r, query, h].

Layout: x [n_rows, n_pos, n_heads, d_head], pattern [n_heads, n_pos, n_pos], out [n_rows, n_pos, n_value_heads, d_head],
all with any strides but 1 in the last dimension. One program computes a block of keys of one row and value head; its
queries begin at its first key, since attention is causal.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# not measured yet, for want of a GPU: keys and queries of a program's matrix products
_BLOCK_KEYS, _BLOCK_QUERIES = 64, 32


@triton.jit  # type: ignore[untyped-decorator]
def _mix_heads_kernel(  # type: ignore[no-untyped-def]
    x, pattern, out, n_pos, d_head, group,
    x_row, x_pos, x_head, pattern_head, pattern_query, out_row, out_pos, out_head,
    BK: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row, value_head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    first_key = tl.program_id(2) * BK
    keys, numbers = first_key + tl.arange(0, BK), tl.arange(0, BD)
    is_key, is_number = keys < n_pos, numbers < d_head
    total = tl.zeros([BK, BD], dtype=tl.float32)
    for member in range(0, group):
        head = value_head * group + member
        for first in range(first_key, n_pos, BQ):
            queries = first + tl.arange(0, BQ)
            is_query = queries < n_pos
            weights = tl.load(
                pattern + head * pattern_head + queries[:, None].to(tl.int64) * pattern_query + keys[None, :],
                mask=is_query[:, None] & is_key[None, :], other=0.0,
            )  # fmt: skip
            reads = tl.load(
                x + row * x_row + queries[:, None].to(tl.int64) * x_pos + head * x_head + numbers[None, :],
                mask=is_query[:, None] & is_number[None, :], other=0.0,
            )  # fmt: skip
            total += tl.dot(tl.trans(weights), reads, input_precision="ieee")
    place = out + row * out_row + keys[:, None].to(tl.int64) * out_pos + value_head * out_head + numbers[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=is_key[:, None] & is_number[None, :])


def mix_heads_triton(x: Tensor, pattern: Tensor, n_value_heads: int) -> Tensor:
    """`mix_heads_reference` in one kernel; sums in float32."""
    n_rows, n_pos, n_heads, d_head = x.shape
    out = x.new_empty(n_rows, n_pos, n_value_heads, d_head)
    if not out.numel():
        return out
    x = x if x.stride(3) == 1 else x.contiguous()
    pattern = pattern if pattern.stride(2) == 1 else pattern.contiguous()
    grid = (n_rows, n_value_heads, triton.cdiv(n_pos, _BLOCK_KEYS))
    with torch.cuda.device_of(x):  # Triton launches on the current device; does nothing for a CPU tensor
        _mix_heads_kernel[grid](
            x, pattern, out, n_pos, d_head, n_heads // n_value_heads,
            x.stride(0), x.stride(1), x.stride(2), pattern.stride(0), pattern.stride(1),
            out.stride(0), out.stride(1), out.stride(2),
            BK=_BLOCK_KEYS, BQ=_BLOCK_QUERIES, BD=max(16, triton.next_power_of_2(d_head)),
        )  # fmt: skip
    return out
