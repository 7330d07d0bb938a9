"""What a rule may name at each token of a text, and how often each value of it is there."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from attrgraph.features.kept import token_priority
from attrgraph.features.sides import Text

OFFSETS = {"token": 0, "previous": -1, "next": 1}
# so many tokens that end with the current one
ENDINGS = {"last 2": 2, "last 3": 3, "last 4": 4}
_NOTHING = -1


class TextCounts:
    """How often each value of each kind is there on each side of a text."""

    def __init__(
        self,
        text: Text,
        is_counted: Bool[np.ndarray, " n_tokens"],
        said: Int[np.ndarray, " n_tokens"],
        n_vocab: int,
    ) -> None:
        self._ids = text.token_ids
        lengths = np.diff([*text.begin, len(text.token_ids)])
        row = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(row)) - text.begin[row]
        self._values = {"position": position, "says": said, "answer": said}
        for kind, offset in OFFSETS.items():
            at = np.arange(len(row)) + offset
            inside = at.clip(0, len(row) - 1)
            is_there = (at == inside) & (row[inside] == row)
            self._values[kind] = np.where(is_there, text.token_ids[inside], _NOTHING)
        self._values["promotes"] = self._values["next"]
        self._first: dict[str, np.ndarray] = {}  # of each ending, where it is for the first time
        ending = text.token_ids.astype(np.int64)
        for n, kind in enumerate(ENDINGS, start=2):
            ending = np.where(position >= n - 1, np.roll(ending, 1) * n_vocab + text.token_ids, _NOTHING)
            different, first, ending = np.unique(ending, return_index=True, return_inverse=True)
            n_nothing = int(len(different) > 0 and different[0] == _NOTHING)
            self._values[kind], self._first[kind] = ending - n_nothing, first[n_nothing:]
            ending = self._values[kind]
        side = text.side[row]
        self._judged = np.flatnonzero(is_counted & (side == 1))
        self._priority = token_priority(self._judged)
        self._in_order = np.sort(self._priority)
        self.n_tokens = [int((is_counted & (side == 0)).sum()), len(self._judged)]
        n_values = max(n_vocab, int(lengths.max(initial=1)))
        self._counts = {
            kind: [
                np.bincount(
                    values[is_counted & (side == each)] + 1, minlength=len(self._first.get(kind, range(n_values))) + 2
                )[1:]
                for each in range(2)
            ]
            for kind, values in self._values.items()
        }
        self._by_count: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._by_value: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, kind: str, token: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The values of tokens, by their number in the text; -1 where there is none."""
        found: np.ndarray = self._values[kind][token]
        return found

    def count(self, kind: str, side: int, values: Sequence[int] | np.ndarray) -> Int[np.ndarray, " n"]:
        """How many counted tokens of a side have each value."""
        found: np.ndarray = self._counts[kind][side][np.asarray(values, dtype=int)]
        return found

    def n_below(self, below: float) -> int:
        """How many tokens of the judged side have a priority below this bound."""
        return int(np.searchsorted(self._in_order, below))

    def count_below(self, kind: str, values: Sequence[int], below: float) -> Int[np.ndarray, " n"]:
        """How many tokens of the judged side with a priority below this bound have each value."""
        if below > 1:
            return self.count(kind, 1, values)
        if kind not in self._by_value:
            of_tokens = self._values[kind][self._judged]
            order = np.lexsort((self._priority, of_tokens))[int((of_tokens < 0).sum()) :]
            self._by_value[kind] = np.r_[0, np.cumsum(self._counts[kind][1])], self._priority[order]
        start, priority = self._by_value[kind]
        return np.array([np.searchsorted(priority[start[value] : start[value + 1]], below) for value in values])

    def tokens_of(self, kind: str, value: int) -> list[int]:
        """The ids of the tokens that a value stands for."""
        if kind not in ENDINGS:
            return [value]
        last = int(self._first[kind][value])
        return [int(i) for i in self._ids[last - ENDINGS[kind] + 1 : last + 1]]

    def like(self, kind: str, values: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        """As many other values that are about as frequent."""
        if kind not in self._by_count:
            counts = self._counts[kind][0]
            order = np.argsort(counts, kind="stable")
            order, place = order[counts[order] > 0], np.zeros(len(counts), dtype=int)
            place[order] = np.arange(len(order))
            self._by_count[kind] = order, place
        order, place = self._by_count[kind]
        chosen: list[int] = []
        for value in values:
            near = place[value] + rng.permutation(np.r_[-10:0, 1:11])
            candidates = [int(order[at]) for at in near if 0 <= at < len(order)]
            chosen += [one for one in candidates if one not in values and one not in chosen][:1]
        return tuple(chosen)
