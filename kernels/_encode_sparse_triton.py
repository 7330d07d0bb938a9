"""Features whose pre-activation exceeds a bound, and these pre-activations, without writing all others to memory.

Layout: x [n_pos, d], W [n_features, d], bias and bound [n_features]. A program computes a block of positions against a
block of features. The first pass writes how many are on, [n_pos, n_blocks]; from their running sum the second, which
computes the same again, knows where to write: by position, then by feature.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# not measured yet, for want of a GPU: positions, features and numbers of a program's matrix products
_BLOCK_POS, _BLOCK_FEATURES, _BLOCK_D = 16, 64, 32


@triton.jit  # type: ignore[untyped-decorator]
def _encode_kernel(  # type: ignore[no-untyped-def]
    x, W, bias, bound, counts, starts, feature, activation, is_finite, n_pos, n_features, d, n_blocks,
    IS_COUNTING: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    positions = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    features = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    is_pos, is_feature = positions < n_pos, features < n_features
    h = tl.zeros([BM, BN], dtype=tl.float32)
    for first in range(0, d, BK):
        k = first + tl.arange(0, BK)
        is_k = (k < d)[None, :]
        a = tl.load(x + positions[:, None] * d + k[None, :], mask=is_pos[:, None] & is_k, other=0.0)
        b = tl.load(W + features[:, None] * d + k[None, :], mask=is_feature[:, None] & is_k, other=0.0)
        h += tl.dot(a, tl.trans(b), input_precision="ieee")
    h += tl.load(bias + features, mask=is_feature, other=0.0)[None, :].to(tl.float32)
    limit = tl.load(bound + features, mask=is_feature, other=0.0)[None, :].to(tl.float32)
    is_entry = is_pos[:, None] & is_feature[None, :]
    is_on = is_entry & (h > limit)
    block = positions * n_blocks + tl.program_id(1)
    if IS_COUNTING:
        tl.store(counts + block, tl.sum(is_on.to(tl.int64), axis=1), mask=is_pos)
        # inf - inf and nan - nan are not 0
        wrong = tl.sum(tl.sum((is_entry & (h - h != 0.0)).to(tl.int32), axis=1), axis=0)
        tl.store(is_finite + tl.program_id(0) * n_blocks + tl.program_id(1), wrong == 0)
    else:
        rank = tl.cumsum(is_on.to(tl.int64), axis=1) - 1
        place = tl.load(starts + block, mask=is_pos, other=0)[:, None] + rank
        tl.store(feature + place, tl.broadcast_to(features[None, :], (BM, BN)), mask=is_on)
        tl.store(activation + place, h.to(activation.dtype.element_ty), mask=is_on)


def encode_above_triton(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How many features each position has on [n_pos], which and their pre-activations [n_active], and whether all are
    finite [].

    Sums in float32; of one position and feature or more. Waits once, to know how many there are.
    """
    (n_pos, d), n_features = x.shape, len(W_enc)
    grid = (triton.cdiv(n_pos, _BLOCK_POS), triton.cdiv(n_features, _BLOCK_FEATURES))
    new = x.new_empty
    counts = new((n_pos, grid[1]), dtype=torch.int64)
    is_finite = torch.ones(grid, dtype=torch.bool, device=x.device)
    inputs = [tensor.contiguous() for tensor in (x, W_enc, b_enc, bound)]
    sizes = {"BM": _BLOCK_POS, "BN": _BLOCK_FEATURES, "BK": _BLOCK_D}
    numbers = (n_pos, n_features, d, grid[1])
    with torch.cuda.device_of(x):  # Triton launches on the current device; does nothing for a CPU tensor
        _encode_kernel[grid](*inputs, counts, counts, counts, counts, is_finite, *numbers, IS_COUNTING=True, **sizes)
        ends = counts.flatten().cumsum(0)
        n_active = int(ends[-1])
        feature, activation = new(n_active, dtype=torch.int64), new(n_active)
        starts = ends - counts.flatten()
        _encode_kernel[grid](
            *inputs, counts, starts, feature, activation, is_finite, *numbers, IS_COUNTING=False, **sizes
        )
    return counts.sum(1), feature, activation, is_finite.all()
