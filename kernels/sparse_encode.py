"""Pre-activations of chosen pairs only: out[pair] = x[token] . W_enc[feature] + b_enc[feature].

Selection needs every pre-activation, the gradient only those selected: this op carries it to them and nowhere else.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attrgraph.kernels.pair_dots import pair_dots, pair_dots_reference
from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.row_gradients import row_gradients
from attrgraph.kernels.weighted_bags import weighted_bags


def sparse_encode_reference(
    x: Float[Tensor, "n_tokens d_model"],
    pairs: Pairs,
    W_enc: Float[Tensor, "n_features d_model"],
    b_enc: Float[Tensor, " n_features"],
) -> Float[Tensor, " n_pairs"]:
    """The specification; differentiable in stream, encoder and bias."""
    return pair_dots_reference(x, pairs, W_enc) + b_enc[pairs.features]


def sparse_encode(
    x: Float[Tensor, "n_tokens d_model"],
    pairs: Pairs,
    W_enc: Float[Tensor, "n_features d_model"],
    b_enc: Float[Tensor, " n_features"],
    *,
    has_sparse_gradient: bool = False,
) -> Float[Tensor, " n_pairs"]:
    """`sparse_encode_reference`, fast in both directions.

    Args:
        x: what the transcoder reads.
        pairs: for which features at which tokens.
        has_sparse_gradient: the encoder's gradient is sparse: rows of occurring features only. The bias's is dense.
    """
    out: Tensor = _SparseEncode.apply(x, pairs, W_enc, b_enc, has_sparse_gradient)  # type: ignore[no-untyped-call]
    return out


class _SparseEncode(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Pairs, W_enc: Tensor, b_enc: Tensor, has_sparse_gradient: bool) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.pairs, ctx.has_sparse_gradient = pairs, has_sparse_gradient
        return pair_dots(x, pairs, W_enc) + b_enc[pairs.features]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        (gradient,), (x, W_enc), pairs = gradients, ctx.saved_tensors, ctx.pairs
        for_x = for_encoder = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = weighted_bags(gradient, pairs.features, pairs.offsets, W_enc)
        if ctx.needs_input_grad[2]:
            for_encoder = row_gradients(gradient, pairs, x, is_sparse=ctx.has_sparse_gradient)
        if ctx.needs_input_grad[3]:
            for_bias = torch.zeros_like(W_enc[:, 0]).index_add_(0, pairs.features, gradient)
        return for_x, None, for_encoder, for_bias, None
