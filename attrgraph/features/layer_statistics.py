"""What is known of the features of one layer, while a text streams by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from attrgraph.features.kept import Kept, random_priority, token_priority
from attrgraph.features.write_agreement import N_DIRECTIONS
from attrgraph.transcoders.transcoders import ActiveFeatures

# tokens before and after the one that an example is about, unless tokens are short
WINDOW = (16, 8)
N_TOP, N_SPREAD, N_DRAWN, N_JUDGED = 20, 20, 128, 256
# bins of a histogram: four to an octave of activations, from 2^-16 to 2^16
N_BINS, _LOWEST_OCTAVE, _BINS_PER_OCTAVE = 128, -16, 4
_ARRAYS = ("n_firings", "total", "sum", "largest", "smallest", "histogram")
# of a token's number in the text; above them stands the feature
_NUMBER_BITS = 40


@dataclass(frozen=True)
class Where:
    """The counted tokens of a batch: their numbers in the text, and what is known of their rows.

    Args:
        number: of each token.
        begin, end: numbers of the first token of its row, and of the first after it.
        document: which.
        side: of the text.
    """

    number: Int[np.ndarray, " n_tokens"]
    begin: Int[np.ndarray, " n_tokens"]
    end: Int[np.ndarray, " n_tokens"]
    document: Int[np.ndarray, " n_tokens"]
    side: Int[np.ndarray, " n_tokens"]


@dataclass(frozen=True)
class Fired:
    """Firings of a batch, ascending by feature and then by token."""

    feature: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]  # index into the batch's counted tokens
    value: Float[np.ndarray, " n"]
    code: Int[np.ndarray, " n"]  # ascending: feature, and the token's number in the text

    def of_best_in_rows(self, where: Where) -> Int[np.ndarray, " m"]:
        """Of each feature in each row, the strongest firing; of equals the first."""
        row = where.begin[self.token]
        starts = np.flatnonzero(np.r_[True, (np.diff(self.feature) != 0) | (np.diff(row) != 0)][: len(row)])
        if not len(starts):
            return starts
        sizes = np.diff(np.r_[starts, len(row)])
        at = np.flatnonzero(self.value == np.repeat(np.maximum.reduceat(self.value, starts), sizes))
        place = np.repeat(np.arange(len(starts)), sizes)[at]
        return at[np.r_[True, np.diff(place) != 0]]


class LayerStatistics:
    """Counts, extremes, and firings that are kept: of the best documents, and as if drawn at random.

    Args:
        layer: which.
        features: those that are described, ascending.

    Attributes:
        window: tokens before and after those that examples are about; to be changed before firings are added.
    """

    window = WINDOW

    def __init__(self, layer: int, features: Int[np.ndarray, " n"]) -> None:
        n = len(features)
        self.layer, self.features = layer, features
        self.n_firings = np.zeros((2, n), dtype=np.int64)  # by side of the text
        self.total = np.zeros((2, n))  # of activations' sizes
        self.sum = np.zeros(n)
        self.largest = np.full(n, -np.inf, dtype=np.float32)
        self.smallest = np.full(n, np.inf, dtype=np.float32)
        self.histogram = np.zeros((n, N_BINS), dtype=np.int32)
        self.top = Kept(n, N_TOP, one_a_document=True)  # with the activations around them
        self.spread = Kept(n, N_SPREAD)  # too
        self.drawn = Kept(n, N_DRAWN)  # without
        # of the side where labels are found, as if drawn in proportion to their activations, without windows
        self.found = Kept(n, N_DRAWN)
        self.judged = Kept(n, N_JUDGED)  # of the other, those at the tokens of the least priority

    def add(self, active: ActiveFeatures, where: Where) -> Fired:
        """Count the firings of a batch, whose positions are indices into its counted tokens; return those described."""
        fired, n = self._fired(active, where), len(self.features)
        feature, value, side = fired.feature, fired.value, where.side[fired.token]
        at = side * n + feature
        self.n_firings += np.bincount(at, minlength=2 * n).reshape(2, n)
        self.total += np.bincount(at, np.abs(value), minlength=2 * n).reshape(2, n)
        self.sum += np.bincount(feature, value, minlength=n)
        np.maximum.at(self.largest, feature, value)
        np.minimum.at(self.smallest, feature, value)
        np.add.at(self.histogram, (feature, bin_of(value)), 1)
        unit = (self.layer << 32) + self.features[feature]
        score = -random_priority(where.number[fired.token], unit)
        # keys of a weighted draw without replacement: Efraimidis and Spirakis 2006, algorithm A
        weighted = np.log1p(score) / np.abs(value)
        _offer(self.found, fired, where, weighted, np.flatnonzero(side == 0))
        _offer(self.judged, fired, where, -token_priority(where.number)[fired.token], np.flatnonzero(side == 1))
        _offer(self.drawn, fired, where, score, np.arange(len(value)))
        _offer(self.spread, fired, where, score, np.arange(len(value)), self.window)
        best = fired.of_best_in_rows(where)
        _offer(self.top, fired, where, value.astype(float), best, self.window)
        return fired

    def _fired(self, active: ActiveFeatures, where: Where) -> Fired:
        token, feature, value = (column.cpu().numpy() for column in (active.pos, active.feature, active.activation))
        place = np.searchsorted(self.features, feature)
        if len(self.features):
            is_described = self.features[np.minimum(place, len(self.features) - 1)] == feature
        else:
            is_described = np.zeros(len(feature), dtype=bool)
        token, feature, value = token[is_described], place[is_described], value[is_described]
        code = (feature.astype(np.int64) << _NUMBER_BITS) + where.number[token]
        order = np.argsort(code, kind="stable")
        return Fired(feature[order], token[order], value[order].astype(np.float32), code[order])

    def state(self) -> dict[str, np.ndarray]:
        """Everything that is known, to go on from later."""
        kept = {f"{name}.{column}": values for name, one in self.kept() for column, values in one.entries().items()}
        return {name: getattr(self, name) for name in _ARRAYS} | kept

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from there."""
        for name in _ARRAYS:
            setattr(self, name, state[name])
        for name, one in self.kept():
            one.load({key.partition(".")[2]: values for key, values in state.items() if key.startswith(f"{name}.")})

    def kept(self) -> list[tuple[str, Kept]]:
        """All entries that are kept, by name."""
        names = ("top", "spread", "drawn", "found", "judged")
        return list(zip(names, (self.top, self.spread, self.drawn, self.found, self.judged), strict=True))


