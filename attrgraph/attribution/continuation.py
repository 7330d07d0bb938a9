"""An answer of several tokens: the prompt goes on with it, and each of its tokens is a target where it comes."""

from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.target_words import answer_ids
from attrgraph.attribution.targets import At, LogitTargets, Targets, choose_targets
from attrgraph.attribution.trace_settings import TraceSettings
from attrgraph.errors import TargetError
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions


@dataclass(frozen=True)
class Asked:
    """What is run, and what is explained of it."""

    prompt: Prompt
    targets: Targets
    text: str = ""  # an answer of several tokens
    answer: list[int] = field(default_factory=list)  # these, of which all but the last run


def continued(model: LanguageModel, prompt: Prompt, targets: Targets, prepend: str) -> Asked:
    """If the one target is a text of several tokens, the prompt with all but the last of them, and a target for each.

    Each token is read at the position of the token before it.

    Raises:
        PromptError, TargetError: the prompt or the text is none for this model, or both are longer than its context.
    """
    text: Any = targets
    if isinstance(targets, list | tuple) and len(targets) == 1:
        (text,) = targets
    answer = answer_ids(model, text) if isinstance(text, str) else None
    if answer is None:
        return Asked(prompt, targets)
    before = model.tokenize(prompt, prepend=prepend).tolist()
    n = len(before)
    if n + len(answer) - 1 > model.n_context:
        raise TargetError(
            f"target {text!r:.60} is not one token but {len(answer)}: with the prompt's {n} they are more than the "
            f"model's context, {model.n_context}; explain the first of them, or shorten the prompt."
        )
    return Asked([*before, *answer[:-1]], [At(n - 1 + i, token) for i, token in enumerate(answer)], text, answer)


def prepare_targets(
    model: LanguageModel,
    prompt: Prompt,
    targets: Targets,
    settings: TraceSettings,
    *,
    memory_budget: int | str | None,
    **options: Unpack[PromptOptions],
) -> tuple[LocalReplacement, int, LogitTargets]:
    """The local replacement model of what is run, the memory budget in bytes, and the targets; see `trace`.

    Raises:
        As `prepare` and `choose_targets`.
    """
    asked = continued(model, prompt, targets, options.get("prepend", "auto"))
    local, memory = prepare(model, asked.prompt, memory_budget=memory_budget, **options)
    logits = choose_targets(model, local.run, asked.targets, settings)
    if not asked.answer:
        return local, memory, logits
    tokens, appended = [model.token_text(i) for i in asked.answer], model.text_of(asked.answer[:-1])
    joint = float(logits.probability.prod())
    note = f"an answer of {len(tokens)} tokens (together p = {joint:.3g}): {appended!r} was put after the prompt"
    answer: dict[str, Any] = {"text": asked.text, "tokens": tokens, "token_ids": asked.answer}
    answer |= {"appended": appended, "probability": joint}
    n_prompt = local.run.n_pos - len(tokens) + 1
    return local, memory, replace(logits, notes=[note, *logits.notes], n_prompt=n_prompt, answer=answer)
