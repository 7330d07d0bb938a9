"""The best entries of every feature, while a text streams by."""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

# entries that wait before they are compared with those that are kept: chosen, not tuned
_MOST_WAITING = 2**17
# bits of a score that are left away where it is sorted together with its feature
_SCORE_SHIFT = 24


class Kept:
    """Of each feature of a layer, the entries with the largest scores; of equals, the first of the text.

    Args:
        n_features: of the layer.
        n_each: so many are kept.
        one_a_document: only the best entry of each document.
    """

    def __init__(self, n_features: int, n_each: int, *, one_a_document: bool = False) -> None:
        self._n_each, self._one_a_document = n_each, one_a_document
        self._least = np.full(n_features, -np.inf)  # a lower score cannot be kept any more
        self._waiting: list[dict[str, np.ndarray]] = []
        self._n_waiting = 0

    def worth_offering(self, feature: Int[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Which of these entries, in the text's order, may be kept as far as they and earlier ones tell."""
        at = np.flatnonzero(score >= self._least[feature])
        return at if self._one_a_document else at[self._among_best(feature[at], score[at])]

    def _among_best(self, feature: Int[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether an entry is among the best of its feature; of almost equal scores (1e-8), all are.

        One sort of one number an entry, feature and score together, is many times faster than a sort by both.
        """
        counts = np.bincount(feature, minlength=len(self._least))
        if counts.max(initial=0) <= self._n_each:
            return np.ones(len(feature), dtype=bool)
        bits = score.astype(np.float64).view(np.int64)
        ascending = (bits ^ ((bits >> 63) & np.int64(2**63 - 1))) >> _SCORE_SHIFT
        key = (feature.astype(np.int64) << (64 - _SCORE_SHIFT)) - ascending
        last = np.cumsum(counts) - counts + np.minimum(counts, self._n_each) - 1
        is_among: np.ndarray = key <= np.sort(key)[last][feature]
        return is_among

    def offer(self, **columns: np.ndarray) -> None:
        """Entries as columns: `feature`, `score`, `document`, `token` (its number in the text), and any others."""
        self._waiting.append(columns)
        self._n_waiting += len(columns["feature"])
        # each comparison sorts what is kept too
        if self._n_waiting > max(_MOST_WAITING, 2 * len(self._waiting[0]["feature"])):
            self._waiting, self._n_waiting = [self._compared()], 0

    def entries(self) -> dict[str, np.ndarray]:
        """The kept entries, by feature, the best first."""
        self._waiting, self._n_waiting = ([self._compared()] if self._waiting else []), 0
        return self._waiting[0] if self._waiting else {}

    def load(self, entries: dict[str, np.ndarray]) -> None:
        """Go on from entries that were kept before."""
        self._waiting = [entries] if entries else []

    def _compared(self) -> dict[str, np.ndarray]:
        columns = {name: np.concatenate([each[name] for each in self._waiting]) for name in self._waiting[0]}
        if not self._one_a_document:
            is_among = self._among_best(columns["feature"], columns["score"])
            columns = {name: column[is_among] for name, column in columns.items()}
        order = np.lexsort((columns["token"], -columns["score"], columns["feature"]))
        if self._one_a_document:
            order = order[_is_first_of_document(columns["feature"][order], columns["document"][order])]
        feature = columns["feature"][order]
        rank = _rank(feature, len(self._least))
        is_last = rank == self._n_each - 1
        self._least[feature[is_last]] = columns["score"][order[is_last]]
        return {name: column[order[rank < self._n_each]] for name, column in columns.items()}


def _rank(feature: np.ndarray, n_features: int) -> np.ndarray:
    """Of entries in order of features, which one of its feature each is."""
    rank: np.ndarray = np.arange(len(feature)) - np.searchsorted(feature, np.arange(n_features))[feature]
    return rank


def _is_first_of_document(feature: np.ndarray, document: np.ndarray) -> np.ndarray:
    """Of entries in order, whether no earlier one has the same feature and document."""
    order = np.lexsort((np.arange(len(feature)), document, feature))
    is_first = np.ones(len(feature), dtype=bool)
    is_first[order[1:]] = (np.diff(feature[order]) != 0) | (np.diff(document[order]) != 0)
    return is_first


def random_priority(token: Int[np.ndarray, " n"], unit: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A number from 0 to 1 for a token of a text and a feature, as if drawn: the same however the text is batched.

    Source: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators" (its finaliser, SplitMix64)
    """
    with np.errstate(over="ignore"):
        x = (token.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x += unit.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    found: np.ndarray = (x >> np.uint64(11)).astype(np.float64) / 2**53
    return found


def token_priority(token: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`random_priority` of tokens, the same for all features."""
    return random_priority(token, np.full(len(token), -1))


def by_feature(entries: dict[str, np.ndarray], n_features: int) -> list[dict[str, np.ndarray]]:
    """Entries of `Kept` apart, of each feature."""
    if not entries:
        return [{} for _ in range(n_features)]
    bounds = np.searchsorted(entries["feature"], np.arange(n_features + 1))
    return [{name: column[start:stop] for name, column in entries.items()} for start, stop in pairwise(bounds)]
