"""The trainer: it learns what can be learned, exports the same function, and is reproducible."""

from collections.abc import Iterator

import pytest
import torch
from tiny import BOS, make_model
from torch.testing import assert_close

from attrgraph.activations import TokenBatch, activation_batch
from attrgraph.errors import AttrGraphError, ResultError
from attrgraph.live_replacement import live_replacement_logits
from attrgraph.transcoders.train import ActivationBatch, TrainableTranscoders, TrainConfig, train_transcoders

N_LAYERS, D_MODEL = 2, 16


def sparse_world(seed: int, *, scale: float = 1.0) -> Iterator[ActivationBatch]:
    """Reads made of few directions out of 12; a layer's writes are a fixed map of its own and the lower layer's."""
    fixed = torch.Generator().manual_seed(1)
    directions = torch.randn(12, D_MODEL, generator=fixed)
    maps = torch.randn(N_LAYERS, N_LAYERS, 12, D_MODEL, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        on = (torch.rand(N_LAYERS, 256, 12, generator=generator) < 0.1).float() * scale
        reads = [on[layer] @ directions + 3.0 for layer in range(N_LAYERS)]
        writes = [sum(on[lower] @ maps[lower, layer] for lower in range(layer + 1)) for layer in range(N_LAYERS)]
        yield ActivationBatch(reads, [y + 5.0 for y in writes])


def train(**changes: object) -> TrainableTranscoders:
    settings: dict[str, object] = {"n_features": 32, "k": 4, "n_steps": 400, "learning_rate": 3e-3} | changes
    return train_transcoders(sparse_world(0), TrainConfig(**settings))


def nmse(transcoders: object, batch: ActivationBatch) -> list[float]:
    errors = []
    for layer, y in enumerate(batch.writes):
        parts = [transcoders.contributions(source, batch.reads[source]) for source in range(layer + 1)]
        out = transcoders.bias(layer) + sum(
            part[:, layer - source] for source, part in enumerate(parts) if layer - source < part.shape[1]
        )
        errors.append(float((out - y).square().sum() / (y - y.mean(0)).square().sum()))
    return errors


@pytest.fixture(scope="module")
def cross_layer() -> TrainableTranscoders:
    return train()


def test_cross_layer_learns_what_per_layer_cannot(cross_layer: TrainableTranscoders) -> None:
    batch = next(sparse_world(9))
    ours = nmse(cross_layer.export("toy"), batch)
    assert max(ours) < 0.15
    per_layer = nmse(train(is_cross_layer=False).export("toy"), batch)
    assert per_layer[0] < 0.15
    # half of layer 1's variance is written by features that read at layer 0
    assert per_layer[1] > 0.3


def test_export_is_the_same_function(cross_layer: TrainableTranscoders) -> None:
    exported, batch = cross_layer.export("toy"), next(sparse_world(9))
    assert exported.config.k == 4 and exported.config.is_cross_layer
    for layer, read in enumerate(batch.reads):
        with torch.no_grad():
            assert_close(
                exported.contributions(layer, read), cross_layer.contributions(layer, read), rtol=1e-4, atol=1e-4
            )
            assert_close(exported.bias(layer), cross_layer.bias(layer))


def test_training_is_reproducible_and_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train(n_steps=20)
    assert torch.equal(torch.rand(3), expected)
    for ours, theirs in zip(first.parameters(), train(n_steps=20).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.W_enc[0], train(n_steps=20, seed=1).W_enc[0])


def test_only_the_auxiliary_loss_moves_features_that_never_fire() -> None:
    def n_never_moved(dead_weight: float) -> int:
        trained = train(n_features=1024, k=1, n_steps=60, dead_after=20, dead_weight=dead_weight)
        return sum(int((W_dec == 0).all(1).sum()) for W_dec in trained.W_dec)

    # the rest read nothing positive on any token, so nothing can move them
    assert n_never_moved(1 / 32) < 0.5 * n_never_moved(0.0)


def test_batches_of_a_model_hold_what_its_mlps_read_and_write(prompt: list[int]) -> None:
    model = make_model("gemma2")
    token_ids = torch.tensor([prompt, prompt[:5] + [0] * 4])
    is_trained = (token_ids != BOS) & (token_ids != 0)
    batch = activation_batch(model, TokenBatch(token_ids, is_trained))
    run = model.run(torch.tensor(prompt))
    for layer, block in enumerate(run.blocks):
        n = len(prompt) - 1
        assert_close(batch.reads[layer][:n], block.mlp_stream[1:])
        assert_close(batch.writes[layer][:n], block.written("hook_mlp_out")[1:], rtol=1e-4, atol=1e-5)


class _TrueMlps:
    """Transcoders that cheat: they give back what the MLPs wrote."""

    def __init__(self, writes: list[torch.Tensor], scale: float = 1.0) -> None:
        self._writes, self._scale = writes, scale

    def contributions(self, layer: int, reads: torch.Tensor) -> torch.Tensor:
        return self._scale * self._writes[layer][:, None]

    def bias(self, layer: int) -> torch.Tensor:
        return torch.zeros(self._writes[layer].shape[1])


def test_replacing_mlps_by_their_own_output_changes_nothing(prompt: list[int]) -> None:
    model = make_model("qwen3")
    token_ids = torch.tensor([prompt])
    batch = activation_batch(model, TokenBatch(token_ids, token_ids != BOS))
    exact = _TrueMlps(list(batch.writes))
    expected = model.hf_model(input_ids=token_ids).logits
    assert_close(live_replacement_logits(model, exact, token_ids), expected)
    assert batch.divergence is not None
    assert float(batch.divergence(exact)) < 1e-6
    assert float(batch.divergence(_TrueMlps(list(batch.writes), scale=0.0))) > 1e-3


@pytest.mark.refusal
def test_loss_that_is_not_finite_names_the_step() -> None:
    def poisoned() -> Iterator[ActivationBatch]:
        for i, batch in enumerate(sparse_world(0)):
            yield batch if i < 10 else ActivationBatch(batch.reads, [y * torch.nan for y in batch.writes])

    with pytest.raises(ResultError, match="not finite at step 6"):
        train_transcoders(poisoned(), TrainConfig(n_features=16, k=2, n_steps=50))


@pytest.mark.refusal
def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(AttrGraphError, match="k is 9; expected at least 1 and at most n_features, 8"):
        TrainConfig(n_features=8, k=9)
    with pytest.raises(AttrGraphError, match="n_warmup must be at least 1"):
        TrainConfig(n_warmup=0)
