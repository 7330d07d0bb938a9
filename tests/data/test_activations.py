"""Activations for training: what the MLPs read and write at trained tokens, in rounds that can be asked for again."""

import pytest
import torch
from tiny import BOS, FAMILY_CONFIGS, make_model
from torch.testing import assert_close

from attrgraph.data.activations import (
    LiveRounds,
    TokenBatch,
    activations_of,
    agreement_on,
    batches_of_similar_length,
    divergence_on,
    divergence_on_rows,
    pad_rows,
)
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import replace_with


def make_rows(n_rows: int = 12) -> list[torch.Tensor]:
    """Rows of 3 to 9 tokens that begin with BOS."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.cat([torch.tensor([BOS]), torch.randint(2, 50, (2 + i % 7,), generator=generator)]) for i in range(n_rows)
    ]


@pytest.mark.parametrize("name", sorted(FAMILY_CONFIGS))
def test_activations_are_those_of_each_row_run_alone(name: str, prompt: list[int]) -> None:
    model = make_model(name)
    rows = [torch.tensor(prompt), torch.tensor(prompt[:5])]
    batch = activations_of(model, pad_rows(model, rows))
    first = 0
    for row in rows:
        run, n = model.run(row), len(row) - 1
        for layer, block in enumerate(run.blocks):
            assert_close(batch.reads[layer, first : first + n], block.mlp_stream[1:])
            written = block.written("hook_mlp_out")[1:]
            assert_close(batch.writes[layer, first : first + n], written, rtol=1e-4, atol=1e-5)
        first += n
    assert batch.n_tokens == first


def test_batches_hold_every_row_once_within_their_size() -> None:
    model, rows = make_model("llama"), make_rows()
    batches = list(batches_of_similar_length(model, rows, batch_tokens=20))
    assert all(batch.token_ids.numel() <= 20 for batch in batches)
    assert sum(int(batch.is_trained.sum()) for batch in batches) == sum(len(row) - 1 for row in rows)
    one_each = list(batches_of_similar_length(model, rows, batch_tokens=1))
    assert len(one_each) == len(rows)


def test_rounds_go_through_the_corpus_in_shuffled_epochs() -> None:
    model, rows = make_model("llama"), make_rows()
    rounds = LiveRounds(model, rows, round_tokens=25, seed=1)
    assert len(rows) % rounds.n_rows == 0 and rounds.n_rounds_per_epoch == len(rows) // rounds.n_rows
    of_epoch = [
        torch.cat([rounds.round(e * rounds.n_rounds_per_epoch + i).reads for i in range(rounds.n_rounds_per_epoch)], 1)
        for e in range(2)
    ]
    everything = activations_of(model, pad_rows(model, rows)).reads
    for reads in of_epoch:
        # the same tokens, whatever their order
        assert_close(reads.sum(-1).sort(1).values, everything.sum(-1).sort(1).values, rtol=1e-4, atol=1e-4)
    assert not torch.equal(of_epoch[0], of_epoch[1])


def test_a_round_is_the_same_whenever_it_is_asked_for() -> None:
    model, rows = make_model("llama"), make_rows()
    rounds = LiveRounds(model, rows, round_tokens=25, seed=1)
    second = rounds.round(1).writes
    rounds.round(0)
    assert torch.equal(rounds.round(1).writes, second)
    assert torch.equal(LiveRounds(model, rows, round_tokens=25, seed=1).round(1).writes, second)
    assert not torch.equal(LiveRounds(model, rows, round_tokens=25, seed=2).round(1).writes, second)


class _TrueMlps:
    """Transcoders that cheat: they give back what the MLPs wrote."""

    def __init__(self, writes: torch.Tensor, scale: float = 1.0) -> None:
        self._writes, self._scale = writes, scale

    def contributions(self, layer: int, reads: torch.Tensor) -> torch.Tensor:
        return self._scale * self._writes[layer][:, None]

    def bias(self, layer: int) -> torch.Tensor:
        return torch.zeros(self._writes.shape[2])


def test_replacing_mlps_by_their_own_output_changes_nothing(prompt: list[int]) -> None:
    model = make_model("qwen3")
    token_ids = torch.tensor([prompt])
    tokens = TokenBatch(token_ids, token_ids != BOS)
    writes = activations_of(model, tokens).writes
    exact, silent = _TrueMlps(writes), _TrueMlps(writes, scale=0.0)
    with replaced_mlps(model, replace_with(model, exact, tokens.is_trained)):
        replaced = model.logits(token_ids)
    assert_close(replaced, model.logits(token_ids))
    assert float(divergence_on(model, tokens, exact)) < 1e-6
    assert float(divergence_on(model, tokens, silent)) > 1e-3
    assert agreement_on(model, tokens, exact) == 1.0
    assert agreement_on(model, tokens, silent) < 1.0


def test_float32_dictionaries_stand_in_for_the_mlps_of_a_bfloat16_model(prompt: list[int]) -> None:
    model = make_model("llama", dtype=torch.bfloat16)
    token_ids = torch.tensor([prompt])
    tokens = TokenBatch(token_ids, token_ids != BOS)
    exact = _TrueMlps(activations_of(model, tokens).writes.float())
    assert agreement_on(model, tokens, exact) == 1.0
    kl = divergence_on(model, tokens, exact)
    assert kl.dtype == torch.float32 and float(kl) < 1e-6


def test_divergence_is_on_other_rows_at_every_step() -> None:
    model, rows = make_model("llama"), make_rows()

    class Silent(_TrueMlps):
        def contributions(self, layer: int, reads: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(reads), 1, reads.shape[1])

    silent = Silent(torch.zeros(3, 1, model.d_model))
    at_step = divergence_on_rows(model, rows, batch_tokens=10, seed=0)
    values = [float(at_step(silent, step)) for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]
