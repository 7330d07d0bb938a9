"""Which features fire together, and which lead to which, over tokens of a text.

Source: Ameisen et al. 2025, "Circuit Tracing", section "Global Weights": the target-weighted expected residual
attribution, transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.features.collect import Collected
from attrgraph.features.promoted import written
from attrgraph.models.frozen import norm_before
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders

N_LISTED = 8
# products that exist at a time: chosen, not tuned
_MOST_PRODUCTS = 2**24


class _Best:
    """For each described feature of a layer, the others with the largest weights by size."""

    def __init__(self, n: int) -> None:
        self.layer, self.feature = np.full((n, N_LISTED), -1), np.full((n, N_LISTED), -1)
        self.weight = np.zeros((n, N_LISTED), dtype=np.float32)

    def offer(
        self, rows: slice, layer: int, others: Int[Tensor, " n_others"], weights: Float[Tensor, "n_some n_others"]
    ) -> None:
        """Weights of some of a layer's features for some of the described ones."""
        # of equals the first: less than float32 tells apart, whichever others there are
        key = weights.abs().double() * (1 - others.double() * 1e-14)
        top = key.topk(min(N_LISTED, weights.shape[1]), dim=1).indices
        found = [np.full(top.shape, layer), others[top].numpy(), weights.gather(1, top).numpy()]
        both = [
            np.concatenate([old[rows], new], 1)
            for old, new in zip((self.layer, self.feature, self.weight), found, strict=True)
        ]
        order = np.argsort(-np.abs(both[2]), axis=1, kind="stable")[:, :N_LISTED]
        for old, new in zip((self.layer, self.feature, self.weight), both, strict=True):
            old[rows] = np.take_along_axis(new, order, 1)

    def listed(self, row: int) -> list[dict[str, Any]]:
        return [
            {"layer": int(layer), "feature": int(feature), "weight": float(weight)}
            for layer, feature, weight in zip(self.layer[row], self.feature[row], self.weight[row], strict=True)
            if weight
        ]


class Connections:
    """What fires together with each described feature, what leads to it, and what it leads to.

    `together`: the cosine of two features' activations over the sampled tokens. `inputs` and `outputs`: what a feature
    gives another at the same token through the stream alone (no attention), averaged over the tokens at which the
    other is active, weighted by its activation: V E[a_s a_t] / E[a_t], V the product of decoder and encoder rows.
    """

    def __init__(self, model: LanguageModel, transcoders: Transcoders, collected: Collected) -> None:
        self._model, self._transcoders = model, transcoders
        self._active = collected.co_active()
        self._described = [one.features for one in collected.layers]
        self.together, self.inputs, self.outputs = (
            [_Best(len(features)) for features in self._described] for _ in range(3)
        )
        lengths = [np.sqrt(active.multiply(active).sum(0)) for active in self._active]
        for layer, features in enumerate(self._described):
            n_at_once = max(1, _MOST_PRODUCTS // max(transcoders.n_features))
            for start in range(0, len(features), n_at_once):
                rows = slice(start, min(start + n_at_once, len(features)))
                self._of_some(layer, features[rows], rows, lengths)

    def _of_some(self, layer: int, features: np.ndarray, rows: slice, lengths: list[np.ndarray]) -> None:
        mine = self._active[layer][:, features]
        totals, chosen = mine.sum(0), torch.from_numpy(features)
        for other, active in enumerate(self._active):
            found = (mine.T @ active).tocsr()
            which = np.unique(found.indices)  # nothing is read or computed of features that never fire with these
            others = torch.from_numpy(which).long()
            products = torch.from_numpy(found[:, which].toarray())
            norms = torch.from_numpy(np.outer(lengths[layer][features], lengths[other][which]).clip(1e-30))
            cosines = (products / norms).float()
            if other == layer:
                cosines[chosen[:, None] == others] = 0
            self.together[layer].offer(rows, other, others, cosines)
            if other < layer:
                per_unit = products / torch.from_numpy(totals)[:, None].clamp_min(1e-30)
                self.inputs[layer].offer(rows, other, others, per_unit * self._virtual(other, others, layer, chosen).T)
            elif other > layer:
                per_unit = products / torch.from_numpy(active.sum(0)[which]).clamp_min(1e-30)
                self.outputs[layer].offer(rows, other, others, per_unit * self._virtual(layer, chosen, other, others))

    @torch.no_grad()
    def _virtual(
        self, source: int, sources: Tensor, target: int, targets: Tensor
    ) -> Float[Tensor, "n_sources n_targets"]:
        """What a unit of each source adds to each target's pre-activation, but for the scale of a norm between."""
        into = range(source, min(source + self._transcoders.n_targets(source), target))
        rows = written(self._model, self._transcoders, source, sources, into)
        ones = torch.ones(1, self._model.d_model, device=self._model.device)
        norm = norm_before(self._transcoders.config.feature_input_hook, self._model.mlp_norm_of(target, ones))
        read = rows if norm is None else norm.without_scale().linear(rows, slice(0, 1))
        W_enc, _ = self._transcoders.encoder_rows(target, targets, read)
        return (read @ W_enc.T).cpu()
