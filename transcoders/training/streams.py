"""Where training batches come from: rounds of activations, each shuffled and cut into batches."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import AttrGraphError


@dataclass(frozen=True)
class Activations:
    """What the MLPs of every layer read and write at the same tokens."""

    reads: Float[Tensor, "n_layers n_tokens d_model"]
    writes: Float[Tensor, "n_layers n_tokens d_model"]
    n_sinks: int = 0  # further tokens, which were left out because they are attention sinks

    @property
    def n_tokens(self) -> int:
        return self.reads.shape[1]

    def at(self, tokens: Tensor) -> "Activations":
        """At some of the tokens, by index or by mask."""
        return Activations(self.reads[:, tokens], self.writes[:, tokens])


@runtime_checkable
class Rounds(Protocol):
    """An endless sequence of activations; each of its rounds can be asked for again."""

    def round(self, index: int) -> Activations:
        """Round `index`; the same at every call."""
        ...


class ShuffledBatches:
    """Batches drawn without replacement from one round after another; the last incomplete one of a round is left out.

    Only one round is in memory. Its position is two numbers; `restore` goes to any position by asking for that round
    again and shuffling it in the same way.

    Args:
        rounds: where activations come from.
        batch_tokens: tokens of a batch.
        seed: of the shuffling.
    """

    def __init__(self, rounds: Rounds, *, batch_tokens: int, seed: int) -> None:
        self._rounds, self._batch_tokens, self._seed = rounds, batch_tokens, seed
        self.round_index, self.batch_index = 0, 0
        self._round: Activations | None = None
        self._order = torch.zeros(0, dtype=torch.int64)

    def next(self) -> Activations:
        """The next batch.

        Raises:
            AttrGraphError: a round has fewer tokens than a batch.
        """
        activations = self._load() if self._round is None else self._round
        start = self.batch_index * self._batch_tokens
        if start + self._batch_tokens > activations.n_tokens:
            self.restore(self.round_index + 1, 0)
            activations, start = self._load(), 0
        self.batch_index += 1
        return activations.at(self._order[start : start + self._batch_tokens])

    def restore(self, round_index: int, batch_index: int) -> None:
        """Go to a position that was read from `round_index` and `batch_index`."""
        self._round, self.round_index, self.batch_index = None, round_index, batch_index

    def _load(self) -> Activations:
        activations = self._rounds.round(self.round_index)
        if activations.n_tokens < self._batch_tokens:
            raise AttrGraphError(
                f"round {self.round_index} of activations has {activations.n_tokens} tokens, fewer than one batch "
                f"({self._batch_tokens}); give more text, or lower batch_tokens."
            )
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.round_index)
        order = torch.randperm(activations.n_tokens, generator=generator)
        self._round, self._order = activations, order.to(activations.reads.device)
        return activations
