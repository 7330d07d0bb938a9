"""The components that circuits are made of, and what is measured of an answer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.errors import InterventionError
from attrgraph.models.components import Site
from attrgraph.models.families import output_projection
from attrgraph.models.frozen import widened
from attrgraph.models.language_model import LanguageModel
from attrgraph.prompts.prompt_pairs import PromptPair

PART_KINDS = ("head", "mlp")
METRICS = ("logit-difference", "probability")
# a name of `METRICS`, or a function of logits [n_rows, d_vocab] and their pairs that gives a number a row
Metric = str | Callable[[Tensor, Sequence[PromptPair]], Tensor]
_NAME = re.compile(r"head:(\d+)\.(\d+)|mlp:(\d+)")


@dataclass(frozen=True)
class Part:
    """A head or an MLP, at all positions."""

    kind: str
    layer: int
    head: int | None = None

    @property
    def site(self) -> Site:
        return Site(self.kind, self.layer)

    @property
    def name(self) -> str:
        return f"mlp:{self.layer}" if self.head is None else f"head:{self.layer}.{self.head}"

    def written(self, model: LanguageModel, x: Tensor) -> Tensor:
        """What it adds to the stream, before a norm behind attention, of what its site computes."""
        if self.head is None:
            return x
        W_O, _ = output_projection(model.attention_module(self.layer), model.family, model.config)
        return x[:, :, self.head] @ W_O[self.head].T.to(x) * model.family.residual_scale(model.config)


def parts_of(model: LanguageModel, kinds: Sequence[str] = PART_KINDS) -> list[Part]:
    """All components of these kinds, layer by layer.

    Raises:
        InterventionError: an unknown kind, or none.
    """
    unknown = [kind for kind in kinds if kind not in PART_KINDS]
    if unknown or not kinds:
        raise InterventionError(f"nodes are {', '.join(map(str, kinds)) or 'none'}; expected head, mlp, or both.")
    heads = range(int(model.config.num_attention_heads))
    return [
        part
        for layer in range(model.n_layers)
        for part in (*(Part("head", layer, head) for head in heads), Part("mlp", layer))
        if part.kind in kinds
    ]


def part_called(name: str, parts: Sequence[Part]) -> int:
    """The place of a component among others.

    Raises:
        InterventionError: it is not there.
    """
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    part = None
    if found is not None:
        layer, head, mlp_layer = (None if group is None else int(group) for group in found.groups())
        part = Part("mlp", mlp_layer or 0) if layer is None else Part("head", layer, head)
    if part not in parts:
        raise InterventionError(
            f"{name!r:.60} is no component here; expected names such as {parts[0].name} and {parts[-1].name}, without "
            "positions."
        )
    return parts.index(part)


def measured(logits: Float[Tensor, "n_rows d_vocab"], pairs: Sequence[PromptPair], metric: Metric) -> Tensor:
    """[n_rows]: how much better the right answers do than the wrong ones.

    logit-difference: log(sum of exp of the right answers' logits) minus the same of the wrong ones, which of one answer
    each is the difference of two logits; probability: that of the right answers minus that of the wrong ones.

    Raises:
        InterventionError: an unknown metric, or a function that does not give a number a row.
    """
    if callable(metric):
        found: Any = metric(logits, pairs)
        if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InterventionError(f"the metric gives {got} for {len(logits)} prompts; expected a number for each.")
        return found
    if metric not in METRICS:
        raise InterventionError(
            f"metric {metric!r:.60} is not known; expected {', '.join(METRICS)}, or a function of logits and pairs."
        )
    logits = widened(logits)
    weights = logits.softmax(-1) if metric == "probability" else logits
    reduce = torch.sum if metric == "probability" else torch.logsumexp
    rows = [
        reduce(weight[list(pair.answers)], 0) - reduce(weight[list(pair.wrong_answers)], 0)
        for weight, pair in zip(weights, pairs, strict=True)
    ]
    return torch.stack(rows)


@dataclass(frozen=True)
class Answers:
    """What several sets of components answer to every pair."""

    metric: Float[np.ndarray, "n_sets n_pairs"]
    is_right: Bool[np.ndarray, "n_sets n_pairs"]  # whether the most probable token is a right answer

    @staticmethod
    def empty(n_sets: int, n_pairs: int) -> "Answers":
        return Answers(np.full((n_sets, n_pairs), np.nan), np.zeros((n_sets, n_pairs), dtype=bool))

    def put(
        self,
        index: int,
        of_pair: Int[np.ndarray, " n_rows"],
        logits: Float[Tensor, "n_rows d_vocab"],
        pairs: Sequence[PromptPair],
        metric: Metric,
    ) -> None:
        self.metric[index, of_pair] = measured(logits, pairs, metric).double().cpu().numpy()
        best = logits.argmax(-1).tolist()
        self.is_right[index, of_pair] = [token in pair.answers for token, pair in zip(best, pairs, strict=True)]
