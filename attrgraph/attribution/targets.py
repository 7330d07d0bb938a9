"""What a graph explains: the most probable tokens, chosen tokens, a difference of two, or any direction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.attribution.sweep import ReadVectors
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import TargetError, as_whole, checked, listed
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.tokens import check_pairs, text_ids, tokens_with_text

# how characters that cannot be seen are written where tokens are printed, as in Python
_ESCAPE = re.compile(r"\\(?:[abfnrtv]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
# of a text that may be one token, which has some hundred; and of the tokens of one that is not, how many are named
_MOST_CHARACTERS, _MOST_NAMED = 10_000, 8


@checked
@dataclass(frozen=True)
class LogitDifference:
    """The logit of one token minus that of another. A token is text or an id."""

    positive: str | int
    negative: str | int


# None: the most probable tokens; tokens by text or id; a difference; or directions [d_model] or [n, d_model] that are
# read from the stream after the final norm
Targets = None | str | SupportsIndex | Sequence[str | SupportsIndex] | np.ndarray | LogitDifference | Tensor


@dataclass(frozen=True)
class LogitTargets:
    """The logit nodes of a graph."""

    token_id: list[int]  # a vocabulary id, or d_vocab + i for a target that is no single token
    text: list[str]
    probability: Float[Tensor, " n_logits"]  # of the token; 1 for a target that is no single token
    reads: ReadVectors
    value: Float[Tensor, " n_logits"]  # what each target reads in the model: the demeaned logit before soft-capping
    notes: list[str] = field(default_factory=list)  # which of two tokens was taken for a text

    def __len__(self) -> int:
        return len(self.token_id)


def choose_targets(
    model: LanguageModel, run: FrozenRun, targets: Targets, settings: TraceSettings = DEFAULTS
) -> LogitTargets:
    """The targets asked for, or the fewest most probable tokens that hold `desired_logit_prob`; see `TraceSettings`.

    A token's read vector is its unembedding row minus the mean over the vocabulary.

    Raises:
        TargetError: a text that is not one token, an id outside the vocabulary, or a direction of the wrong size.
    """
    chosen = _choose(model, run, targets, settings)
    if not bool((chosen.reads.vector != 0).any(1).all()):
        raise TargetError(
            "a target reads nothing: its direction is zero (is it the difference of a token with itself, or the only "
            "token of the vocabulary?)"
        )
    return chosen


def _choose(model: LanguageModel, run: FrozenRun, targets: Targets, settings: TraceSettings) -> LogitTargets:
    if isinstance(targets, Tensor):
        return _directions(run, targets)
    probabilities = run.logits.double().softmax(-1)  # so that even the least probable token has some weight
    if isinstance(targets, LogitDifference):
        pair = (targets.positive, targets.negative)
        ids = [token_id_of(model, token, run.logits) for token in pair]
        parts = _token_reads(run, torch.tensor(ids, device=run.W_U.device))
        vector, constant, value = (part[:1] - part[1:] for part in parts)
        text = " - ".join(model.token_text(i) for i in ids)
        reads = _at_last_position(run, vector, constant)
        notes = _notes(model, pair, ids, run.logits)
        return LogitTargets([len(run.W_U)], [text], value.new_ones(1), reads, value, notes)
    notes = list[str]()
    if targets is None:
        best = probabilities.topk(min(settings.max_n_logits, len(probabilities)))
        reached = int(torch.searchsorted(best.values.cumsum(0), settings.desired_logit_prob)) + 1
        token_ids = best.indices[:reached]
    else:
        several = listed(targets)
        tokens: Sequence[Any] = [targets] if several is None else several
        if not tokens:
            raise TargetError("no target given; name at least one token, or None for the most probable ones.")
        chosen = [token_id_of(model, token, run.logits) for token in tokens]
        notes = _notes(model, tokens, chosen, run.logits)
        token_ids = torch.tensor(list(dict.fromkeys(chosen)), device=run.W_U.device)
    vectors, constants, value = _token_reads(run, token_ids)
    ids, reads = token_ids.tolist(), _at_last_position(run, vectors, constants)
    return LogitTargets(ids, [model.token_text(i) for i in ids], probabilities[token_ids], reads, value, notes)


def token_id_of(model: LanguageModel, token: str | int, logits: Tensor | None = None) -> int:
    """The id of a token given as text or as an id.

    Text without a leading space may be a token with and one without it: then the one with the larger logit is meant, or
    if there are no logits, the one that is written as the text.

    Raises:
        TargetError: the text is not one token of the vocabulary, or the id lies outside it.
    """
    whole = as_whole(token)
    if whole is not None:
        if not 0 <= whole < model.d_vocab:
            raise TargetError(f"target {whole} is outside the vocabulary (0 to {model.d_vocab - 1}).")
        return whole
    if not isinstance(token, str):
        raise TargetError(f"target {token!r:.60} is a {type(token).__name__}; expected a token's text or id.")
    if not 0 < len(token) <= _MOST_CHARACTERS:
        raise TargetError(f"a target has {len(token)} characters; expected one token's text, or its id.")
    found = _tokens_written(model, token)
    return found[0] if logits is None else max(found, key=lambda token_id: float(logits[token_id]))


def _tokens_written(model: LanguageModel, text: str) -> list[int]:
    """The tokens that are called so, or so but for a space; if there is none, what the tokenizer makes of the text.

    A token of a line break and one of a backslash and an n are printed alike, so that both are called so.
    """
    check_pairs(text, f"target {text!r:.60}")
    tokenizer = model.tokenizer
    plain = _ESCAPE.sub(lambda escape: escape[0].encode().decode("unicode_escape"), text)
    names = [text] if plain.isprintable() and plain.strip() else [text, plain]
    written = [form for name in names for form in ([name] if name[:1] == " " else [name, f" {name}", f"{name} "])]
    called = [i for each in written for i in tokens_with_text(tokenizer, each) if i < model.d_vocab]
    if called:
        return called
    if tokenizer is None:
        raise TargetError(f"target {text!r:.60}: the model has no tokenizer; give the token's id.")
    found = list[int]()
    for each in (text, f" {text}", text.removeprefix(" ")):
        ids = text_ids(tokenizer, each, f"target {text!r:.60}")
        is_known = len(ids) == 1 and (ids[0] != tokenizer.unk_token_id or text == tokenizer.unk_token)
        if is_known and ids[0] < model.d_vocab and _has_its_spaces(model.token_text(ids[0]), text):
            found.append(int(ids[0]))
            if text.startswith(" "):
                break
    if not found and plain != text:
        return _tokens_written(model, plain)
    if not found:
        parts = [model.token_text(i) for i in text_ids(tokenizer, text)]
        if tokenizer.unk_token_id is not None and tokenizer.unk_token in parts:
            raise TargetError(f"target {text!r:.60} is not in the model's vocabulary; give another token, or its id.")
        named = ", ".join(map(repr, parts[:_MOST_NAMED])) + (", ..." if len(parts) > _MOST_NAMED else "")
        count = "that token" if len(parts) == 1 else f"one token but {len(parts)}"
        raise TargetError(
            f"target {text!r:.60} is not {count}: {named}; explain the first of them, or give a token's id."
        )
    return list(dict.fromkeys(found))


def _has_its_spaces(token: str, text: str) -> bool:
    """Whether a token has the space that a text has at its ends, but for one that words may have in front."""
    fronts = {each[: len(each) - len(each.lstrip())] for each in (token, text)}
    ends = [each[len(each.rstrip()) :] for each in (token, text)]
    return (len(fronts) == 1 or fronts == {"", " "}) and ends[1] in ("", ends[0])


def _notes(model: LanguageModel, tokens: Sequence[str | int], chosen: Sequence[int], logits: Tensor) -> list[str]:
    """Which of two tokens was taken for a text, if both exist."""
    share, notes = logits.double().softmax(-1), list[str]()
    for token, taken in zip(tokens, chosen, strict=True):
        for other in _tokens_written(model, token) if isinstance(token, str) else ():
            if other != taken:
                named = [f"{model.token_text(i)!r} ({float(share[i]):.3g})" for i in (taken, other)]
                notes.append(f"target {token!r} is {named[0]}, which is more probable than {named[1]}")
    return notes


def _token_reads(run: FrozenRun, token_ids: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors and constants with which logits are read, and their values."""
    mean = run.W_U.mean(0)
    constant = run.W_U.new_zeros(len(token_ids))
    if run.b_U is not None:
        constant = run.b_U[token_ids] - run.b_U.mean()
    value = run.uncapped_logits[token_ids] - run.uncapped_logits.mean()
    return run.W_U[token_ids] - mean, constant, value


def _directions(run: FrozenRun, vectors: Tensor) -> LogitTargets:
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    d_model = run.W_U.shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != d_model or not len(vectors) or not bool(torch.isfinite(vectors).all()):
        raise TargetError(f"a direction target has shape {list(vectors.shape)}; expected finite [n, {d_model}].")
    vectors = vectors.to(run.W_U)
    n = len(vectors)
    reads = _at_last_position(run, vectors, vectors.new_zeros(n))
    value = vectors @ run.final_norm.apply(run.final_stream)[-1]
    names = [f"direction {i}" for i in range(n)]
    return LogitTargets([len(run.W_U) + i for i in range(n)], names, vectors.new_ones(n), reads, value)


def _at_last_position(run: FrozenRun, vectors: Tensor, constant: Tensor) -> ReadVectors:
    n = len(vectors)
    layer = torch.full((n,), run.n_layers, device=vectors.device)
    return ReadVectors(layer, torch.full_like(layer, run.n_pos - 1), vectors, constant)
