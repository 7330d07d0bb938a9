"""What a graph explains: the most probable tokens, chosen tokens, a difference of two, or any direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.attribution.sweep import ReadVectors
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import TargetError
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel


@dataclass(frozen=True)
class LogitDifference:
    """The logit of one token minus that of another. A token is text or an id."""

    positive: str | int
    negative: str | int


# None: the most probable tokens; tokens by text or id; a difference; or directions [d_model] or [n, d_model] that are
# read from the stream after the final norm
Targets = None | str | int | Sequence[str | int] | LogitDifference | Tensor


@dataclass(frozen=True)
class LogitTargets:
    """The logit nodes of a graph."""

    token_id: list[int]  # a vocabulary id, or d_vocab + i for a target that is no single token
    text: list[str]
    probability: Float[Tensor, " n_logits"]  # of the token; 1 for a target that is no single token
    reads: ReadVectors
    value: Float[Tensor, " n_logits"]  # what each target reads in the model: the demeaned logit before soft-capping

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
            "a target reads nothing: its direction is zero (is it the difference of a token with itself?)"
        )
    return chosen


def _choose(model: LanguageModel, run: FrozenRun, targets: Targets, settings: TraceSettings) -> LogitTargets:
    if isinstance(targets, Tensor):
        return _directions(run, targets)
    probabilities = run.logits.double().softmax(-1)  # so that even the least probable token has some weight
    if isinstance(targets, LogitDifference):
        ids = [token_id_of(model, token) for token in (targets.positive, targets.negative)]
        parts = _token_reads(run, torch.tensor(ids, device=run.W_U.device))
        vector, constant, value = (part[:1] - part[1:] for part in parts)
        text = " - ".join(model.token_text(i) for i in ids)
        reads = _at_last_position(run, vector, constant)
        return LogitTargets([len(run.W_U)], [text], value.new_ones(1), reads, value)
    if targets is None:
        best = probabilities.topk(min(settings.max_n_logits, len(probabilities)))
        reached = int(torch.searchsorted(best.values.cumsum(0), settings.desired_logit_prob)) + 1
        token_ids = best.indices[:reached]
    else:
        tokens: list[str | int] = [targets] if isinstance(targets, str | int | Integral) else list(targets)
        if not tokens:
            raise TargetError("no target given; name at least one token, or None for the most probable ones.")
        chosen = list(dict.fromkeys(token_id_of(model, token) for token in tokens))
        token_ids = torch.tensor(chosen, device=run.W_U.device)
    vectors, constants, value = _token_reads(run, token_ids)
    ids, reads = token_ids.tolist(), _at_last_position(run, vectors, constants)
    return LogitTargets(ids, [model.token_text(i) for i in ids], probabilities[token_ids], reads, value)


def token_id_of(model: LanguageModel, token: str | int) -> int:
    """The id of a token given as text (with or without a leading space) or as an id.

    Raises:
        TargetError: the text is not one token of the vocabulary, or the id lies outside it.
    """
    if isinstance(token, Integral) and not isinstance(token, bool):
        if not 0 <= token < model.d_vocab:
            raise TargetError(f"target {token} is outside the vocabulary (0 to {model.d_vocab - 1}).")
        return int(token)
    if not isinstance(token, str):
        raise TargetError(f"target {token!r} is a {type(token).__name__}; expected a token's text or id.")
    if model.tokenizer is None:
        raise TargetError(f"target {token!r}: the model has no tokenizer; give the token's id.")
    for text in (token, " " + token, token.lstrip()):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        is_known = len(ids) == 1 and (ids[0] != model.tokenizer.unk_token_id or token == model.tokenizer.unk_token)
        if is_known:
            return int(ids[0])
    raise TargetError(f"target {token!r} is not one token of the model's vocabulary; give a single token, or its id.")


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
