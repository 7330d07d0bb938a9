"""Which tokens a feature promotes and suppresses: its decoder rows seen through the final norm and the unembedding."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.models.frozen import FrozenNorm
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders

# logits that exist at a time; bins of their histograms, and tokens that these are of: chosen, not tuned
_MOST_LOGITS, _N_BINS, _N_COUNTED = 2**25, 40, 8192


class Promoted(NamedTuple):
    """Of some features the tokens with the largest and the smallest logits, the most extreme first.

    `histogram` counts the logits of all tokens, or of 8,192 to 16,384 evenly spaced ones, in equal bins of `range`.
    """

    top_ids: Int[Tensor, "n n_tokens"]
    top_values: Float[Tensor, "n n_tokens"]
    bottom_ids: Int[Tensor, "n n_tokens"]
    bottom_values: Float[Tensor, "n n_tokens"]
    histogram: Int[Tensor, "n n_bins"]
    range: Float[Tensor, "n 2"]


@torch.no_grad()
def promoted(
    model: LanguageModel,
    transcoders: Transcoders,
    layer: int,
    features: Int[Tensor, " n"],
    *,
    n_tokens: int,
    target: int | None = None,
) -> Promoted:
    """By how much features raise and lower the logit of each token, per unit of activation, but for the norms' scales.

    What a feature writes is multiplied by the weights of the norm after the MLP, if there is one, and of the final
    norm, and by the unembedding; the scales of norms differ from token to token and are left out.

    Args:
        model: whose unembedding.
        transcoders: of the model.
        layer: of the features.
        features: of that layer.
        n_tokens: of each end.
        target: only what is written into this layer; by default the sum over all layers that are written into.
    """
    W_U, _ = model.unembedding()
    n_tokens = min(n_tokens, len(W_U))
    targets = range(layer, layer + transcoders.n_targets(layer)) if target is None else [target]
    found = []
    for some in features.split(max(1, _MOST_LOGITS // len(W_U))):
        logits = (
            _through(_plain(model, model.final_norm_module()), written(model, transcoders, layer, some, targets))
            @ W_U.T
        )
        top, bottom = logits.topk(n_tokens, dim=1), logits.topk(n_tokens, dim=1, largest=False)
        found.append(Promoted(top.indices, top.values, bottom.indices, bottom.values, *_histogram(logits)))
    return Promoted(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))


@torch.no_grad()
def written(
    model: LanguageModel, transcoders: Transcoders, layer: int, features: Int[Tensor, " n"], targets: Iterable[int]
) -> Float[Tensor, "n d_model"]:
    """What a unit of each feature writes into the stream at these layers together, but for scales of norms."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros(len(features), model.d_model, device=model.device, dtype=dtype)
    for target in targets:
        rows = transcoders.decoder_rows(layer, target, features, out=torch.empty_like(total))
        total += _through(_norm_after(model, transcoders, target), rows)
    transcoders.check_sums(layer, total, features)
    return total


def _histogram(logits: Float[Tensor, "n d_vocab"]) -> tuple[Int[Tensor, "n n_bins"], Float[Tensor, "n 2"]]:
    some = logits[:, :: max(1, logits.shape[1] // _N_COUNTED)]
    low, high = some.aminmax(dim=1, keepdim=True)
    at = ((some - low) / (high - low).clamp_min(1e-30) * _N_BINS).long().clamp_max(_N_BINS - 1)
    counts = torch.zeros(len(some), _N_BINS, dtype=torch.int64, device=some.device)
    return counts.scatter_add_(1, at, torch.ones_like(at)), torch.cat([low, high], 1)


def _plain(model: LanguageModel, module: torch.nn.Module) -> FrozenNorm:
    return model.frozen_norm(module, torch.ones(1, model.d_model, device=model.device)).without_scale()


def _norm_after(model: LanguageModel, transcoders: Transcoders, layer: int) -> FrozenNorm | None:
    module = model.mlp_post_norm_module(layer)
    is_before = transcoders.config.feature_output_hook == "mlp.hook_out"
    return None if module is None or not is_before else _plain(model, module)


def _through(norm: FrozenNorm | None, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    return x if norm is None else norm.linear(x, slice(0, 1))
