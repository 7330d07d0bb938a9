"""Which features are on: by token, over a whole batch and all layers, or by learned thresholds.

Sources: TopK: Gao et al. 2024, arXiv 2406.04093. BatchTopK: Bussmann et al. 2024, arXiv 2412.06410. JumpReLU:
Rajamanoharan et al. 2024, arXiv 2407.14435, with gradients to the pre-activations too as in Anthropic's January 2025
update, transformer-circuits.pub/2025/january-update.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from attrgraph.kernels.pairs import Pairs, counts_are_known
from attrgraph.transcoders.training.shards import Shards

# share of the last batch's threshold above which entries are looked at one by one: wide enough that hardly any batch
# has too few of them (then all are sorted), narrow enough that they are few
_CANDIDATE_SHARE = 0.7
# entries of one layer's scores among which are all that can be kept: tokens in ascending order, features, scores
_Candidates = tuple[Tensor, Tensor, Tensor]


def top_features(scores: Float[Tensor, "n_tokens n_features"], k: int, shards: Shards) -> Pairs:
    """The `k` best features of each token, of all processes' features together; ties across processes are all kept."""
    n_features = scores.shape[1]
    best = scores.topk(min(k, n_features), dim=1, sorted=False)
    if shards.n_ranks == 1:
        return Pairs.of_rows(best.indices, n_features)
    threshold = kth_best(best.values, k, shards)
    tokens = torch.arange(len(scores), device=scores.device).repeat_interleave(best.indices.shape[1])
    is_kept = (best.values >= threshold).flatten()
    return Pairs.of_indices(tokens, best.indices.flatten(), scores.shape, is_kept)


def kth_best(values: Float[Tensor, "n n_own"], k: int, shards: Shards) -> Float[Tensor, "n 1"]:
    """The `k`-th largest of each row over all processes; of values that are not negative, at most `k` in each."""
    padded = values.new_zeros(len(values), k)
    padded[:, : values.shape[1]] = values
    return torch.cat(shards.gather(padded), dim=1).topk(k, dim=1).values[:, -1:]


def batch_top_features(
    scores: list[Float[Tensor, "n_tokens n_features"]], n_kept: int, guess: Float[Tensor, ""], shards: Shards
) -> tuple[list[Pairs], Float[Tensor, ""]]:
    """The `n_kept` best positive entries of all layers and tokens together; ties at the threshold are all kept.

    Args:
        scores: by layer.
        guess: about the threshold that will come out; only the speed depends on it.

    Returns:
        The pairs of every layer, and the lowest score kept.
    """
    if counts_are_known(guess):
        candidates = _above(scores, n_kept, float(guess), shards)
    else:
        candidates = [_best(score, n_kept) for score in scores]
    best = torch.cat([values for _, _, values in candidates])
    best = best.topk(min(n_kept, len(best)), sorted=False).values
    if shards.n_ranks > 1:
        threshold = kth_best(best[None], n_kept, shards)[0, 0]
    else:
        threshold = best.min() if len(best) else scores[0].new_zeros(())
    pairs = []
    for score, (tokens, features, values) in zip(scores, candidates, strict=True):
        pairs.append(Pairs.of_indices(tokens, features, score.shape, (values >= threshold) & (values > 0)))
    return pairs, threshold


def _above(scores: list[Tensor], n_kept: int, guess: float, shards: Shards) -> list[_Candidates]:
    """What exceeds a share of the guess, or a lower bound where that is too few. Waits to know how many they are."""
    floor = guess * _CANDIDATE_SHARE if math.isfinite(guess) else 0.0
    while True:
        found = [(score > floor).nonzero(as_tuple=True) for score in scores]
        n_found = torch.tensor(sum(len(tokens) for tokens, _ in found))
        if int(shards.sum_(n_found)) >= n_kept or floor == 0.0:
            return [(t, f, score[t, f]) for score, (t, f) in zip(scores, found, strict=True)]
        floor = floor / 4 if floor > 1e-6 else 0.0


def _best(score: Tensor, n_kept: int) -> _Candidates:
    """As many of one layer's best as can be kept of all layers. Waits for nothing."""
    places = score.flatten().topk(min(n_kept, score.numel()), sorted=False).indices.sort().values
    tokens, features = places // score.shape[1], places % score.shape[1]
    return tokens, features, score.flatten()[places]


def jumprelu(
    pre_activations: Float[Tensor, " n_pairs"], threshold: Float[Tensor, " n_pairs"], bandwidth: float
) -> Float[Tensor, " n_pairs"]:
    """The pre-activation where it exceeds the threshold, else 0; straight-through gradients of both near the jump."""
    return _JumpReLU.apply(pre_activations, threshold, bandwidth)  # type: ignore[no-any-return, no-untyped-call]


class _JumpReLU(Function):
    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return pre_activations * (pre_activations > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (pre_activations, threshold) = gradients, ctx.saved_tensors
        distance = (pre_activations - threshold) / ctx.bandwidth
        jump = gradient * threshold / ctx.bandwidth * (distance.abs() < 0.5)
        return gradient * (distance > 0) + jump, -jump, None
