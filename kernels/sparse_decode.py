"""Sparse decoding: out[token] = sum over the token's k features of activation * decoder row."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


def sparse_decode_reference(
    activations: Float[Tensor, "n_tokens k"],
    features: Int[Tensor, "n_tokens k"],
    W_dec: Float[Tensor, "n_features d_out"],
) -> Float[Tensor, "n_tokens d_out"]:
    """The specification: gather the rows, scale, add."""
    return torch.einsum("nk,nkd->nd", activations, W_dec[features])


def sparse_decode(
    activations: Float[Tensor, "n_tokens k"],
    features: Int[Tensor, "n_tokens k"],
    W_dec: Float[Tensor, "n_features d_out"],
) -> Float[Tensor, "n_tokens d_out"]:
    """`sparse_decode_reference` as one weighted bag per token; differentiable in activations and decoder.

    For a cross-layer transcoder `d_out` is all target layers side by side, so one bag brings every write of a feature.
    """
    return embedding_bag(features, W_dec, per_sample_weights=activations, mode="sum")
