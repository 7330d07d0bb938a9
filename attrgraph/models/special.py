"""Positions that features do not explain: what stands before a text, and attention sinks.

A sink is a position at which many heads rest when they have nothing to look for. Its stream is many times longer than
that of other tokens, and transcoders are not made for it. Most models use their first token so, whatever it is; some
use the first full stop or line break too.

Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arxiv.org/abs/2309.17453; Sun et
al. 2024, "Massive Activations in Large Language Models", arxiv.org/abs/2402.17762
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, SupportsIndex, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.errors import PromptError, as_whole, listed
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel

# A sink's stream is at least so many times longer than the median of the text's other tokens, at the input of some MLP.
# In the demo's model, which has no sink but BOS, no token of a text is longer than 4 times the median.
SINK_FACTOR = 10.0
SkipPositions = str | Collection[SupportsIndex] | np.ndarray | Tensor
# how instruction-tuned Gemma 3 begins every prompt
_GEMMA_3_PREFIX = ("<start_of_turn>", "user", "\n")


class PromptOptions(TypedDict, total=False):
    """What stands before a prompt, and at which of its positions no features are looked for; see `trace`."""

    prepend: str
    skip_positions: SkipPositions


def same_options(metadata: Mapping[str, Any]) -> PromptOptions:
    """Those with which a graph's `token_ids` are run as when the graph was traced, by its metadata."""
    return {"prepend": "none", "skip_positions": metadata.get("settings", {}).get("skipped_positions", "auto")}


def find_special(
    model: LanguageModel, run: FrozenRun, *, prepend: str = "auto", skip_positions: SkipPositions = "auto"
) -> dict[int, str]:
    """The positions of a run that have no features and errors, each with the reason.

    Args:
        model: whose run.
        run: of the prompt.
        prepend: how the prompt became tokens; see `LanguageModel.tokenize`.
        skip_positions: "auto", "none", or positions, from the end if negative.

    Raises:
        PromptError: another text, or a position that the prompt does not have.
    """
    skip_positions = plain_positions(skip_positions)
    if skip_positions == "auto":
        beginning = _beginning(model, run, prepend)
        lengths = [block.mlp_stream.float().norm(dim=-1)[None] for block in run.blocks]
        ratios = sink_ratios(lengths, ~mask_of(beginning, run)[None])[0].tolist()
        return beginning | {
            pos: f"attention sink: its stream is {ratio:.0f} times longer than the median of the others"
            for pos, ratio in enumerate(ratios)
            if ratio >= SINK_FACTOR
        }
    return dict.fromkeys(asked_positions(skip_positions, run.n_pos), "as asked")


def plain_positions(skip_positions: SkipPositions) -> str | list[Any]:
    """Positions as a list of Python's numbers, whatever held them; a text as it is.

    Raises:
        PromptError: neither text nor a collection.
    """
    found = skip_positions if isinstance(skip_positions, str) else listed(skip_positions)
    if found is None:
        raise PromptError(f'skip_positions is {skip_positions!r:.60}; expected "auto", "none", or a list of positions.')
    return found


def asked_positions(skip_positions: SkipPositions, n_pos: int, *, of_any_length: bool = False) -> list[int]:
    """Positions that were named, of so many, from the end if negative; none with "none".

    Texts that are `of_any_length`, at most so many tokens, have no common end.

    Raises:
        PromptError: another text, or a position that there is not.
    """
    skip_positions = plain_positions(skip_positions)
    if skip_positions == "none":
        return []
    if isinstance(skip_positions, str):
        raise PromptError(f'skip_positions is {skip_positions!r:.60}; expected "auto", "none", or a list of positions.')
    asked = [counted(pos, n_pos, "a position to skip") for pos in skip_positions]
    if of_any_length and any(pos < 0 for pos in skip_positions):
        raise PromptError("a position to skip is negative; texts end at different places, so count from the beginning.")
    return asked


def counted(pos: Any, n_pos: int, name: str) -> int:
    """A position, counted from the beginning; -1 is the last.

    Raises:
        PromptError: the prompt does not have it.
    """
    whole = as_whole(pos)
    if whole is None or not -n_pos <= whole < n_pos:
        raise PromptError(f"{name} is {pos!r:.60}; expected 0 to {n_pos - 1}, or -1, the last, to -{n_pos}.")
    return whole % n_pos


