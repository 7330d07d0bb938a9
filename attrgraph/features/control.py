"""A random dictionary that fires as often as the real one: what labels of features that mean nothing would score."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from attrgraph.data.activations import activations_of, batches_of_similar_length
from attrgraph.data.corpus import TokenRows
from attrgraph.features.kept import random_priority
from attrgraph.models.frozen import norm_before, widened
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import ActiveFeatures, LayerWeights, TranscoderConfig, Transcoders

# features of a layer, and tokens that tell how often they fire: chosen, not tuned
_N_FEATURES, _N_TOKENS = 256, 4096


def random_dictionary(
    model: LanguageModel, transcoders: Transcoders, rows: TokenRows, *, seed: int, **how: Any
) -> Transcoders:
    """Encoders of random directions, which fire from hardly ever to as often as any feature of the layer does.

    How often is set by thresholds, on rows drawn from the text: evenly on a logarithmic scale, so that there are random
    features to compare with a rare one and with a common one. Each writes what a feature of the layer writes, which is
    chosen at random. No layer has more than 256.

    Args:
        model, transcoders, rows: as they are described.
        seed: of features and directions.
        how: `batch_tokens` and `skip_positions` of the pass.
    """
    order = np.argsort(random_priority(np.arange(len(rows.rows)), np.full(len(rows.rows), -2)), kind="stable")
    n_before = np.cumsum([0, *(len(rows.rows[i]) for i in order)])
    some = [rows.rows[i] for i, n in zip(order, n_before, strict=False) if n < _N_TOKENS]
    batches = batches_of_similar_length(model, some, **how)
    streams = torch.cat([activations_of(model, batch).reads for batch in batches], dim=1)
    layers, is_topk = [], [transcoders.config.k_of(layer) is not None for layer in range(transcoders.n_layers)]
    for layer, weights in enumerate(transcoders.layers):
        read = read_of(model, transcoders, layer, streams[layer])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        n_features = len(weights.W_enc)
        chosen = torch.randperm(n_features, generator=generator)[:_N_FEATURES].sort().values
        active = transcoders.encode_often(layer, read)
        most = int(torch.bincount(active.feature.cpu(), minlength=n_features).max())
        n_firings = torch.from_numpy(np.geomspace(0.5, max(most, 1), len(chosen)).round().astype(np.int64))
        real, _ = transcoders.encoder_rows(layer, chosen, torch.zeros(0))
        W_enc = torch.randn(real.shape, generator=generator, dtype=torch.float32)
        W_enc *= real.norm(dim=1, keepdim=True) / W_enc.norm(dim=1, keepdim=True)
        as_read = normalize(read, dim=-1) if is_topk[layer] else read
        threshold = _thresholds(as_read.cpu().float(), W_enc, n_firings)
        W_dec = weights.W_dec.index_select(0, chosen.roll(1).to(weights.W_dec.device)).float()
        found = LayerWeights(W_enc, torch.zeros(len(W_enc)), W_dec, weights.b_dec.float(), threshold)
        layers.append(found.map(lambda w: w.to(model.device)))
    config = replace(transcoders.config, k=None)
    return _RandomDirections(layers, config, is_topk)


class _RandomDirections(Transcoders):
    """Of a TopK, at each token the random features with the largest cosines fire, as of a random TopK dictionary."""

    def __init__(self, layers: list[LayerWeights], config: TranscoderConfig, is_topk: list[bool]) -> None:
        super().__init__(layers, config, source={"id": "random directions"})
        self._is_topk = is_topk

    def encode_often(self, layer: int, read: Float[Tensor, "n_pos d_model"]) -> ActiveFeatures:
        return super().encode_often(layer, normalize(read, dim=-1) if self._is_topk[layer] else read)


def read_of(
    model: LanguageModel, transcoders: Transcoders, layer: int, stream: Float[Tensor, "n_tokens d_model"]
) -> Float[Tensor, "n_tokens d_model"]:
    """What transcoders read, of what enters a layer's MLP norm."""
    wide = widened(stream)
    norm = norm_before(transcoders.config.feature_input_hook, model.mlp_norm_of(layer, wide))
    return wide if norm is None else norm.apply(wide)


def _thresholds(read: Tensor, W_enc: Tensor, n_firings: Tensor) -> Tensor:
    """For each row the value that so many of the reads exceed."""
    h = (read @ W_enc.T).sort(0, descending=True).values
    return h.gather(0, n_firings.clamp_max(len(read) - 1)[None])[0]
