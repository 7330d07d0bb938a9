"""The frozen-attention adjoint: out[r, key, v] = sum over queries and over the heads h of value head v of
pattern[h, query, key] * x[r, query, h]."""

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.kernels.choose import uses_triton

# keys of one matrix product: a block's queries begin at its first key, so that most of what is masked is not computed
_KEY_BLOCK = 128


def mix_heads_reference(
    x: Float[Tensor, "n_rows n_pos n_heads d_head"],
    pattern: Float[Tensor, "n_heads n_pos n_pos"],
    n_value_heads: int,
) -> Float[Tensor, "n_rows n_pos n_value_heads d_head"]:
    """The specification, as one contraction."""
    mixed = torch.einsum("hqk,rqhd->rkhd", pattern, x)
    return mixed.unflatten(2, (n_value_heads, -1)).sum(3)  # type: ignore[no-any-return]


def mix_heads(
    x: Float[Tensor, "n_rows n_pos n_heads d_head"],
    pattern: Float[Tensor, "n_heads n_pos n_pos"],
    n_value_heads: int,
) -> Float[Tensor, "n_rows n_pos n_value_heads d_head"]:
    """`mix_heads_reference` as matrix products of a value head's queries with a block of keys, over all rows at once.

    Args:
        x: the adjoint of each head's output, by query position.
        pattern: attention weights [head, query, key], zero above the diagonal.
        n_value_heads: query heads `h * n_heads / n_value_heads` and following share value head `h`.
    """
    if uses_triton(x) and x.dtype != torch.float64:
        from attrgraph.kernels._mix_heads_triton import mix_heads_triton

        return mix_heads_triton(x, pattern, n_value_heads)
    n_rows, n_pos, n_heads, d_head = x.shape
    group = n_heads // n_value_heads
    # [n_value_heads, n_pos, group, n_rows, d_head]: a value head's queries are the rows of one matrix
    by_head = x.unflatten(2, (n_value_heads, group)).permute(2, 1, 3, 0, 4).reshape(n_value_heads, n_pos, group, -1)
    weights = pattern.unflatten(0, (n_value_heads, group)).permute(0, 3, 2, 1)  # [n_value_heads, key, query, group]
    mixed = x.new_empty(n_value_heads, n_pos, n_rows * d_head)
    for start in range(0, n_pos, _KEY_BLOCK):
        keys = slice(start, start + _KEY_BLOCK)
        torch.bmm(weights[:, keys, start:].flatten(2), by_head[:, start:].flatten(1, 2), out=mixed[:, keys])
    return mixed.view(n_value_heads, n_pos, n_rows, d_head).permute(2, 1, 0, 3)
