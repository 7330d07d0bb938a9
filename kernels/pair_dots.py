"""Dot products of chosen pairs of rows: out[pair] = left[token of the pair] . right[feature of the pair]."""

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.kernels.choose import uses_triton
from attrgraph.kernels.pairs import Pairs


def pair_dots_reference(
    left: Float[Tensor, "n_tokens d"], pairs: Pairs, right: Float[Tensor, "n_features d"]
) -> Float[Tensor, " n_pairs"]:
    """The specification: gather both rows of every pair, multiply, add; 0 for padding."""
    dots = (left[pairs.tokens] * right[pairs.features]).sum(-1)
    return torch.where(pairs.is_real, dots, 0.0) if pairs.is_padded else dots


def pair_dots(
    left: Float[Tensor, "n_tokens d"], pairs: Pairs, right: Float[Tensor, "n_features d"]
) -> Float[Tensor, " n_pairs"]:
    """`pair_dots_reference` without gathered copies. Not differentiable: see the ops built on it."""
    if uses_triton(right):
        from attrgraph.kernels._pair_dots_triton import pair_dots_triton

        return pair_dots_triton(left, pairs, right)
    if right.device.type != "cpu" or not len(pairs.features):
        return pair_dots_reference(left, pairs, right)
    # what embedding_bag's own backward calls for its weights: the dot products of bag gradients and table rows
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, pairs.features, pairs.offsets[:-1], pairs.tokens, 0
    )
    return torch.where(pairs.is_real, dots, 0.0) if pairs.is_padded else dots
