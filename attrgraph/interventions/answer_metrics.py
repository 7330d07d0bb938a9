"""What patching measures: one number of the logits at a prompt's last position, as the model gives them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.targets import LogitDifference, token_id_of
from attrgraph.errors import InterventionError, ResultError, TargetError, checked
from attrgraph.models.frozen import widened
from attrgraph.models.language_model import LanguageModel


@checked
@dataclass(frozen=True)
class LogProbability:
    """The logarithm of a token's probability, in nats. A token is text or an id."""

    token: str | int


@dataclass(frozen=True)
class KLDivergence:
    """KL(clean answer || answer of the run) of the next token, in nats; 0 in the clean run."""


# a function gets logits [n_rows, d_vocab] and gives a number for each row
Metric = LogitDifference | LogProbability | KLDivergence | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Measure:
    """A metric whose tokens are found."""

    name: str
    function: Callable[[Tensor], Tensor]
    targets: LogitDifference | int | None = None  # what a graph would explain; None for what no graph does

    def of(self, logits: Float[Tensor, "n_rows d_vocab"]) -> Float[Tensor, " n_rows"]:
        """The metric of each row.

        Raises:
            InterventionError: a function that does not give one number for each row.
            ResultError: the metric is not finite.
        """
        found = self.function(widened(logits))
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InterventionError(
                f"metric {self.name} gives {got} for logits of shape {list(logits.shape)}; expected a tensor of shape "
                f"[{len(logits)}], a number for each row."
            )
        if not bool(torch.isfinite(found).all()):
            raise ResultError(f"metric {self.name} is not finite; take another, or look at what it does with logits.")
        return found


def measure_of(
    model: LanguageModel,
    metric: Metric | None,
    clean: Float[Tensor, " d_vocab"],
    corrupt: Float[Tensor, " d_vocab"],
) -> Measure:
    """A metric for two runs with these logits.

    Args:
        metric: None for the logit of the clean run's answer minus that of the corrupt run's.

    Raises:
        TargetError: a token that the model does not have, two that are the same, or, without a metric, both prompts
            have the same answer.
        InterventionError: no metric.
    """
    if metric is None:
        return _difference(model, int(clean.argmax()), int(corrupt.argmax()), both_answers=True)
    if isinstance(metric, LogitDifference):
        first, second = (token_id_of(model, token, clean) for token in (metric.positive, metric.negative))
        return _difference(model, first, second)
    if isinstance(metric, LogProbability):
        token = token_id_of(model, metric.token, clean)
        name = f"log p({model.token_text(token)!r})"
        return Measure(name, lambda logits: logits.double().log_softmax(-1)[:, token], token)
    if isinstance(metric, KLDivergence):
        expected = widened(clean).double().log_softmax(-1)

        def divergence(logits: Tensor) -> Tensor:
            return (expected.exp() * (expected - logits.double().log_softmax(-1))).sum(-1)

        return Measure("KL(clean || run)", divergence)
    if callable(metric) and not isinstance(metric, type):
        return Measure(getattr(metric, "__name__", type(metric).__name__), metric)
    raise InterventionError(
        f"metric is {metric!r:.60}; expected LogitDifference(a, b), LogProbability(token), KLDivergence(), or a "
        "function of logits [n_rows, d_vocab]."
    )


def _difference(model: LanguageModel, first: int, second: int, *, both_answers: bool = False) -> Measure:
    names = [model.token_text(token) for token in (first, second)]
    if first == second:
        why = f"both prompts are answered by {names[0]!r}" if both_answers else f"both tokens are {names[0]!r}"
        raise TargetError(f"{why}, so their difference is 0; give the metric two tokens, or KLDivergence().")
    name = f"logit {names[0]!r} - {names[1]!r}"
    difference = LogitDifference(first, second)
    return Measure(name, lambda logits: logits[:, first].double() - logits[:, second].double(), difference)
