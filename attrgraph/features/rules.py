"""Labels without a language model: a few kinds of rule, found on one side of a text and judged on the other.

A rule claims that a feature fires at every token at which the token at an offset, the last few tokens, what the model
says next, or the position is one of a few. Its score is the balanced accuracy on the judged side: the mean of the share
of the feature's activation that it foresees, and of the share of other tokens at which it foresees none. A rare feature
makes that blind to claims that are wrong, so precision, the share of the tokens that a rule names at which the feature
does fire, has to be high on both sides. It may foresee little of the activation: a label says one thing that a feature
does, not all. Rules of the kind "promotes" claim the reverse, that after a firing one of a few tokens comes: precision
is the share of firings after which one does.

Source: kinds of features as in arxiv.org/abs/2511.07002: those of a token, and those that say what comes next
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from attrgraph.features.text_counts import TextCounts

# a rule names at most so many tokens, each with this share of the activation, at which it fires more often than not
_MOST_TOKENS, _LEAST_SHARE, _LEAST_PRECISION_OF_ONE = 8, 0.02, 0.5
LEAST_PRECISION, LEAST_RECALL, LEAST_FIRINGS = 0.8, 0.1, 5
# what the 95% interval of the counted precision has to lie above: 6 of 6 do, 5 of 5 do not
_LEAST_CERTAIN = 0.6


class Kind(NamedTuple):
    """A kind of rule.

    `front` stands in front of the tokens that a label names. By `control` kinds are compared with what rules of the
    same control find for features that mean nothing: some find more by chance than others.
    """

    front: str
    control: str


# "says": what the model finds most probable next is a token that the feature promotes; "answer": whatever it is
SAYS, PROMOTES = "says", "promotes"
KINDS = {
    "token": Kind("", "tokens"),
    "previous": Kind("after ", "tokens"),
    SAYS: Kind("says ", "says"),
    "answer": Kind("where the answer is ", "tokens"),
    "next": Kind("before ", "tokens"),
    "position": Kind("position ", "tokens"),
    "last 2": Kind("at the end of ", "endings"),
    "last 3": Kind("at the end of ", "endings"),
    "last 4": Kind("at the end of ", "endings"),
    PROMOTES: Kind("promotes ", "promotes"),
}
SHOWN_KINDS = ("token", "previous", "last 3", SAYS, "next", "position")


@dataclass(frozen=True)
class Rule:
    """Where a feature fires: `kind` is a key of `KINDS`; `values` are token ids, positions, or `TextCounts`' endings.

    `score` is the balanced accuracy on the judged side, with a 95% interval; `recall` is of it too, and so is
    `precision`: `n_right` of `n_claims` are counted.
    """

    kind: str
    values: tuple[int, ...]
    n_right: int = 0
    n_claims: int = 0
    precision: float = 0.0
    recall: float = 0.0
    score: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def is_precise(self) -> bool:
        """Whether it says where a feature fires, as far as the shares tell."""
        return self.precision >= LEAST_PRECISION and (self.recall >= LEAST_RECALL or self.kind == PROMOTES)

    @property
    def precision_interval(self) -> tuple[float, float]:
        """The 95% interval of the counted precision."""
        return wilson(self.precision, self.n_claims)

    @property
    def fault(self) -> str | None:
        """Of a judged rule, why it may be no label."""
        if self.precision < LEAST_PRECISION or self.precision_interval[0] < _LEAST_CERTAIN:
            too_few = ", too few to tell" * (self.precision >= LEAST_PRECISION)
            return f"right {self.n_right} of {self.n_claims} times{too_few}"
        return None if self.is_precise else f"foresees {self.recall:.0%} of the activation"


@dataclass(frozen=True)
class Found:
    """Firings of one feature on the side where rules are found.

    Args:
        n: how many.
        total: sum of their activations.
        drawn: the numbers of tokens at which it fires, as if drawn in proportion to the activation.
        value: their activations.
    """

    n: int
    total: float
    drawn: Int[np.ndarray, " n_drawn"]
    value: Float[np.ndarray, " n_drawn"]

    def per_drawn(self) -> tuple[Float[np.ndarray, " n_drawn"], Float[np.ndarray, " n_drawn"]]:
        """For how many firings each drawn one stands, about, and for which share of the activation."""
        size = np.abs(self.value).astype(np.float64)
        if self.n == len(self.drawn):
            return np.ones(len(size)), size / max(float(size.sum()), 1e-30)
        return self.total / size / len(size), np.full(len(size), 1 / len(size))


@dataclass(frozen=True)
class Judged:
    """Firings of one feature on the judged side: all that are at tokens whose priority is below a bound.

    Priorities are as if drawn, so that these tokens are a random sample of the side, in which everything is counted.

    Args:
        n: how many it has on the whole side.
        below: the bound; infinite where all are known.
        at: the numbers of the tokens.
        value: the activations.
    """

    n: int
    below: float
    at: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]


def precise_rules(
    counts: TextCounts, found: Found, judged: Judged, promoted: Int[np.ndarray, " n_promoted"]
) -> list[Rule]:
    """Rules that are precise on both sides of the text, judged on the second, best first on the one they are found on.

    What it promotes comes last: a label says first where a feature fires.

    Args:
        counts: of the text.
        found, judged: firings on the two sides.
        promoted: ids of tokens that the feature promotes.
    """
    good = [rule for rule in _candidates(counts, found, judged, promoted) if rule.is_precise]
    good.sort(key=lambda rule: (rule.kind == PROMOTES, -rule.score))
    return [rule for each in good if (rule := judge(counts, each, judged)).fault is None]


def nearest_rule(
    counts: TextCounts, found: Found, judged: Judged, promoted: Int[np.ndarray, " n_promoted"]
) -> list[Rule]:
    """Where no rule is precise, the one that is most nearly, if there is any; arguments as of `precise_rules`."""
    rules = [judge(counts, rule, judged) for rule in _candidates(counts, found, judged, promoted)]
    faulty = [rule for rule in rules if rule.fault is not None and rule.n_claims]
    return sorted(faulty, key=lambda rule: (rule.precision_interval[0], rule.score))[-1:]


def _candidates(counts: TextCounts, found: Found, judged: Judged, promoted: np.ndarray) -> list[Rule]:
    if min(found.n, judged.n) < LEAST_FIRINGS:
        return []
    return [rule for kind in KINDS if (rule := _rule(counts, kind, found, promoted))]


def judge(counts: TextCounts, rule: Rule, judged: Judged) -> Rule:
    """The rule with its precision, recall and score on the judged side, counted."""
    n_named = int(counts.count_below(rule.kind, rule.values, judged.below).sum())
    n_others = counts.n_below(judged.below) - len(judged.at)
    is_named = np.isin(counts.at(rule.kind, judged.at), rule.values)
    n_right, size = int(is_named.sum()), np.abs(judged.value).astype(np.float64)
    recall = float(size[is_named].sum() / max(size.sum(), 1e-30))
    rejected = 1 - (n_named - n_right) / max(n_others, 1)
    # as many firings of one strength would say as much of a share of the activation
    low, high = wilson(recall, float(size.sum() ** 2 / max((size**2).sum(), 1e-30)))
    n_claims = len(judged.at) if rule.kind == PROMOTES else n_named
    return replace(
        rule,
        n_right=n_right,
        n_claims=n_claims,
        precision=n_right / max(n_claims, 1),
        recall=n_right / max(n_named, 1) if rule.kind == PROMOTES else recall,
        score=(recall + rejected) / 2,
        interval=((low + rejected) / 2, (high + rejected) / 2),
    )


def _estimated(counts: TextCounts, rule: Rule, found: Found) -> Rule:
    """The rule with about the precision, recall and score that it has on the side where it is found."""
    n_named, n_tokens = int(counts.count(rule.kind, 0, rule.values).sum()), counts.n_tokens[0]
    is_named = np.isin(counts.at(rule.kind, found.drawn), rule.values)
    n_each, share_each = found.per_drawn()
    n_right, recall = min(float(n_each[is_named].sum()), n_named), min(float(share_each[is_named].sum()), 1.0)
    rejected = 1 - (n_named - n_right) / max(n_tokens - found.n, 1)
    of_named, of_firings = n_right / max(n_named, 1), n_right / max(found.n, 1)
    precision, recalled = (of_firings, of_named) if rule.kind == PROMOTES else (of_named, recall)
    return replace(rule, precision=precision, recall=recalled, score=(recall + rejected) / 2)


def _rule(counts: TextCounts, kind: str, found: Found, promoted: np.ndarray) -> Rule | None:
    at = counts.at(kind, found.drawn)
    values, place = np.unique(at, return_inverse=True)
    n_named = counts.count(kind, 0, values.clip(0)).clip(1)
    n_each, share_each = found.per_drawn()
    share, n_right = np.bincount(place, share_each), np.minimum(np.bincount(place, n_each), n_named)
    precision = np.where(values < 0, 0.0, n_right / n_named)
    is_fit = (values >= 0) & (share >= _LEAST_SHARE)
    if kind in (SAYS, PROMOTES):
        is_fit &= np.isin(values, promoted)
    if kind == PROMOTES:
        chosen = np.flatnonzero(is_fit)[np.argsort(-share[is_fit], kind="stable")]
        return _estimated(counts, Rule(kind, _named(values, chosen)), found) if len(chosen) > 1 else None
    chosen = np.flatnonzero(is_fit & (precision >= _LEAST_PRECISION_OF_ONE))
    chosen = chosen[np.argsort(-share[chosen], kind="stable")][:_MOST_TOKENS]
    while len(chosen) and n_right[chosen].sum() < LEAST_PRECISION * n_named[chosen].sum():
        chosen = np.delete(chosen, np.argmin(precision[chosen]))
    return _estimated(counts, Rule(kind, _named(values, chosen)), found) if len(chosen) else None


def _named(values: np.ndarray, chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in values[chosen])


def wilson(share: float, n: int | float) -> tuple[float, float]:
    """95% interval of a share. Source: Wilson 1927, "Probable Inference"."""
    if n == 0:
        return 0.0, 1.0
    z = 1.96
    middle, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float((middle - spread) / (1 + z**2 / n)), float((middle + spread) / (1 + z**2 / n))
