"""Sparse decoding: out[token] = sum over the token's pairs of activation * decoder row.

Neither direction touches rows of features that are not active: forward is one bag a token over wide decoder rows;
backward is one dot product a pair for the activations and one bag a feature, over tokens, for the decoder.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attrgraph.kernels.pair_dots import pair_dots
from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.row_gradients import row_gradients
from attrgraph.kernels.weighted_bags import weighted_bags, weighted_bags_reference


def sparse_decode_reference(
    activations: Float[Tensor, " n_pairs"], pairs: Pairs, W_dec: Float[Tensor, "n_features d_out"]
) -> Float[Tensor, "n_tokens d_out"]:
    """The specification; differentiable in activations and decoder."""
    return weighted_bags_reference(activations, pairs.features, pairs.offsets, W_dec)


def sparse_decode(
    activations: Float[Tensor, " n_pairs"],
    pairs: Pairs,
    W_dec: Float[Tensor, "n_features d_out"],
    *,
    has_sparse_gradient: bool = False,
) -> Float[Tensor, "n_tokens d_out"]:
    """`sparse_decode_reference`, fast in both directions.

    Args:
        activations: of each pair.
        pairs: active features by token.
        W_dec: for a cross-layer transcoder, each row holds what the feature writes into all its target layers.
        has_sparse_gradient: the decoder's gradient is sparse: rows of active features only.
    """
    out: Tensor = _SparseDecode.apply(activations, pairs, W_dec, has_sparse_gradient)  # type: ignore[no-untyped-call]
    return out


class _SparseDecode(Function):
    @staticmethod
    def forward(ctx: Any, activations: Tensor, pairs: Pairs, W_dec: Tensor, has_sparse_gradient: bool) -> Tensor:
        ctx.save_for_backward(activations, W_dec)
        ctx.pairs, ctx.has_sparse_gradient = pairs, has_sparse_gradient
        return weighted_bags(activations, pairs.features, pairs.offsets, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (gradient,), (activations, W_dec) = gradients, ctx.saved_tensors
        gradient = gradient.contiguous()
        for_activations = pair_dots(gradient, ctx.pairs, W_dec) if ctx.needs_input_grad[0] else None
        for_decoder = None
        if ctx.needs_input_grad[2]:
            for_decoder = row_gradients(activations, ctx.pairs, gradient, is_sparse=ctx.has_sparse_gradient)
        return for_activations, None, for_decoder, None
