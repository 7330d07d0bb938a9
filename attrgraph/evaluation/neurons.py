"""The baseline that needs no training: the model's own MLP neurons, as many of them a token as features are active.

Source of the comparison: Ameisen et al. 2025, "Circuit Tracing", section "Cross-Layer Transcoder Evaluation", with all
neurons above a threshold where here each token and layer keeps a fixed number;
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attrgraph.data.activations import batches_of_similar_length, stream_lengths
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import AttrGraphError, PromptError
from attrgraph.evaluation.stand_ins import Reconstruction
from attrgraph.models.hooks import on_input
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions
from attrgraph.models.weights import plain_weights, run_module

NEURONS = "top-k neurons"
# rows whose tokens the neurons' means are taken over; more change the means by less than they differ between texts
_N_MEAN_ROWS = 64


class TopNeurons:
    """The MLPs with all but a token's best neurons held at their means.

    A neuron's activation is what enters the MLP's last linear map; its score |activation - mean| times the norm of the
    column by which that map writes it. A norm after the MLP sees the sum of what is kept and what is held.

    Args:
        model: whose MLPs.
        n_kept: neurons kept of each token, by layer.
        means: of every neuron, by layer.
    """

    def __init__(self, model: LanguageModel, *, n_kept: Sequence[int], means: Sequence[Float[Tensor, " _"]]) -> None:
        self._model, self._n_kept, self._means = model, tuple(n_kept), tuple(means)
        self._norms = []
        for layer in range(model.n_layers):
            weight, _ = plain_weights(self.read_module(layer), f"the last linear map of MLP {layer}")
            norms = weight.to(torch.promote_types(weight.dtype, torch.float32)).norm(dim=0)
            self._norms.append(norms.to(model.device))

    @property
    def source(self) -> dict[str, Any]:
        return {"id": NEURONS, "n_kept": list(self._n_kept), "n_neurons": self.n_units}

    @property
    def n_units(self) -> Sequence[int]:
        return [len(mean) for mean in self._means]

    @property
    def weights(self) -> Mapping[str, Tensor | None]:
        return {f"means of layer {layer}": mean for layer, mean in enumerate(self._means)}

    def read_module(self, layer: int) -> nn.Module:
        return self._model.mlp_out_module(layer)

    def reconstruct(self, reads: Sequence[Tensor]) -> Iterator[Reconstruction]:
        """By the model's own modules, in its dtype."""
        for layer, activations in enumerate(reads):
            kept, is_kept = self._keep(layer, activations)
            out = run_module(self.read_module(layer), kept)
            post_norm = self._model.mlp_post_norm_module(layer)
            yield Reconstruction(out if post_norm is None else run_module(post_norm, out), is_kept)

    def in_place(self, is_replaced: Tensor) -> AbstractContextManager[None]:
        def hold(layer: int, activations: Tensor) -> Tensor:
            return activations.masked_scatter(is_replaced[..., None], self._keep(layer, activations[is_replaced])[0])

        return on_input([self.read_module(layer) for layer in range(self._model.n_layers)], hold)

    def _keep(
        self, layer: int, activations: Float[Tensor, "n_tokens n_neurons"]
    ) -> tuple[Float[Tensor, "n_tokens n_neurons"], Bool[Tensor, "n_tokens n_neurons"]]:
        """Activations with those of all but the best neurons replaced by their means, and which are kept."""
        mean = self._means[layer].to(activations)
        scores = (activations - mean).abs() * self._norms[layer]
        is_kept = torch.zeros_like(scores, dtype=torch.bool)
        is_kept.scatter_(-1, scores.topk(self._n_kept[layer], dim=-1).indices, True)
        return torch.where(is_kept, activations, mean), is_kept


@torch.no_grad()
def neuron_baseline(
    model: LanguageModel,
    l0_by_layer: Sequence[float],
    rows: TokenRows,
    *,
    batch_tokens: int = 4096,
    skip_positions: SkipPositions = "auto",
) -> TopNeurons:
    """Top-k neurons with each layer's `k` equal to the mean number of features that transcoders have active there.

    Args:
        model: whose neurons.
        l0_by_layer: active features a token; `k` is this rounded, at least 1 and at most all neurons.
        rows: the text; the neurons' means are taken over the measured tokens of at most 64 rows, evenly spaced.
        batch_tokens: tokens that the model runs on at once.
        skip_positions: see `evaluate`.

    Raises:
        AttrGraphError: not one number for each layer.
        UnsupportedModelError: the MLPs' last linear maps are not plain ones.
    """
    if len(l0_by_layer) != model.n_layers:
        raise AttrGraphError(f"l0_by_layer has {len(l0_by_layer)} numbers; the model has {model.n_layers} layers.")
    n_rows = len(rows.rows)
    n_taken = min(_N_MEAN_ROWS, n_rows)
    taken = [rows.rows[i * n_rows // n_taken] for i in range(n_taken)]
    modules = [model.mlp_out_module(layer) for layer in range(model.n_layers)]
    totals: dict[int, Tensor] = {}
    n_tokens = 0
    for batch in batches_of_similar_length(
        model, taken, batch_tokens=batch_tokens, longest_first=True, skip_positions=skip_positions
    ):
        with stream_lengths(model) as lengths:  # sinks are known once the model has run
            model.run_body(batch.token_ids)
        tokens = batch.without_sinks(lengths)
        with on_input(modules, partial(_add, totals, tokens.is_trained)):
            model.run_body(tokens.token_ids)
        n_tokens += int(tokens.is_trained.sum())
    if n_tokens == 0:
        raise PromptError(
            "the text has no tokens besides those left out; expected some to take the neurons' means over."
        )
    means = [total / n_tokens for total in totals.values()]
    n_kept = [min(max(1, round(l0)), len(mean)) for l0, mean in zip(l0_by_layer, means, strict=True)]
    return TopNeurons(model, n_kept=n_kept, means=means)


def _add(totals: dict[int, Tensor], is_measured: Bool[Tensor, "n_rows n_pos"], layer: int, activations: Tensor) -> None:
    """Sum a layer's neurons as soon as they are there: those of all layers may not fit."""
    totals[layer] = totals.get(layer, 0) + activations[is_measured].double().sum(0)