def _offer(
    kept: Kept, fired: Fired, where: Where, score: np.ndarray, at: np.ndarray, window: tuple[int, int] | None = None
) -> None:
    """Offer some of the firings, with the activations around them if asked for."""
    at = at[kept.worth_offering(fired.feature[at], score[at])]
    number = where.number[fired.token[at]]
    columns = {"feature": fired.feature[at].astype(np.int32), "score": score[at], "token": number}
    columns |= {"value": fired.value[at], "document": where.document[fired.token[at]].astype(np.int32)}
    if window is not None:
        columns["window"] = _windows(fired, where, at, *window)
    kept.offer(**columns)


def _windows(
    fired: Fired, where: Where, at: np.ndarray, n_before: int, n_after: int
) -> Float[np.ndarray, "n n_window"]:
    """Activations around firings; 0 outside the row."""
    token, feature = fired.token[at], fired.feature[at].astype(np.int64) << _NUMBER_BITS
    first = where.number[token] - n_before
    begin = np.maximum(first, where.begin[token])
    end = np.minimum(where.number[token] + n_after + 1, where.end[token])
    start, stop = np.searchsorted(fired.code, feature + begin), np.searchsorted(fired.code, feature + end)
    row = np.repeat(np.arange(len(at)), stop - start)
    inside = np.arange(len(row)) + np.repeat(start - np.cumsum(stop - start) + (stop - start), stop - start)
    windows = np.zeros((len(at), n_before + n_after + 1), dtype=np.float32)
    windows[row, fired.code[inside] - (feature + first)[row]] = fired.value[inside]
    return windows


def bytes_per_feature(n_tokens: int, window: tuple[int, int]) -> int:
    """What is kept of a feature at most, in a text of so many tokens.

    Of 40 firings a window, and of these and 512 others what they are; its histogram, what was written where it fires,
    and its compressed page.
    """
    n_windows, n_drawn = min(N_TOP, n_tokens) + min(N_SPREAD, n_tokens), min(2 * N_DRAWN + N_JUDGED, 3 * n_tokens)
    page = 4096 * (N_TOP + N_SPREAD + n_windows) // (N_TOP + N_SPREAD)
    return 4 * (sum(window) + 1) * n_windows + 28 * (n_windows + n_drawn) + 512 + 4 * N_DIRECTIONS + page


def bin_edges() -> Float[np.ndarray, " n_edges"]:
    """Of the histograms' bins: 2^-16, 1.25 * 2^-16, ...: every octave in four equal parts."""
    octaves = 2.0 ** np.arange(_LOWEST_OCTAVE, _LOWEST_OCTAVE + N_BINS // _BINS_PER_OCTAVE)
    parts = 1 + np.arange(_BINS_PER_OCTAVE) / _BINS_PER_OCTAVE
    return np.append((octaves[:, None] * parts).ravel(), 2 * octaves[-1])


def bin_of(value: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The histogram's bin of each activation's size; what is beyond the ends is in the first or last."""
    size = np.maximum(np.abs(value.astype(np.float32)), np.finfo(np.float32).tiny)
    # exponent and the two highest bits of the mantissa
    at = (size.view(np.int32) >> 21).astype(np.int64) - _BINS_PER_OCTAVE * (127 + _LOWEST_OCTAVE)
    return np.clip(at, 0, N_BINS - 1)
