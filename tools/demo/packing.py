"""Sentences packed into rows of tokens: each attends to itself alone, and positions restart at every `<bos>`."""

import random
from dataclasses import dataclass

import draws
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.data.activations import TokenBatch
from attrgraph.demo import world

# 48 tokens hold three to six sentences: little padding without long rows of attention
ROW_LENGTH = 48
# words that nothing determines still teach which words follow which, at a fraction of the weight
WEIGHT_OF_FREE_WORDS = 0.2
# added to attention scores where a word must not look
_BLOCKED = -1e9


@dataclass(frozen=True)
class PackedBatch:
    """Rows of `ROW_LENGTH` tokens with what to learn from each."""

    tokens: TokenBatch
    weights: Float[Tensor, "n_rows n_pos"]  # of predicting this token; 0 for padding and <bos>


class SentencePacker:
    """An endless, seeded stream of packed batches of sentences that are not held out."""

    def __init__(self, mix: dict[str, int], *, n_rows: int, seed: int) -> None:
        self._mix, self._n_rows = mix, n_rows
        self._rng = random.Random(seed)
        self._waiting: list[world.Sentence] = []

    def next_batch(self) -> PackedBatch:
        rows = [self._fill_row() for _ in range(self._n_rows)]
        n_pos = ROW_LENGTH
        token_ids = torch.full((self._n_rows, n_pos), world.TOKEN_ID[world.PAD])
        positions = torch.zeros(self._n_rows, n_pos, dtype=torch.int64)
        sentence_of = torch.full((self._n_rows, n_pos), -1)
        weights = torch.zeros(self._n_rows, n_pos)
        for row, sentences in enumerate(rows):
            start = 0
            for number, sentence in enumerate(sentences):
                end = start + len(sentence.words)
                token_ids[row, start:end] = torch.tensor([world.TOKEN_ID[word] for word in sentence.words])
                positions[row, start:end] = torch.arange(end - start)
                sentence_of[row, start:end] = number
                weights[row, start + 1 : end] = WEIGHT_OF_FREE_WORDS
                weights[row, [start + answer for answer in sentence.answers]] = 1.0
                start = end
        is_causal = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
        may_look = (sentence_of[:, :, None] == sentence_of[:, None, :]) & is_causal
        mask = torch.zeros(self._n_rows, 1, n_pos, n_pos).masked_fill_(~may_look[:, None], _BLOCKED)
        return PackedBatch(TokenBatch(token_ids, weights > 0, positions, mask), weights)

    def _fill_row(self) -> list[world.Sentence]:
        """Whole sentences that fit one row, taken in order; one that does not fit waits for the next row."""
        while len(self._waiting) < 40:
            self._waiting.append(draws.sample(self._rng, self._mix))
        row: list[world.Sentence] = []
        room, kept_waiting = ROW_LENGTH, []
        for sentence in self._waiting:
            if len(sentence.words) <= room:
                row.append(sentence)
                room -= len(sentence.words)
            else:
                kept_waiting.append(sentence)
        self._waiting = kept_waiting
        return row


def ids_of(sentences: list[world.Sentence]) -> list[Int[Tensor, " _n_pos"]]:
    """Token ids, a row for each sentence; `pad_rows` makes a batch of them."""
    return [torch.tensor([world.TOKEN_ID[word] for word in sentence.words]) for sentence in sentences]
