"""What a graph explains: tokens, differences of two, directions, features, each wherever in the prompt it is read.

A target is a token, by text or id; a `LogitDifference`; a tensor of directions [n, d_model] that are read after the
final norm; any of these `At` another position than the last; a `FeatureTarget`; or a `Direction` of the plain stream.

Every target is a node of kind logit, at the layer and position where it is read. Influence is the sum, over targets, of
the influence on each, times its `probability`: of a token, how probable the model holds it at its position, after all
that stands before; of everything else 1.

One text of several tokens is an answer. The prompt is continued with all but its last token, and each token is a target
at the position before it; positions to skip are counted in what is run. By the rule above, each counts by its own
probability, given the tokens before it: a token that follows by itself from those before it counts fully, one that the
model would not say hardly at all. Their product, how probable the whole answer is, is in the graph's metadata,
`answer`; it weights nothing, as it is the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.direction import Direction
from attrgraph.attribution.sweep import ReadVectors
from attrgraph.attribution.target_words import notes_on
from attrgraph.attribution.target_words import token_id_of as token_id_of  # where others look for it
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import TargetError, checked, listed, whole_number
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import counted


@checked
@dataclass(frozen=True)
class LogitDifference:
    """The logit of one token minus that of another. A token is text or an id."""

    positive: str | int
    negative: str | int


@checked
@dataclass(frozen=True)
class At:
    """A target that is read at any position: what the model says there about the next token.

    Args:
        pos: the position in `graph.prompt_tokens` of the token after which it is read, from the end if negative; -1 is
            where targets are read without `At`.
        target: a token by text or id, a `LogitDifference`, directions [n, d_model] after the final norm, a list of
            these, or None for the most probable tokens at that position.

    Example:
        >>> import attrgraph as ag
        >>> model = ag.load_model("demo")
        >>> graph = ag.trace(model, "in the state containing dallas", targets=ag.At(-2, "dallas"))
        >>> graph.nodes.query("kind == 'logit'")["pos"].tolist() == [len(graph.prompt_tokens) - 2]
        True
    """

    pos: int
    target: str | SupportsIndex | LogitDifference | Tensor | Sequence[Any] | None = None


@checked
@dataclass(frozen=True)
class FeatureTarget:
    """What a feature reads, as a target: why it is on, or off. What is explained is its pre-activation.

    Args:
        layer, feature: which feature.
        pos: at which position, from the end if negative.
    """

    layer: int
    feature: int
    pos: int = -1

    def __post_init__(self) -> None:
        for name in ("layer", "feature"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=0, error=TargetError))


Target = str | SupportsIndex | LogitDifference | At | FeatureTarget | Direction | Tensor
# None: the most probable tokens; tokens by text or id, differences, and directions [d_model] or [n, d_model] that are
# read from the stream after the final norm, all at the last position; and what says itself where it is read
Targets = None | Target | Sequence[Target] | np.ndarray


@dataclass(frozen=True)
class LogitTargets:
    """The logit nodes of a graph."""

    token_id: list[int]  # a vocabulary id, or d_vocab + i for the i-th target that is no single token
    text: list[str]
    probability: Float[Tensor, " n_logits"]  # of the token at its position; 1 for a target that is no single token
    reads: ReadVectors
    value: Float[Tensor, " n_logits"]  # what each target reads in the model: the demeaned logit before soft-capping
    are_directions: list[bool]  # whose reads are in units of their own
    notes: list[str] = field(default_factory=list)  # which of two tokens was taken for a text
    n_prompt: int | None = None  # tokens of the prompt, if an answer's were put after it
    answer: dict[str, Any] = field(default_factory=dict)  # what a graph's metadata say of an answer of several tokens

    def __len__(self) -> int:
        return len(self.token_id)


def choose_targets(
    model: LanguageModel, run: FrozenRun, targets: Targets, settings: TraceSettings = DEFAULTS
) -> LogitTargets:
    """The targets asked for, or the fewest most probable tokens that hold `desired_logit_prob`; see `TraceSettings`.

    A token's read vector is its unembedding row minus the mean over the vocabulary. A target that is asked for twice
    is there once.

    Raises:
        TargetError: a text that is not one token, an id outside the vocabulary, a direction of the wrong size, or a
            feature that there is not.
        PromptError: a position that the prompt does not have.
    """
    found = _Found(model, run, settings)
    found.add(targets)
    chosen = found.together()
    if not bool((chosen.reads.vector != 0).any(1).all()):
        raise TargetError(
            "a target reads nothing: its direction is zero (is it the difference of a token with itself, or the only "
            "token of the vocabulary?)"
        )
    return chosen


class _Read(NamedTuple):
    """One target; see `LogitTargets` and `ReadVectors`."""

    token_id: int
    text: str
    probability: float | Tensor
    layer: int
    pos: int
    vector: Float[Tensor, " d_model"]
    constant: float | Tensor
    value: float | Tensor
    is_entering: bool = False
    is_direction: bool = False


class _Logits(NamedTuple):
    """What the model says at one position."""

    pos: int
    logits: Float[Tensor, " d_vocab"]
    uncapped: Float[Tensor, " d_vocab"]
    mean: Float[Tensor, ""]  # of the uncapped ones
    probabilities: Float[Tensor, " d_vocab"]


class _Found:
    """Targets one after the other, as they are found."""

    def __init__(self, model: LanguageModel, run: FrozenRun, settings: TraceSettings) -> None:
        self._model, self._run, self._settings = model, run, settings
        self._reads, self._notes = dict[Any, _Read](), list[str]()
        self._n_others, self._n_directions = 0, 0  # targets that are no single token, and directions among them
        self._mean: Tensor | None = None  # of unembedding rows: of all of them, so it is computed once
        self._logits: _Logits | None = None

    def together(self) -> LogitTargets:
        reads, like = list(self._reads.values()), self._run.W_U

        def column(name: str, dtype: torch.dtype) -> Tensor:
            values = [getattr(x, name) for x in reads]
            made = [x.to(dtype) if isinstance(x, Tensor) else like.new_tensor(x, dtype=dtype) for x in values]
            return torch.stack(made)

        is_entering = column("is_entering", torch.bool)
        at = ReadVectors(
            column("layer", torch.int64),
            column("pos", torch.int64),
            column("vector", like.dtype),
            column("constant", like.dtype),
            is_entering if bool(is_entering.any()) else None,
        )
        probability, value = column("probability", torch.float64), column("value", like.dtype)
        texts, are_directions = [x.text for x in reads], [x.is_direction for x in reads]
        ids = [x.token_id for x in reads]
        return LogitTargets(ids, texts, probability, at, value, are_directions, self._notes)

    def add(self, targets: Any) -> None:
        """Whatever `Targets` may be."""
        for one in _each(targets):
            if isinstance(one, At):
                self._add_at(one)
            elif isinstance(one, FeatureTarget):
                self._add_feature(one)
            elif isinstance(one, Direction):
                self._add_direction(one)
            else:
                self._add_output(one, self._run.n_pos - 1)

    def _add_at(self, at: At) -> None:
        pos = self._position(at.pos)
        for one in _each(at.target):
            if isinstance(one, At | FeatureTarget | Direction):
                what = "another At" if isinstance(one, At) else f"a {type(one).__name__}"
                raise TargetError(f"At holds {what}, which says itself where it is read; give it alone.")
            self._add_output(one, pos)

    def _position(self, pos: Any) -> int:
        return counted(pos, self._run.n_pos, "a target's position")

    def _add_output(self, one: Any, pos: int) -> None:
        """What is read after the final norm."""
        if isinstance(one, Tensor):
            self._add_vectors(one, pos)
        elif isinstance(one, LogitDifference):
            self._add_difference(one, pos)
        elif one is None:
            probabilities = self._logits_at(pos).probabilities
            best = probabilities.topk(min(self._settings.max_n_logits, len(probabilities)))
            reached = int(torch.searchsorted(best.values.cumsum(0), self._settings.desired_logit_prob)) + 1
            for token_id in best.indices[:reached].tolist():
                self._add_token(token_id, pos)
        else:
            self._add_token(self._token_id(one, pos), pos)

    def _token_id(self, token: Any, pos: int) -> int:
        there = self._logits_at(pos)
        taken = token_id_of(self._model, token, there.logits)
        self._notes += notes_on(self._model, token, taken, there.probabilities)
        return taken

    def _add_token(self, token_id: int, pos: int) -> None:
        vector, constant, value = self._token(token_id, pos)
        text, probability = self._model.token_text(token_id), self._logits_at(pos).probabilities[token_id]
        read = _Read(token_id, text, probability, self._run.n_layers, pos, vector, constant, value)
        self._reads.setdefault((token_id, pos), read)

    def _token(self, token_id: int, pos: int) -> tuple[Tensor, Tensor, Tensor]:
        """Vector and constant with which a logit is read, and its value."""
        run, there = self._run, self._logits_at(pos)
        if self._mean is None:
            self._mean = run.W_U.mean(0)
        constant = run.W_U.new_zeros(()) if run.b_U is None else run.b_U[token_id] - run.b_U.mean()
        return run.W_U[token_id] - self._mean, constant, there.uncapped[token_id] - there.mean

    def _add_difference(self, pair: LogitDifference, pos: int) -> None:
        ids = [self._token_id(token, pos) for token in (pair.positive, pair.negative)]
        sides = zip(*(self._token(token_id, pos) for token_id in ids), strict=True)
        vector, constant, value = (positive - negative for positive, negative in sides)
        text = " - ".join(map(self._model.token_text, ids))
        self._add_other((*ids, pos), text, self._run.n_layers, pos, vector, constant, value)

    def _add_vectors(self, vectors: Tensor, pos: int) -> None:
        run, d_model = self._run, self._run.W_U.shape[1]
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        is_right = vectors.ndim == 2 and vectors.shape[1] == d_model and len(vectors) > 0
        if not is_right or not bool(torch.isfinite(vectors).all()):
            raise TargetError(f"a direction target has shape {list(vectors.shape)}; expected finite [n, {d_model}].")
        vectors, normed = vectors.to(run.W_U), run.final_norm.apply(run.final_stream)[pos]
        for vector, value in zip(vectors, vectors @ normed, strict=True):
            self._add_other(None, self._next_direction(), run.n_layers, pos, vector, 0.0, value)

    def _add_direction(self, one: Direction) -> None:
        run, vector = self._run, torch.as_tensor(one.vector).to(self._run.W_U)
        if isinstance(one.pos, slice):
            raise TargetError(
                f"a direction as a target has pos={one.pos}; expected one position, or None for the last."
            )
        if len(vector) != run.W_U.shape[1] or one.layer > run.n_layers:
            raise TargetError(
                f"a direction of {len(vector)} numbers at layer {one.layer}; expected {run.W_U.shape[1]} numbers, and "
                f"a layer from 0 to {run.n_layers}."
            )
        pos = self._position(-1 if one.pos is None else one.pos)
        value, text = run.entering(one.layer)[pos] @ vector, f"{self._next_direction()} at layer {one.layer}"
        self._add_other(None, text, one.layer, pos, vector, 0.0, value, is_entering=True)

    def _next_direction(self) -> str:
        """What the next direction is called."""
        self._n_directions += 1
        return f"direction {self._n_directions - 1}"

    def _add_feature(self, one: FeatureTarget) -> None:
        run, transcoders = self._run, self._model.need_transcoders()
        n_features = transcoders.n_features
        if one.layer >= len(n_features) or one.feature >= n_features[one.layer]:
            is_layer = one.layer < len(n_features)
            has = f"layer {one.layer} has {n_features[one.layer]} features" if is_layer else f"{len(n_features)} layers"
            raise TargetError(
                f"target {one.layer}/{one.feature}: {has}; expected a layer and a feature, counted from 0."
            )
        pos = self._position(one.pos)
        rows = transcoders.encoder_rows(one.layer, torch.tensor([one.feature]), run.W_U)
        vector, constant = rows[0][0], rows[1][0]
        value = run.blocks[one.layer].read(transcoders.config.feature_input_hook)[pos] @ vector + constant
        text = f"L{one.layer} feature {one.feature}"
        self._add_other((text, pos), text, one.layer, pos, vector, constant, value)

    def _add_other(self, key: Any, text: str, layer: int, pos: int, *read: Any, is_entering: bool = False) -> None:
        """A target that is no single token; the key of a direction is None, as no two are looked at for being one."""
        if key not in self._reads:
            number, (vector, constant, value) = len(self._run.W_U) + self._n_others, read
            found = _Read(number, text, 1.0, layer, pos, vector, constant, value, is_entering, key is None)
            self._reads[number if key is None else key] = found
            self._n_others += 1

    def _logits_at(self, pos: int) -> _Logits:
        """Of one position at a time: at another than the last they are computed from the final stream."""
        run = self._run
        if self._logits is None or self._logits.pos != pos:
            logits, uncapped = run.logits, run.uncapped_logits
            if pos != run.n_pos - 1:
                uncapped = run.unembed(run.final_norm.apply(run.final_stream)[pos])
                logits = self._model.soft_cap(uncapped)
            # in float64, so that even the least probable token has some weight
            self._logits = _Logits(pos, logits, uncapped, uncapped.mean(), logits.double().softmax(-1))
        return self._logits


def _each(targets: Any) -> list[Any]:
    """Targets one by one."""
    several = None if isinstance(targets, Tensor) else listed(targets)
    if several is None:
        return [targets]
    if not several or any(one is None for one in several):
        raise TargetError("no target given; name at least one token, or None for the most probable ones.")
    return several
