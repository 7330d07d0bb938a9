"""Sparse encoding and decoding, differentiable, from the pairs (token, feature) that are chosen only.

encode: out[pair] = x[token] . W_enc[feature] + b_enc[feature]. Selection needs every pre-activation, the gradient only
those selected: this op carries it to them and nowhere else.
decode: out[token] = sum over the token's pairs of activation * W_dec[feature].

Neither direction touches rows of other features. The two products are each other's transpose: the gradient of a token's
vector or of an activation is the other op, and a table's gradient is one bag a feature, over its pairs.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from attrgraph.kernels.pair_dots import pair_dots, pair_dots_reference
from attrgraph.kernels.pairs import Pairs
from attrgraph.kernels.weighted_bags import weighted_bags, weighted_bags_reference


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
    dots: Tensor = _Product.apply(x, pairs, W_enc, True, has_sparse_gradient)  # type: ignore[no-untyped-call]
    return dots + b_enc.index_select(0, pairs.features)


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
    return _Product.apply(activations, pairs, W_dec, False, has_sparse_gradient)  # type: ignore[no-any-return, no-untyped-call]


class _Product(Function):
    """Dot products of tokens' vectors `x` and a table's rows, or bags of these rows with weights `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Pairs, table: Tensor, is_dots: bool, has_sparse_gradient: bool) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.settings = pairs, is_dots, has_sparse_gradient
        return pair_dots(x, pairs, table) if is_dots else _bags(x, pairs, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor, None, None]:
        (gradient,), (x, table), (pairs, is_dots, has_sparse_gradient) = gradients, ctx.saved_tensors, ctx.settings
        gradient, for_x = gradient.contiguous(), None
        if ctx.needs_input_grad[0]:  # recorded streams have no gradient
            for_x = _bags(gradient, pairs, table) if is_dots else pair_dots(gradient, pairs, table)
        of_pairs, of_tokens = (gradient, x) if is_dots else (x, gradient)
        return for_x, None, row_gradients(of_pairs, pairs, of_tokens, is_sparse=has_sparse_gradient), None, None


def _bags(weights: Float[Tensor, " n_pairs"], pairs: Pairs, table: Tensor) -> Float[Tensor, "n_tokens d"]:
    return weighted_bags(weights, pairs.features, pairs.offsets, table)


def row_gradients(
    weights: Float[Tensor, " n_pairs"], pairs: Pairs, table: Float[Tensor, "n_tokens d"], *, is_sparse: bool
) -> Tensor:
    """grad[f] = sum over pairs of feature `f` of weight * table[token], [n_features, d].

    Args:
        is_sparse: return a coalesced sparse COO tensor that holds only the rows of features that occur.
    """
    groups = pairs.by_active_feature if is_sparse else pairs.by_feature
    rows = weighted_bags(weights[groups.order], groups.tokens, groups.offsets, table)
    if groups.features is None:
        return rows
    size = (pairs.n_features, rows.shape[1])
    return torch.sparse_coo_tensor(groups.features[None], rows, size, is_coalesced=True, check_invariants=False)
