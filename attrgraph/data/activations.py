"""A model's activations on rows of tokens: rounds for training transcoders, and the divergence they cause."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import divergence, replace_with
from attrgraph.models.special import SkipPositions, find_sinks, text_mask
from attrgraph.models.weights import stored_weights
from attrgraph.transcoders.finite import not_finite
from attrgraph.transcoders.training.parameters import FeatureDictionary
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.trainer import Divergence


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens. Without positions and mask each row is one text from its beginning, padded at its end."""

    token_ids: Int[Tensor, "n_rows n_pos"]
    is_trained: Bool[Tensor, "n_rows n_pos"]  # neither padding nor BOS: tokens whose MLPs transcoders replace
    positions: Int[Tensor, "n_rows n_pos"] | None = None
    attention_mask: Float[Tensor, "n_rows 1 n_pos n_pos"] | None = None  # added to attention scores
    skip_positions: SkipPositions = "auto"  # with "auto", attention sinks are left out too when the model has run

    def without_sinks(self, lengths: Sequence[Float[Tensor, "n_rows n_pos"]]) -> "TokenBatch":
        """The same without attention sinks, by the lengths of the streams that MLPs read."""
        return replace(self, is_trained=self.is_trained & ~find_sinks(lengths, self.is_trained, self.skip_positions))


def pad_rows(model: LanguageModel, rows: Sequence[Tensor], skip_positions: SkipPositions = "auto") -> TokenBatch:
    """Rows of different lengths as one batch; attention is causal, so padding at the end changes nothing before it."""
    token_ids = pad_sequence(list(rows), batch_first=True)
    is_trained = pad_sequence([text_mask(model, row, skip_positions) for row in rows], batch_first=True)
    return TokenBatch(token_ids.to(model.device), is_trained.to(model.device), skip_positions=skip_positions)


def batches_by_length(rows: Sequence[Tensor], batch_tokens: int, *, longest_first: bool = False) -> list[list[int]]:
    """Indices of all rows, by length, in batches of at most `batch_tokens` tokens with padding (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=longest_first):
        # the longest row of a batch is its first or its last
        if batches and (len(batches[-1]) + 1) * max(len(rows[i]), len(rows[batches[-1][0]])) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def batches_of_similar_length(
    model: LanguageModel,
    rows: Sequence[Tensor],
    *,
    batch_tokens: int,
    longest_first: bool = False,
    skip_positions: SkipPositions = "auto",
) -> Iterator[TokenBatch]:
    """The batches of `batches_by_length`, padded."""
    batches = batches_by_length(rows, batch_tokens, longest_first=longest_first)
    return (pad_rows(model, [rows[i] for i in batch], skip_positions) for batch in batches)


@torch.no_grad()
def activations_of(model: LanguageModel, tokens: TokenBatch) -> Activations:
    """What the MLPs read (`hook_resid_mid`) and write (`hook_mlp_out`) at the batch's trained tokens; no logits."""
    reads, writes, lengths = list[Tensor](), list[Tensor](), list[Tensor]()

    def keep(_: int, stream: Tensor, out: Tensor) -> Tensor:
        lengths.append(stream.float().norm(dim=-1))
        reads.append(stream[tokens.is_trained])
        writes.append(out[tokens.is_trained])
        return out

    with replaced_mlps(model, keep):
        model.run_body(tokens.token_ids, position_ids=tokens.positions, attention_mask=tokens.attention_mask)
    found = Activations(torch.stack(reads), torch.stack(writes))
    # float64 holds the sum of any number of float32 values
    if not all(bool(torch.isfinite(x.sum(dtype=torch.float64))) for x in (found.reads, found.writes)):
        raise not_finite("the model's activations", "the model", stored_weights(model.hf_model), model.dtype)
    is_kept = tokens.without_sinks(lengths).is_trained[tokens.is_trained]
    return found if bool(is_kept.all()) else replace(found.at(is_kept), n_sinks=int((~is_kept).sum()))


