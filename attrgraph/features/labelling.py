"""The label of every feature, beside its controls: a random label, and features of a random dictionary."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from attrgraph.features.collect import Collected
from attrgraph.features.kept import by_feature
from attrgraph.features.layer_statistics import LayerStatistics
from attrgraph.features.rules import KINDS, LEAST_FIRINGS, Found, Judged, Rule, judge, nearest_rule, precise_rules
from attrgraph.features.token_texts import TokenTexts
from attrgraph.features.write_agreement import LEAST_AGREEMENT

# of so many random features, those that fire most nearly as often, this share scores less than a label has to: of 64
# there are three above it; fewer would say less of the bound, more would be less alike
_N_ALIKE, _CONTROL_QUANTILE = 64, 0.95
_NAMED_TOKENS = 3
_DISAGREES = "its decoder row is no more like what the MLPs write there than other features' rows"


class Measured(NamedTuple):
    """A balanced accuracy on the judged side of the text, with an interval."""

    score: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Label:
    """What is said of a feature: a text, or None where no rule scores above its controls.

    Args:
        text: the label.
        rule: the best one found, even if it is no label.
        claimed: what the rule names: token ids, positions, or lists of token ids.
        of_random_label: the score of as many other values that are as frequent, with a 95% interval.
        of_random_dictionary: the median of what the rules of random features score, and what 5% and 95% stay below.
        source: "rule", or "like" for what a feature with a direction like this one has.
        fault: why there is no text, if there is none.
        agreement: of the feature, see `Agreement`.
    """

    text: str | None = None
    rule: Rule | None = None
    claimed: tuple[Any, ...] = ()
    of_random_label: Measured | None = None
    of_random_dictionary: Measured | None = None
    source: str = "rule"
    fault: str = "no rule says where it fires"
    agreement: float = 0.0

    def as_record(self, name: str | None = None) -> dict[str, Any]:
        """The keys that a feature's record has of it; a name that is given wins, and scores are still of the rule."""
        rule, controls = self.rule, {"random_label": self.of_random_label}
        controls["random_dictionary"] = self.of_random_dictionary
        return {
            "label": name or self.text or "",
            "label_source": "given" if name else self.source if self.text else "none",
            "label_found": self.text or "",
            "label_score": None if rule is None else rule.score,
            "label_interval": None if rule is None else list(rule.interval),
            "label_precision": None if rule is None else rule.precision,
            "label_recall": None if rule is None else rule.recall,
            # right, and all: counted on the judged text, or at tokens of it that are as if drawn
            "label_claims": None if rule is None else [rule.n_right, rule.n_claims],
            "label_precision_interval": None if rule is None else list(rule.precision_interval),
            # what is claimed exactly
            "label_rule": None if rule is None else {"kind": rule.kind, "values": list(self.claimed)},
            "label_controls": {key: one and one._asdict() for key, one in controls.items()},
            "label_control": self.bound,
            "label_fault": None if self.text else self.fault,
            "write_agreement": self.agreement,
        }

    @property
    def bound(self) -> float | None:
        """What the lower end of the score's interval has to be above."""
        if self.of_random_label is None or self.of_random_dictionary is None:
            return None
        return max(self.of_random_label.score, self.of_random_dictionary.interval[1])


@dataclass(frozen=True)
class Control:
    """Of a layer's random features, how often they fire, and the best score of each by control of `KINDS`.

    The score is 0.5, which is chance, of those that have no rule.
    """

    n_firings: Int[np.ndarray, " n"]
    best: dict[str, Float[np.ndarray, " n"]]

    def of(self, rule: Rule, n_firings: int) -> Measured:
        """What rules of the same control score for features that fire about so many times: the best of each."""
        order = np.argsort(np.abs(np.log(self.n_firings.clip(1)) - np.log(max(n_firings, 1))), kind="stable")
        scores = self.best[KINDS[rule.kind].control][order[:_N_ALIKE]]
        if not len(scores):
            return Measured(0.5, (0.5, 0.5))
        low, middle, high = np.quantile(scores, [1 - _CONTROL_QUANTILE, 0.5, _CONTROL_QUANTILE])
        return Measured(float(middle), (float(low), float(high)))

    def summary(self) -> dict[str, Any]:
        """How many random features there are, and the score that 95% of them stay below."""
        bounds = {
            name: float(np.quantile(scores, _CONTROL_QUANTILE)) for name, scores in self.best.items() if len(scores)
        }
        return {"n_features": len(self.n_firings), "bounds": bounds}


