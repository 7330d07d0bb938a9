"""Encode to active features only: which features are on at which positions, and their activations.

ReLU: on where `h = W_enc . x + b_enc` is positive; JumpReLU: where it exceeds the feature's threshold; TopK: the `k`
largest of each position, where positive, or whatever their sign. An active feature's activation is `h`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.kernels.choose import uses_triton

# of pre-activations, and of converted weights, that exist at a time: a choice, not tuned
_DENSE_BYTES = 64 * 2**20


class Encoded(NamedTuple):
    """Active features, ascending by position and then by feature."""

    pos: Int[Tensor, " n_active"]
    feature: Int[Tensor, " n_active"]
    activation: Float[Tensor, " n_active"]
    is_finite: Bool[Tensor, ""]  # whether all pre-activations are


def encode_sparse_reference(
    x: Float[Tensor, "n_pos d_model"],
    W_enc: Float[Tensor, "n_features d_model"],
    b_enc: Float[Tensor, " n_features"],
    threshold: Float[Tensor, " n_features"] | None = None,
    k: int | None = None,
    only_positive: bool = True,
) -> Encoded:
    """The specification: all pre-activations at once."""
    h = x @ W_enc.to(x).T + b_enc.to(x)
    return _active(h, None if threshold is None else threshold.to(x), k, only_positive)


def active_mask(
    h: Float[Tensor, "n_pos n_features"],
    threshold: Float[Tensor, " n_features"] | None,
    k: int | None,
    only_positive: bool = True,
) -> Bool[Tensor, "n_pos n_features"]:
    """Which pre-activations are on."""
    is_on = h > (0.0 if threshold is None else threshold) if only_positive else h != 0
    if threshold is None and k is not None and k < h.shape[1]:
        is_on &= torch.zeros_like(is_on).scatter_(1, h.topk(k, dim=1).indices, True)
    return is_on


def _active(
    h: Float[Tensor, "n_pos n_features"], threshold: Tensor | None, k: int | None, only_positive: bool
) -> Encoded:
    pos, feature = active_mask(h, threshold, k, only_positive).nonzero(as_tuple=True)
    return Encoded(pos, feature, h[pos, feature], all_finite(h))


def all_finite(h: Float[Tensor, "n_pos n_features"]) -> Bool[Tensor, ""]:
    """Whether every value is finite. A sum, which is ten times faster, tells so unless it overflows itself."""
    is_finite = torch.isfinite(h.sum())
    return is_finite if bool(is_finite) else torch.isfinite(h).all()


def encode_sparse(
    x: Float[Tensor, "n_pos d_model"],
    W_enc: Float[Tensor, "n_features d_model"],
    b_enc: Float[Tensor, " n_features"],
    threshold: Float[Tensor, " n_features"] | None = None,
    k: int | None = None,
    only_positive: bool = True,
) -> Encoded:
    """`encode_sparse_reference` some features at a time, so that the weights may be larger than memory.

    Args:
        x: what the transcoder reads.
        W_enc, b_enc, threshold: weights, of any floating type and on any device.
        k: for TopK; not together with thresholds.
        only_positive: False for a TopK that keeps negative pre-activations where fewer than k are positive.
    """
    n_features = len(W_enc)
    # of a step's pre-activations, and of its weights, which may have to be converted
    step = max(1, _DENSE_BYTES // (max(x.shape) * x.element_size()))
    is_topk = threshold is None and k is not None and k < n_features
    is_triton = uses_triton(x) and not is_topk and x.dtype != torch.float64 and min(len(x), n_features) > 0
    is_triton = is_triton and only_positive
    parts = []
    for start in range(0, max(1, n_features), step):
        some = slice(start, start + step)
        W, b, limit = W_enc[some].to(x), b_enc[some].to(x), None if threshold is None else threshold[some].to(x)
        if is_triton:
            from attrgraph.kernels._encode_sparse_triton import encode_above_triton

            bound = torch.zeros_like(b) if limit is None else limit
            counts, feature, h, is_finite = encode_above_triton(x, W, b, bound)
            pos = torch.arange(len(x), device=x.device).repeat_interleave(counts, output_size=len(feature))
            part = Encoded(pos, feature, h, is_finite)
        else:
            part = _active(torch.addmm(b, x, W.T), limit, k, only_positive)
        parts.append(part._replace(feature=part.feature + start))
    pos, feature, activation = (torch.cat(column) for column in list(zip(*parts, strict=True))[:3])
    if len(parts) > 1:
        kept = pos.argsort(stable=True)
        if is_topk and k is not None:
            kept = kept[_top(pos[kept], activation[kept], len(x), k)]
        pos, feature, activation = pos[kept], feature[kept], activation[kept]
    return Encoded(pos, feature, activation, torch.stack([part.is_finite for part in parts]).all())


def _top(pos: Tensor, activation: Tensor, n_pos: int, k: int) -> Tensor:
    """Of entries in order of positions, the places of the `k` largest of each position, in the same order."""
    by_size = activation.argsort(descending=True, stable=True)
    order = by_size[pos[by_size].argsort(stable=True)]  # position by position, the largest first
    starts = torch.searchsorted(pos, torch.arange(n_pos, device=pos.device))
    rank = torch.arange(len(pos), device=pos.device) - starts[pos]
    return order[rank < k].sort().values
