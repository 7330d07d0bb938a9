"""A prompt's run, taken apart as interventions change it."""

from typing import Unpack

import torch

from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions
from attrgraph.transcoders import LayerWeights, TranscoderConfig, Transcoders
from attrgraph.transcoders.config import PER_LAYER


def take_apart(
    model: LanguageModel,
    prompt: Prompt,
    *,
    memory_budget: int | str | None = None,
    needs_transcoders: bool = True,
    **options: Unpack[PromptOptions],
) -> LocalReplacement:
    """The local replacement model of a prompt, which interventions change.

    Without transcoders, if none are needed, no layer has features, and what MLPs write is error.

    Raises:
        PromptError, TranscoderError: as for `trace`.
    """
    transcoders = None if needs_transcoders or model.transcoders is not None else _without_features(model)
    local, _ = prepare(model, prompt, memory_budget=memory_budget, transcoders=transcoders, **options)
    return local


def _without_features(model: LanguageModel) -> Transcoders:
    d = model.d_model
    of_layer = LayerWeights(torch.zeros(0, d), torch.zeros(0), torch.zeros(0, 1, d), torch.zeros(d))
    return Transcoders([of_layer] * model.n_layers, TranscoderConfig(PER_LAYER))
