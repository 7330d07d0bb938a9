"""Labels without a language model: a few kinds of rule, found on one side of a text and judged on the other.

A rule claims that a feature fires at every token at which the token at an offset, what the model says next, or the
position is one of a few. Its score is the balanced accuracy on the judged side: the mean of the share of the feature's
activation that it foresees, and of the share of other tokens at which it foresees none. A rare feature makes that blind
to claims that are wrong, so precision, the share of the tokens that a rule names at which the feature does fire, has to
be high on both sides. It may foresee little of the activation: a label says one thing that a feature does, not all.

Source: kinds of features as in arxiv.org/abs/2511.07002: those of a token, and those that say what comes next
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from attrgraph.features.sides import Text

# a rule names at most so many tokens, each with this share of the activation, at which it fires more often than not
_MOST_TOKENS, _LEAST_SHARE, _LEAST_PRECISION_OF_ONE = 8, 0.02, 0.5
LEAST_PRECISION, LEAST_RECALL, LEAST_FIRINGS = 0.8, 0.1, 5
OFFSETS = {"token": 0, "previous": -1, "next": 1}
# "says": what the model finds most probable next is a token that the feature promotes; "answer": whatever it is
KINDS = ("token", "previous", "says", "answer", "next", "position")
# rules of this kind need what the feature writes to agree, which is rare by chance: they have a control of their own
SAYS = "says"
SHOWN_KINDS = ("token", "previous", SAYS, "next", "position")
_NO_TOKEN = -1


@dataclass(frozen=True)
class Rule:
    """Where a feature fires: `kind` is a key of `OFFSETS` or "position"; `values` are token ids or positions.

    `score` is the balanced accuracy on the judged side, with a 95% interval; `precision` and `recall` are of it too.
    """

    kind: str
    values: tuple[int, ...]
    precision: float
    recall: float
    score: float
    interval: tuple[float, float] = (0.0, 1.0)


class TextCounts:
    """How often each value of each kind is there on each side of a text."""

    def __init__(
        self,
        text: Text,
        is_counted: Bool[np.ndarray, " n_tokens"],
        said: Int[np.ndarray, " n_tokens"],
        n_vocab: int,
    ) -> None:
        self._text = text
        lengths = np.diff([*text.begin, len(text.token_ids)])
        row = np.repeat(np.arange(len(lengths)), lengths)
        self._values = {"position": np.arange(len(row)) - text.begin[row], SAYS: said, "answer": said}
        for kind, offset in OFFSETS.items():
            at = np.arange(len(row)) + offset
            inside = at.clip(0, len(row) - 1)
            is_there = (at == inside) & (row[inside] == row)
            self._values[kind] = np.where(is_there, text.token_ids[inside], _NO_TOKEN)
        side = text.side[row]
        self.n_tokens = [int((is_counted & (side == each)).sum()) for each in range(2)]
        n_values = max(n_vocab, int(lengths.max(initial=1)))
        self._counts = {
            kind: [
                np.bincount(values[is_counted & (side == each)] + 1, minlength=n_values + 1)[1:] for each in range(2)
            ]
            for kind, values in self._values.items()
        }

    def at(self, kind: str, token: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The values of tokens, by their number in the text; -1 where there is none."""
        found: np.ndarray = self._values[kind][token]
        return found

    def count(self, kind: str, side: int, values: Sequence[int] | np.ndarray) -> Int[np.ndarray, " n"]:
        """How many counted tokens of a side have each value."""
        found: np.ndarray = self._counts[kind][side][np.asarray(values, dtype=int)]
        return found

    def like(self, kind: str, values: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        """As many other values that are about as frequent."""
        counts = self._counts[kind][0]
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        place = {int(value): at for at, value in enumerate(order)}
        chosen: list[int] = []
        for value in values:
            near = place.get(value, 0) + rng.permutation(np.r_[-10:0, 1:11])
            candidates = [int(order[at]) for at in near if 0 <= at < len(order)]
            chosen += [one for one in candidates if one not in values and one not in chosen][:1]
        return tuple(chosen)


@dataclass(frozen=True)
class Firings:
    """Of one feature on one side of the text.

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
        """For how many firings each drawn one stands, and for which share of the activation."""
        size = np.abs(self.value).astype(np.float64)
        if self.n == len(self.drawn):
            return np.ones(len(size)), size / max(float(size.sum()), 1e-30)
        return self.total / size / len(size), np.full(len(size), 1 / len(size))


def precise_rules(
    counts: TextCounts, found: Firings, judged: Firings, promoted: Int[np.ndarray, " n_promoted"]
) -> list[Rule]:
    """Rules that are precise on both sides of the text, judged on the second, best first on the one they are found on.

    Args:
        counts: of the text.
        found, judged: firings on the two sides.
        promoted: ids of tokens that the feature promotes.
    """
    if min(found.n, judged.n) < LEAST_FIRINGS:
        return []
    candidates = (_rule(counts, kind, found, promoted) for kind in KINDS)
    good = sorted((rule for rule in candidates if rule and _is_precise(rule)), key=lambda rule: -rule.score)
    return [rule for each in good if _is_precise(rule := judge(counts, each, judged, side=1))]


def _is_precise(rule: Rule) -> bool:
    return rule.precision >= LEAST_PRECISION and rule.recall >= LEAST_RECALL


def judge(counts: TextCounts, rule: Rule, firings: Firings, *, side: int) -> Rule:
    """The rule with its precision, recall and score on one side of the text."""
    n_named, n_tokens = int(counts.count(rule.kind, side, rule.values).sum()), counts.n_tokens[side]
    is_named = np.isin(counts.at(rule.kind, firings.drawn), rule.values)
    n_each, share_each = firings.per_drawn()
    n_right, recall = min(float(n_each[is_named].sum()), n_named), min(float(share_each[is_named].sum()), 1.0)
    rejected = 1 - (n_named - n_right) / max(n_tokens - firings.n, 1)
    low, high = _wilson(recall, len(firings.drawn))
    return replace(
        rule,
        precision=n_right / max(n_named, 1),
        recall=recall,
        score=(recall + rejected) / 2,
        interval=((low + rejected) / 2, (high + rejected) / 2),
    )


def _rule(counts: TextCounts, kind: str, found: Firings, promoted: np.ndarray) -> Rule | None:
    at = counts.at(kind, found.drawn)
    values, place = np.unique(at, return_inverse=True)
    n_named = counts.count(kind, 0, values.clip(0)).clip(1)
    n_each, share_each = found.per_drawn()
    share, n_right = np.bincount(place, share_each), np.minimum(np.bincount(place, n_each), n_named)
    precision = np.where(values < 0, 0.0, n_right / n_named)
    chosen = np.flatnonzero((share >= _LEAST_SHARE) & (precision >= _LEAST_PRECISION_OF_ONE))
    if kind == SAYS:
        chosen = chosen[np.isin(values[chosen], promoted)]
    chosen = chosen[np.argsort(-share[chosen], kind="stable")][:_MOST_TOKENS]
    while len(chosen) and n_right[chosen].sum() < LEAST_PRECISION * n_named[chosen].sum():
        chosen = np.delete(chosen, np.argmin(precision[chosen]))
    if not len(chosen):
        return None
    rule = Rule(kind, tuple(int(value) for value in values[chosen]), 0.0, 0.0, 0.0)
    return judge(counts, rule, found, side=0)


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share. Source: Wilson 1927, "Probable Inference"."""
    if n == 0:
        return 0.0, 1.0
    z = 1.96
    middle, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float((middle - spread) / (1 + z**2 / n)), float((middle + spread) / (1 + z**2 / n))