def mask_of(special: Collection[int], run: FrozenRun) -> Bool[Tensor, " n_pos"]:
    """Which positions of the run are special."""
    mask = torch.zeros(run.n_pos, dtype=torch.bool, device=run.token_ids.device)
    mask[list(special)] = True
    return mask


def text_mask(
    model: LanguageModel, token_ids: Int[Tensor, "*rows n_pos"], skip_positions: SkipPositions = "auto"
) -> Bool[Tensor, "*rows n_pos"]:
    """Tokens of rows that are trained on and measured, as far as ids tell.

    Args:
        model: whose tokenizer made them.
        token_ids: of rows.
        skip_positions: "auto", all but BOS, or, where the tokenizer has none, all but the first, at which most models
            have their sink; "none", all; or positions, all but these, of rows that are so long.
    """
    skip_positions = plain_positions(skip_positions)
    if skip_positions == "auto" and model.bos_token_id is not None:
        return token_ids != model.bos_token_id
    first = [0] if skip_positions == "auto" else asked_positions(skip_positions, model.n_context, of_any_length=True)
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[..., [pos for pos in first if pos < mask.shape[-1]]] = False
    return mask


def why_left_out(model: LanguageModel, skip_positions: SkipPositions = "auto") -> str:
    """What `text_mask` leaves out, in words."""
    skip_positions = plain_positions(skip_positions)
    if skip_positions == "auto":
        return "BOS" if model.bos_token_id is not None else "the first of each row, since the tokenizer has no BOS"
    positions = ", ".join(map(str, skip_positions))
    return "nothing, as asked" if skip_positions == "none" else f"positions {positions} of each row, as asked"


def find_sinks(
    lengths: Sequence[Float[Tensor, "n_rows n_pos"]],
    is_text: Bool[Tensor, "n_rows n_pos"],
    skip_positions: SkipPositions = "auto",
) -> Bool[Tensor, "n_rows n_pos"]:
    """Which tokens of rows are attention sinks, by `sink_ratios`; none unless `skip_positions` is "auto"."""
    return (
        sink_ratios(lengths, is_text) >= SINK_FACTOR
        if plain_positions(skip_positions) == "auto"
        else torch.zeros_like(is_text)
    )


def sink_ratios(
    lengths: Sequence[Float[Tensor, "n_rows n_pos"]], is_text: Bool[Tensor, "n_rows n_pos"]
) -> Float[Tensor, "n_rows n_pos"]:
    """The length of each token's stream over the (lower) median of the row's others; see `SINK_FACTOR`.

    Args:
        lengths: of the streams that MLPs read, layer by layer, in float32; of all layers the largest ratio counts.
        is_text: tokens that are compared; the ratio of others, and of a row's only token, is 0.
    """
    ratio = torch.zeros(is_text.shape, device=is_text.device)
    n = is_text.sum(1, keepdim=True)
    middle = ((n - 2) // 2).clamp_min(0)
    for each in lengths:
        ranked = each.masked_fill(~is_text, torch.inf).sort(1).values
        low, high = ranked.gather(1, middle), ranked.gather(1, (middle + 1).clamp_max(ranked.shape[1] - 1))
        # without a value that is not above the middle, the next is in the middle
        others = torch.where(each <= low, high, low).clamp_min(torch.finfo(torch.float32).tiny)
        ratio = torch.maximum(ratio, each / others)
    return ratio.masked_fill(~is_text | (n < 2), 0.0)


def _beginning(model: LanguageModel, run: FrozenRun, prepend: str) -> dict[int, str]:
    """What stands before a text: of several in a row, each begins with BOS."""
    ids = run.token_ids.tolist()
    name = model.token_text(ids[0])
    out = {pos: f"BOS, {model.token_text(i)}" for pos, i in enumerate(ids) if i == model.bos_token_id}
    if ids[0] == model.front_token(prepend):
        out.setdefault(0, f"put in front, {name}")
    elif model.is_special(ids[0]):
        out.setdefault(0, f"special token, {name}")
    if (
        0 in out
        and "gemma3_text" in model.family.model_types
        and tuple(map(model.token_text, ids[1:4])) == _GEMMA_3_PREFIX
    ):
        out |= dict.fromkeys((1, 2, 3), "how every prompt of a Gemma 3 begins")
    return out
