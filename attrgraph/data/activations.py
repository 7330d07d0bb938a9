"""A model's activations on rows of tokens: rounds for training transcoders, and the divergence they cause."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import divergence, replace_with
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


def pad_rows(model: LanguageModel, rows: Sequence[Tensor]) -> TokenBatch:
    """Rows of different lengths as one batch; attention is causal, so padding at the end changes nothing before it."""
    longest = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    is_trained = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        token_ids[i, : len(row)] = row
        is_trained[i, : len(row)] = True if model.bos_token_id is None else row != model.bos_token_id
    return TokenBatch(token_ids.to(model.device), is_trained.to(model.device))


def batches_of_similar_length(
    model: LanguageModel, rows: Sequence[Tensor], *, batch_tokens: int
) -> Iterator[TokenBatch]:
    """All rows, shortest first, in padded batches of at most `batch_tokens` (or one row)."""
    waiting: list[Tensor] = []
    for row in sorted(rows, key=len):
        if waiting and (len(waiting) + 1) * len(row) > batch_tokens:
            yield pad_rows(model, waiting)
            waiting = []
        waiting.append(row)
    if waiting:
        yield pad_rows(model, waiting)


@torch.no_grad()
def activations_of(model: LanguageModel, tokens: TokenBatch) -> Activations:
    """What the MLPs read (`hook_resid_mid`) and write (`hook_mlp_out`) at the batch's trained tokens; no logits."""
    reads: dict[int, Tensor] = {}
    writes: dict[int, Tensor] = {}

    def keep(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        reads[layer], writes[layer] = stream[tokens.is_trained], out[tokens.is_trained]
        return out

    with replaced_mlps(model, keep):
        model.run_body(tokens.token_ids, positions=tokens.positions, attention_mask=tokens.attention_mask)
    layers = range(model.n_layers)
    return Activations(torch.stack([reads[i] for i in layers]), torch.stack([writes[i] for i in layers]))


class LiveRounds:
    """Rounds of activations computed by the model when they are asked for, over a corpus that is shuffled every epoch.

    Args:
        model: whose activations.
        rows: token rows; two rows never see each other.
        round_tokens: about how many tokens a round has.
        batch_tokens: tokens that the model runs on at once.
        seed: of the epochs' orders.
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
        shards: Shards | None = None,
    ) -> None:
        self._model, self._rows, self._seed, self._batch_tokens = model, rows, seed, batch_tokens
        self._shards = shards or Shards()
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
        parts = []
        batches = batches_of_similar_length(self._model, self._rows_of(index), batch_tokens=self._batch_tokens)
        for number, tokens in enumerate(batches):
            owner = number % self._shards.n_ranks
            if owner == self._shards.rank:
                part = activations_of(self._model, tokens)
            else:
                shape = (self._model.n_layers, int(tokens.is_trained.sum()), self._model.d_model)
                empty = [torch.empty(shape, dtype=self._model.dtype, device=self._model.device) for _ in range(2)]
                part = Activations(*empty)
            if self._shards.n_ranks > 1:
                part = Activations(
                    self._shards.broadcast(part.reads, owner), self._shards.broadcast(part.writes, owner)
                )
            parts.append(part)
        return Activations(torch.cat([p.reads for p in parts], 1), torch.cat([p.writes for p in parts], 1))

    def _rows_of(self, index: int) -> list[Tensor]:
        """The rows of a round: a stretch of the endless sequence of shuffled epochs."""
        orders: dict[int, list[int]] = {}
        chosen = []
        for position in range(index * self.n_rows, (index + 1) * self.n_rows):
            epoch, place = divmod(position, len(self._rows))
            if epoch not in orders:
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
                orders[epoch] = torch.randperm(len(self._rows), generator=generator).tolist()
            chosen.append(self._rows[orders[epoch][place]])
        return chosen


def divergence_on(model: LanguageModel, tokens: TokenBatch, dictionary: FeatureDictionary) -> Float[Tensor, ""]:
    """Mean KL(model || replacement model) at trained tokens: every MLP there replaced, attention live, gradients on."""
    with torch.no_grad():
        expected = _logits(model, tokens)[tokens.is_trained]
    with replaced_mlps(model, replace_with(dictionary, tokens.is_trained)):
        return divergence(expected, _logits(model, tokens)[tokens.is_trained]).mean()


@torch.no_grad()
def agreement_on(model: LanguageModel, tokens: TokenBatch, dictionary: FeatureDictionary) -> float:
    """Share of trained tokens at which model and replacement model prefer the same next token."""
    expected = _logits(model, tokens).argmax(-1)
    with replaced_mlps(model, replace_with(dictionary, tokens.is_trained)):
        agrees = expected == _logits(model, tokens).argmax(-1)
    return float(agrees[tokens.is_trained].float().mean())


def divergence_on_rows(model: LanguageModel, rows: Sequence[Tensor], *, batch_tokens: int, seed: int) -> Divergence:
    """For training: the divergence on rows drawn at random at each step, about `batch_tokens` tokens of them."""

    def at_step(dictionary: FeatureDictionary, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen: list[Tensor] = []
        while sum(len(row) for row in chosen) < batch_tokens:
            row = rows[int(torch.randint(len(rows), (), generator=generator))]
            chosen.append(row[:batch_tokens])  # one long row among short ones would pad them all to its length
        return divergence_on(model, pad_rows(model, chosen), dictionary)

    return at_step


def _logits(model: LanguageModel, tokens: TokenBatch) -> Tensor:
    return model.logits(tokens.token_ids, positions=tokens.positions, attention_mask=tokens.attention_mask)
