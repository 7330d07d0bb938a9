"""The frozen-attention adjoint: out[r, key, h] = sum over queries of pattern[h, query, key] * x[r, query, h]."""

import torch
from jaxtyping import Float
from torch import Tensor


def mix_heads_reference(
    x: Float[Tensor, "n_rows n_pos n_heads d_head"], pattern: Float[Tensor, "n_heads n_pos n_pos"]
) -> Float[Tensor, "n_rows n_pos n_heads d_head"]:
    """The specification, as one contraction."""
    return torch.einsum("hqk,rqhd->rkhd", pattern, x)


def mix_heads(
    x: Float[Tensor, "n_rows n_pos n_heads d_head"], pattern: Float[Tensor, "n_heads n_pos n_pos"]
) -> Float[Tensor, "n_rows n_pos n_heads d_head"]:
    """`mix_heads_reference` as one matrix product per head over all rows at once.

    Args:
        x: the adjoint of each head's output, by query position.
        pattern: attention weights [head, query, key], zero above the diagonal.
    """
    n_rows, n_pos, n_heads, d_head = x.shape
    by_head = x.permute(2, 1, 0, 3).reshape(n_heads, n_pos, n_rows * d_head)
    mixed = pattern.transpose(1, 2) @ by_head
    return mixed.view(n_heads, n_pos, n_rows, d_head).permute(2, 1, 0, 3)
