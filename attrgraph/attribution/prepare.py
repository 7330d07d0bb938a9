"""Run a model on a prompt within a memory budget, and build the local replacement model of that run."""

from dataclasses import replace
from typing import Unpack

import torch

from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.memory import budget_bytes
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions, find_special, mask_of
from attrgraph.transcoders import Transcoders


@torch.no_grad()
def prepare(
    model: LanguageModel,
    prompt: Prompt,
    *,
    memory_budget: int | str | None = None,
    transcoders: Transcoders | None = None,
    **options: Unpack[PromptOptions],
) -> tuple[LocalReplacement, int]:
    """The local replacement model of a prompt, and the memory budget in bytes; see `trace` for the arguments.

    `transcoders`: others than the model's.

    Raises:
        PromptError: the prompt is not one for this model, or a skipped position is not in it.
        TranscoderError: the model was loaded without transcoders.
        AttrGraphError: the memory budget is not a size.
    """
    transcoders = model.need_transcoders() if transcoders is None else transcoders
    memory = budget_bytes(memory_budget, torch.device(model.device))
    token_ids = model.tokenize(prompt, prepend=options.get("prepend", "auto"))
    run = model.run(token_ids, keep_patterns=keeps_patterns(model, len(token_ids), memory))
    skipped = find_special(model, run, **options)
    local = build_replacement(run, transcoders, mask_of(skipped, run))
    return replace(local, why_skipped=skipped), memory


def keeps_patterns(model: LanguageModel, n_pos: int, memory: int) -> bool:
    """Whether attention patterns take so small a part of the memory that they are kept."""
    return model.pattern_bytes(n_pos) <= memory // 4