class LiveRounds:
    """Rounds of activations computed by the model when they are asked for, over a corpus that is shuffled every epoch.

    Args:
        model: whose activations.
        rows: token rows; two rows never see each other.
        round_tokens: about how many tokens a round has.
        batch_tokens: tokens that the model runs on at once.
        seed: of the epochs' orders.
        skip_positions: of rows, see `text_mask`; with "auto", attention sinks are left out and counted.
        shards: each process runs the model on its share of the batches and receives the others'.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: Sequence[Tensor],
        *,
        round_tokens: int,
        batch_tokens: int = 4096,
        seed: int = 0,
        skip_positions: SkipPositions = "auto",
        shards: Shards | None = None,
    ) -> None:
        model.check_state()
        self._model, self._rows, self._seed, self._batch_tokens = model, rows, seed, batch_tokens
        self._skip_positions, self._shards = skip_positions, shards or Shards()
        self._order_of = lru_cache(maxsize=2)(self._shuffled)  # a round touches two epochs at most
        mean_length = sum(len(row) for row in rows) / len(rows)
        # of a round; its tokens vary a little
        self.n_rows = max(1, min(int(round_tokens / mean_length), len(rows)))
        self._last: tuple[int, Activations] | None = None

    @property
    def n_rounds_per_epoch(self) -> int:
        """Rounds that hold every row once; the last of them already begins the next epoch unless it comes out even."""
        return -(-len(self._rows) // self.n_rows)

    def round(self, index: int) -> Activations:
        if self._last is None or self._last[0] != index:
            self._last = None  # free one round before the next is computed
            self._last = index, self._compute(index)
        return self._last[1]

    def _compute(self, index: int) -> Activations:
        reads, writes, n_sinks = [], [], 0
        batches = batches_of_similar_length(
            self._model,
            self._rows_of(index),
            batch_tokens=self._batch_tokens,
            skip_positions=self._skip_positions,
        )
        for number, tokens in enumerate(batches):
            owner = number % self._shards.n_ranks
            part = activations_of(self._model, tokens) if owner == self._shards.rank else None
            counts = torch.tensor([0, 0] if part is None else [part.n_tokens, part.n_sinks], device=self._model.device)
            n_tokens, n_left_out = self._shards.broadcast(counts, owner).tolist()
            if part is None:
                shape = (2, self._model.n_layers, n_tokens, self._model.d_model)
                part = Activations(*torch.empty(shape, dtype=self._model.dtype, device=self._model.device))
            reads.append(self._shards.broadcast(part.reads, owner))
            writes.append(self._shards.broadcast(part.writes, owner))
            n_sinks += n_left_out
        return Activations(torch.cat(reads, 1), torch.cat(writes, 1), n_sinks)

    def _rows_of(self, index: int) -> list[Tensor]:
        """The rows of a round: a stretch of the endless sequence of shuffled epochs."""
        n, start = len(self._rows), index * self.n_rows
        end = start + self.n_rows
        parts = [
            self._order_of(epoch)[max(start - epoch * n, 0) : end - epoch * n]
            for epoch in range(start // n, (end - 1) // n + 1)
        ]
        return [self._rows[i] for i in torch.cat(parts).tolist()]

    def _shuffled(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        return torch.randperm(len(self._rows), generator=generator)


def trained_logits(model: LanguageModel, tokens: TokenBatch) -> Float[Tensor, "n_tokens d_vocab"]:
    """Of the next token, after each of the batch's trained tokens."""
    logits = model.logits(tokens.token_ids, position_ids=tokens.positions, attention_mask=tokens.attention_mask)
    return logits[tokens.is_trained]


@contextmanager
def stream_lengths(model: LanguageModel) -> Iterator[list[Tensor]]:
    """While the model runs, collects the length of what each MLP reads at every token."""
    lengths = list[Tensor]()

    def keep(_: int, stream: Tensor, out: Tensor) -> Tensor:
        lengths.append(stream.float().norm(dim=-1))
        return out

    with replaced_mlps(model, keep):
        yield lengths


@torch.no_grad()
def true_logits(model: LanguageModel, tokens: TokenBatch) -> tuple[Float[Tensor, "n_tokens d_vocab"], TokenBatch]:
    """The model's answers at the batch's trained tokens without sinks, and the batch without them."""
    with stream_lengths(model) as lengths:
        logits = trained_logits(model, tokens)
    kept = tokens.without_sinks(lengths)
    return logits[kept.is_trained[tokens.is_trained]], kept


def divergence_on(model: LanguageModel, tokens: TokenBatch, dictionary: FeatureDictionary) -> Float[Tensor, ""]:
    """Mean KL(model || replacement model) at trained tokens: every MLP there replaced, attention live, gradients on."""
    expected, tokens = true_logits(model, tokens)
    with replaced_mlps(model, replace_with(model, dictionary, tokens.is_trained)):
        return divergence(expected, trained_logits(model, tokens)).mean()


@torch.no_grad()
def agreement_on(model: LanguageModel, tokens: TokenBatch, dictionary: FeatureDictionary) -> float:
    """Share of trained tokens at which model and replacement model prefer the same next token."""
    expected, tokens = true_logits(model, tokens)
    with replaced_mlps(model, replace_with(model, dictionary, tokens.is_trained)):
        return float((expected.argmax(-1) == trained_logits(model, tokens).argmax(-1)).float().mean())


def divergence_on_rows(
    model: LanguageModel,
    rows: Sequence[Tensor],
    *,
    batch_tokens: int,
    seed: int,
    skip_positions: SkipPositions = "auto",
) -> Divergence:
    """For training: the divergence on rows drawn at random at each step, about `batch_tokens` tokens of them."""

    def at_step(dictionary: FeatureDictionary, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen: list[Tensor] = []
        while sum(len(row) for row in chosen) < batch_tokens:
            row = rows[int(torch.randint(len(rows), (), generator=generator))]
            chosen.append(row[:batch_tokens])  # one long row among short ones would pad them all to its length
        return divergence_on(model, pad_rows(model, chosen, skip_positions), dictionary)

    return at_step