def labels_of(
    texts: TokenTexts,
    collected: Collected,
    layer: int,
    promoted: Int[np.ndarray, "n n_tokens"],
    control: Control,
    agreement: Float[np.ndarray, " n"],
) -> list[Label]:
    """Of all described features of a layer, in their order.

    Args:
        texts: of tokens.
        promoted: ids of the tokens that each feature promotes.
        control: of the layer.
        agreement: of each feature, see `Agreement`.
    """
    statistics, labels = collected.layers[layer], []
    of_features = zip(statistics.features, firings_of(statistics), promoted, agreement.tolist(), strict=True)
    for feature, (found, judged), tokens, agrees in of_features:
        label = Label()
        if min(found.n, judged.n) < LEAST_FIRINGS:
            label = Label(fault=f"it fires {found.n} and {judged.n} times on the two halves of the text, too seldom")
        precise = precise_rules(collected.counts, found, judged, tokens)
        for rule in precise or nearest_rule(collected.counts, found, judged, tokens):
            of_dictionary = control.of(rule, found.n + judged.n)
            one = scored(collected, rule, judged, (layer, int(feature)), of_dictionary)
            text, is_above = named(texts, rule, one.claimed), one.bound is not None and rule.interval[0] > one.bound
            if rule.fault is None and is_above:
                label = replace(one, text=text)
                break
            fault = rule.fault or "its score is not above its controls"
            label = label if label.rule else replace(one, fault=f"the nearest rule is {text}: {fault}")
        if label.text and agrees < LEAST_AGREEMENT:
            label = replace(label, text=None, fault=f"the rule is {label.text}: {_DISAGREES}")
        labels.append(replace(label, agreement=agrees))
    return labels


def scored(collected: Collected, rule: Rule, judged: Judged, place: tuple[int, int], of_dictionary: Measured) -> Label:
    """A judged rule beside its controls, without a text."""
    counts = collected.counts
    other = replace(rule, values=counts.like(rule.kind, rule.values, np.random.default_rng(place)))
    of_random = judge(counts, other, judged)
    claimed = [counts.tokens_of(rule.kind, value) for value in rule.values]
    flat = [ids[0] if len(ids) == 1 else ids for ids in claimed]
    return Label(None, rule, tuple(flat), Measured(of_random.score, of_random.interval), of_dictionary)


def control_of(collected: Collected, layer: int, promoted: Int[np.ndarray, "n n_tokens"]) -> Control:
    """Of a layer, from its random features; `promoted` as in `labels_of`, of these."""
    n_firings, best = [], {kind.control: list[float]() for kind in KINDS.values()}
    for (found, judged), tokens in zip(firings_of(collected.control[layer]), promoted, strict=True):
        n_firings.append(found.n + judged.n)
        rules = precise_rules(collected.counts, found, judged, tokens)
        for control, scores in best.items():
            scores.append(max((rule.score for rule in rules if KINDS[rule.kind].control == control), default=0.5))
    return Control(np.array(n_firings, dtype=int), {name: np.array(scores) for name, scores in best.items()})


def firings_of(statistics: LayerStatistics) -> list[tuple[Found, Judged]]:
    """Of every described feature of a layer, those on the side where labels are found and on the judged one."""
    nothing, n_features, both = np.zeros(0, dtype=np.int64), len(statistics.features), list[tuple[Found, Judged]]()
    sums = zip(*statistics.n_firings, statistics.total[0], strict=True)
    drawn, kept = (by_feature(one.entries(), n_features) for one in (statistics.found, statistics.judged))
    for (n_found, n_judged, total), some, all_below in zip(sums, drawn, kept, strict=True):
        at, value, below = all_below.get("token", nothing), all_below.get("value", nothing), np.inf
        if n_judged > len(at):
            # from here on some are missing
            at, value, below = at[:-1], value[:-1], -all_below["score"][-1]
        found = Found(int(n_found), float(total), some.get("token", nothing), some.get("value", nothing))
        both.append((found, Judged(int(n_judged), float(below), at, value)))
    return both


def named(texts: TokenTexts, rule: Rule, claimed: tuple[Any, ...]) -> str:
    """The rule in words."""
    if rule.kind == "position":
        return f"position {', '.join(map(str, sorted(rule.values)))}"
    quoted = [f'"{text}"' for text in claimed_texts(texts, claimed)]
    n_more = len(quoted) - _NAMED_TOKENS
    more = f" or {n_more} other{'s' if n_more > 1 else ''}" if n_more > 0 else ""
    return KINDS[rule.kind].front + " or ".join(quoted[:_NAMED_TOKENS]) + more


def claimed_texts(texts: TokenTexts, claimed: tuple[Any, ...]) -> list[str]:
    """Of a rule about tokens, each of its values."""
    return [texts.joined(ids if isinstance(ids, list) else [ids]) for ids in claimed]
