"""Dot products of chosen pairs of rows: out[pair] = left[token of the pair] . right[feature of the pair].

Layout: left [n_tokens, d], right [n_features, d], out [n_pairs], n_real []. One program computes one pair, block after
block of columns: tokens with many pairs keep nobody waiting, and nothing is atomic.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from attrgraph.kernels.pairs import Pairs

# not measured yet, for want of a GPU: the most columns a program takes at a time
_MAX_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _pair_dots_kernel(left, tokens, features, n_real, right, out, d, BLOCK: tl.constexpr, SUM: tl.constexpr):  # type: ignore[no-untyped-def]
    pair = tl.program_id(0).to(tl.int64)
    left_row = left + tl.load(tokens + pair).to(tl.int64) * d
    right_row = right + tl.load(features + pair).to(tl.int64) * d
    products = tl.zeros([BLOCK], dtype=SUM)
    # padding gets 0 without reading anything
    for start in range(0, tl.where(pair < tl.load(n_real), d, 0), BLOCK):
        columns = start + tl.arange(0, BLOCK)
        is_column = columns < d
        x = tl.load(left_row + columns, mask=is_column, other=0.0).to(SUM)
        products += x * tl.load(right_row + columns, mask=is_column, other=0.0).to(SUM)
    tl.store(out + pair, tl.sum(products, axis=0).to(out.dtype.element_ty))


def pair_dots_triton(left: Tensor, pairs: Pairs, right: Tensor) -> Tensor:
    """`pair_dots_reference` in one kernel; sums in float32, or float64 if `right` is, and rounds once."""
    n_pairs, d = len(pairs.features), right.shape[1]
    out = right.new_empty(n_pairs)
    if n_pairs == 0:
        return out
    inputs = [x.contiguous() for x in (left, pairs.tokens, pairs.features, pairs.offsets[-1], right)]
    block = min(triton.next_power_of_2(d), _MAX_BLOCK)
    dtype = tl.float64 if right.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(right):  # Triton launches on the current device; does nothing for a CPU tensor
        _pair_dots_kernel[(n_pairs,)](*inputs, out, d, BLOCK=block, SUM=dtype)
    return out
