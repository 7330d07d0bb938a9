"""What is known of the features of one layer, while a text streams by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.features.kept import Kept, random_priority

# tokens before and after the one that an example is about
WINDOW = (16, 8)
N_TOP, N_SPREAD, N_DRAWN = 20, 20, 128
# bins of a histogram: four to an octave of activations, from 2^-16 to 2^16
N_BINS, _LOWEST_OCTAVE, _BINS_PER_OCTAVE = 128, -16, 4
_ARRAYS = ("n_firings", "total", "largest", "smallest", "histogram")


@dataclass(frozen=True)
class Where:
    """Of a batch's tokens, which of the text's they are; of its rows, the document and the side of the text."""

    token: Int[np.ndarray, "n_rows n_pos"]
    document: Int[np.ndarray, " n_rows"]
    side: Int[np.ndarray, " n_rows"]


class LayerStatistics:
    """Counts, extremes, and firings that are kept: of the best documents, and as if drawn at random.

    Args:
        layer: which.
        features: those that are described, ascending.
    """

    def __init__(self, layer: int, features: Int[np.ndarray, " n"]) -> None:
        n = len(features)
        self.layer, self.features = layer, features
        self.n_firings = np.zeros((2, n), dtype=np.int64)  # by side of the text
        self.total = np.zeros((2, n))  # of activations
        self.largest = np.full(n, -np.inf, dtype=np.float32)
        self.smallest = np.full(n, np.inf, dtype=np.float32)
        self.histogram = np.zeros((n, N_BINS), dtype=np.int64)
        self.top = Kept(n, N_TOP, one_a_document=True)  # with the activations around them
        self.spread = Kept(n, N_SPREAD)  # too
        self.drawn = Kept(n, N_DRAWN)  # without
        # by side, as if drawn in proportion to their activations, without windows
        self.weighted = (Kept(n, N_DRAWN), Kept(n, N_DRAWN))

    def add(self, activations: Float[Tensor, "n_rows n_pos n"], where: Where) -> None:
        """Count a batch's activations, which are 0 at tokens that do not count."""
        row, pos, feature = (at.numpy() for at in activations.nonzero(as_tuple=True))
        value = activations[row, pos, feature].numpy()
        side, n = where.side[row], len(self.features)
        for each in range(2):
            is_on_it = side == each
            self.n_firings[each] += np.bincount(feature[is_on_it], minlength=n)
            self.total[each] += np.bincount(feature[is_on_it], np.abs(value[is_on_it]), minlength=n)
        np.maximum.at(self.largest, feature, value)
        np.minimum.at(self.smallest, feature, value)
        self.histogram += np.bincount(feature * N_BINS + bin_of(value), minlength=n * N_BINS).reshape(n, N_BINS)
        unit = (self.layer << 32) + self.features[feature]
        score = -random_priority(where.token[row, pos], unit)
        # keys of a weighted draw without replacement: Efraimidis and Spirakis 2006, algorithm A
        weighted = np.log1p(score) / np.abs(value)
        for each, kept in enumerate(self.weighted):
            _offer(kept, where, (row, pos, feature), value, weighted, np.flatnonzero(side == each))
        _offer(self.drawn, where, (row, pos, feature), value, score, np.arange(len(row)))
        _offer_windows(self.spread, activations, where, (row, pos, feature), score)
        largest, at = activations.max(1)
        row, feature = (index.numpy() for index in (largest != 0).nonzero(as_tuple=True))
        places = (row, at[row, feature].numpy(), feature)
        _offer_windows(self.top, activations, where, places, largest[row, feature].double().numpy())

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
        return list(zip(names, (self.top, self.spread, self.drawn, *self.weighted), strict=True))


def _entries(where: Where, row: np.ndarray, pos: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    return {"document": where.document[row], "token": where.token[row, pos], "value": value}


def _offer(
    kept: Kept, where: Where, places: tuple[np.ndarray, ...], value: np.ndarray, score: np.ndarray, at: np.ndarray
) -> None:
    """Offer some of the firings."""
    at = at[kept.may_be_kept(places[2][at], score[at])]
    row, pos, feature = (place[at] for place in places)
    kept.offer(feature=feature, score=score[at], **_entries(where, row, pos, value[at]))


def _offer_windows(
    kept: Kept, activations: Tensor, where: Where, places: tuple[np.ndarray, ...], score: np.ndarray
) -> None:
    """Offer firings with the activations around them; what lies outside the row is 0."""
    at = kept.may_be_kept(places[2], score)
    row, pos, feature = (place[at] for place in places)
    around = pos[:, None] + np.arange(-WINDOW[0], WINDOW[1] + 1)
    is_inside = (around >= 0) & (around < activations.shape[1])
    window = activations[row[:, None], np.where(is_inside, around, 0), feature[:, None]].numpy()
    entries = _entries(where, row, pos, activations[row, pos, feature].numpy())
    kept.offer(feature=feature, score=score[at], window=np.where(is_inside, window, 0.0) + 0.0, **entries)


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
