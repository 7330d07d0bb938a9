"""The label of every feature, beside its controls: a random label, and features of a random dictionary."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from attrgraph.features.collect import Collected
from attrgraph.features.kept import by_feature
from attrgraph.features.layer_statistics import LayerStatistics
from attrgraph.features.rules import SAYS, Firings, Rule, judge, precise_rules
from attrgraph.models.language_model import LanguageModel

# of a random dictionary's labels of a layer, so many score less than a label has to
_CONTROL_QUANTILE = 0.95
_NAMED_TOKENS = 3


@dataclass(frozen=True)
class Label:
    """What is said of a feature: a text, or None where no rule scores above its control."""

    text: str | None
    rule: Rule | None  # the best one found, even if it is no label
    of_random_label: float  # the score of as many other values that are as frequent
    of_random_dictionary: float  # the score that 95% of the layer's random features stay below

    def as_record(self, name: str | None = None) -> dict[str, Any]:
        """The keys that a feature's record has of it; a name that is given wins, and scores are still of the rule."""
        rule = self.rule
        return {
            "label": name or self.text or "",
            "label_source": "given" if name else "rule" if self.text else "none",
            "label_found": self.text or "",
            "label_score": None if rule is None else rule.score,
            "label_interval": None if rule is None else list(rule.interval),
            "label_precision": None if rule is None else rule.precision,
            "label_recall": None if rule is None else rule.recall,
            # what is claimed exactly: token ids, or positions
            "label_rule": None if rule is None else {"kind": rule.kind, "values": list(rule.values)},
            "label_control": max(self.of_random_label, self.of_random_dictionary),
        }


def labels_of(
    model: LanguageModel,
    collected: Collected,
    layer: int,
    promoted: Int[np.ndarray, "n n_tokens"],
    control: "Control",
) -> list[Label]:
    """Of all described features of a layer, in their order.

    Args:
        promoted: ids of the tokens that each feature promotes.
        control: of the layer.
    """
    statistics, labels = collected.layers[layer], []
    for feature, firings, tokens in zip(statistics.features, firings_of(statistics), promoted, strict=True):
        label = Label(None, None, 0.5, control.of_others)
        for rule in precise_rules(collected.counts, *firings, tokens):
            rng = np.random.default_rng((layer, int(feature)))
            values = collected.counts.like(rule.kind, rule.values, rng)
            of_random = judge(collected.counts, replace(rule, values=values), firings[1], side=1).score
            bound = control.of_says if rule.kind == SAYS else control.of_others
            is_above = rule.interval[0] > of_random and rule.score > bound
            if is_above or label.rule is None:
                label = Label(named(model, rule) if is_above else None, rule, of_random, bound)
            if is_above:
                break
        labels.append(label)
    return labels


@dataclass(frozen=True)
class Control:
    """The scores that 95% of a random dictionary's features stay below; 0.5, which is chance, if none has a rule."""

    of_says: float
    of_others: float


def control_of(collected: Collected, layer: int, promoted: Int[np.ndarray, "n n_tokens"]) -> Control:
    """Of a layer, from its random features; `promoted` as in `labels_of`, of these."""
    best: tuple[list[float], list[float]] = ([], [])
    for firings, tokens in zip(firings_of(collected.control[layer]), promoted, strict=True):
        rules = precise_rules(collected.counts, *firings, tokens)
        for scores, is_says in zip(best, (True, False), strict=True):
            scores.append(max((rule.score for rule in rules if (rule.kind == SAYS) == is_says), default=0.5))
    return Control(*(float(np.quantile(scores, _CONTROL_QUANTILE)) if scores else 0.5 for scores in best))


def firings_of(statistics: LayerStatistics) -> list[tuple[Firings, Firings]]:
    """Of every described feature of a layer, those on the side where labels are found and on the judged one."""
    sides = []
    for side, kept in enumerate(statistics.weighted):
        drawn = by_feature(kept.entries(), len(statistics.features))
        sums = zip(statistics.n_firings[side], statistics.total[side], strict=True)
        nothing = np.zeros(0, dtype=np.int64)
        sides.append(
            [
                Firings(int(n), float(total), each.get("token", nothing), each.get("value", nothing))
                for (n, total), each in zip(sums, drawn, strict=True)
            ]
        )
    return list(zip(*sides, strict=True))


def named(model: LanguageModel, rule: Rule) -> str:
    """The rule in words."""
    if rule.kind == "position":
        return f"position {', '.join(map(str, sorted(rule.values)))}"
    texts = [f'"{model.token_text(value)}"' for value in rule.values]
    n_more = len(texts) - _NAMED_TOKENS
    more = f" or {n_more} other{'s' if n_more > 1 else ''}" if n_more > 0 else ""
    front = {"token": "", "previous": "after ", "next": "before ", SAYS: "says ", "answer": "where the answer is "}
    return front[rule.kind] + " or ".join(texts[:_NAMED_TOKENS]) + more
