"""Run a model on a prompt within a memory budget, and build the local replacement model of that run."""

from collections.abc import Sequence
from numbers import Integral

import torch
from jaxtyping import Bool
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.errors import PromptError, TranscoderError
from attrgraph.memory import budget_bytes
from attrgraph.models.language_model import LanguageModel, Prompt


@torch.no_grad()
def prepare(
    model: LanguageModel,
    prompt: Prompt,
    *,
    skip_positions: str | Sequence[int] | None = "bos",
    memory_budget: int | str | None = None,
) -> tuple[LocalReplacement, int]:
    """The local replacement model of a prompt, and the memory budget in bytes; see `trace` for the arguments.

    Raises:
        PromptError: the prompt is not one for this model, or a skipped position is not in it.
        TranscoderError: the model was loaded without transcoders.
        AttrGraphError: the memory budget is not a size.
    """
    if model.transcoders is None:
        raise TranscoderError("the model has no transcoders; load it with load_model(..., transcoders=...).")
    memory = budget_bytes(memory_budget, torch.device(model.device))
    token_ids = model.tokenize(prompt)
    is_skipped = skipped_positions(model, token_ids, skip_positions)
    run = model.run(token_ids, keep_patterns=keeps_patterns(model, len(token_ids), memory))
    return build_replacement(run, model.transcoders, is_skipped), memory


def keeps_patterns(model: LanguageModel, n_pos: int, memory: int) -> bool:
    """Whether attention patterns take so small a part of the memory that they are kept."""
    return model.pattern_bytes(n_pos) <= memory // 4


def skipped_positions(
    model: LanguageModel, token_ids: Tensor, skip_positions: str | Sequence[int] | None
) -> Bool[Tensor, " n_pos"]:
    """Which positions have no features and errors; see `trace`."""
    is_skipped = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)
    if skip_positions == "bos":
        is_skipped[0] = int(token_ids[0]) == model.bos_token_id
        return is_skipped
    if isinstance(skip_positions, str):
        raise PromptError(f'skip_positions is {skip_positions!r}; expected "bos", None, or a list of positions.')
    for pos in skip_positions or ():
        if not isinstance(pos, Integral) or not 0 <= pos < len(token_ids):
            raise PromptError(f"skip_positions has {pos}; the prompt's positions are 0 to {len(token_ids) - 1}.")
        is_skipped[pos] = True
    return is_skipped
