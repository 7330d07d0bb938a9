"""A model's activations on rows of tokens, as batches for training transcoders."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.live_replacement import divergence, replace_with
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.transcoders.train import ActivationBatch, FeatureDictionary


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens. Without positions and mask each row is one text from its beginning."""

    token_ids: Int[Tensor, "n_rows n_pos"]
    is_trained: Bool[Tensor, "n_rows n_pos"]  # neither padding nor BOS: tokens whose MLPs transcoders replace
    positions: Int[Tensor, "n_rows n_pos"] | None = None
    attention_mask: Float[Tensor, "n_rows 1 n_pos n_pos"] | None = None  # added to attention scores


def activation_batch(model: LanguageModel, tokens: TokenBatch) -> ActivationBatch:
    """What the MLPs read (`hook_resid_mid`) and write (`hook_mlp_out`) at the batch's trained tokens.

    The batch's `divergence` runs the model again with its MLPs replaced, attention live, and gradients flowing.
    """
    reads: dict[int, Tensor] = {}
    writes: dict[int, Tensor] = {}

    def keep(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        reads[layer], writes[layer] = stream[tokens.is_trained], out[tokens.is_trained]
        return out

    with torch.no_grad(), replaced_mlps(model, keep):
        expected = _logits(model, tokens)[tokens.is_trained]

    def answers_divergence(dictionary: FeatureDictionary) -> Tensor:
        with replaced_mlps(model, replace_with(dictionary, tokens.is_trained)):
            return divergence(expected, _logits(model, tokens)[tokens.is_trained]).mean()

    layers = range(model.n_layers)
    return ActivationBatch([reads[layer] for layer in layers], [writes[layer] for layer in layers], answers_divergence)


def _logits(model: LanguageModel, tokens: TokenBatch) -> Tensor:
    logits: Tensor = model.hf_model(
        input_ids=tokens.token_ids,
        position_ids=tokens.positions,
        attention_mask=tokens.attention_mask,
        use_cache=False,
    ).logits
    return logits
