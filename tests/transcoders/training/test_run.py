"""Whole runs on a small world: what can be learned is, L0 is held, a stopped run goes on as if it had not stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from toy import D_MODEL, N_LAYERS, SparseWorld, l0, nmse

from attrgraph.errors import AttrGraphError, TrainingError
from attrgraph.transcoders import Transcoders
from attrgraph.transcoders.training.checkpoint import CheckpointFolder
from attrgraph.transcoders.training.export import export_transcoders
from attrgraph.transcoders.training.parameters import TrainableTranscoders
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.train_config import TrainConfig
from attrgraph.transcoders.training.trainer import Hooks, train_transcoders

FRESH = SparseWorld(seed=9)


def make_config(**changes: Any) -> TrainConfig:
    settings = {"n_features": 32, "l0": 3.0, "n_tokens": 60_000, "batch_tokens": 256, "learning_rate": 3e-3}
    return TrainConfig(**(settings | {"dead_after": 5_000, "n_dead_active": 2} | changes))


def train(world: SparseWorld | None = None, hooks: Hooks | None = None, **changes: Any) -> TrainableTranscoders:
    return train_transcoders(world or SparseWorld(), make_config(**changes), hooks=hooks)


def export(trained: TrainableTranscoders) -> Transcoders:
    return export_transcoders(trained, SparseWorld().round(0), "toy")


@pytest.fixture(scope="module", params=["batchtopk", "topk", "jumprelu", "relu"])
def trained(request: pytest.FixtureRequest) -> TrainableTranscoders:
    is_choosing = request.param.endswith("topk")
    # three a token are 1.2 causes a layer on average; a fixed number a token has to leave room for tokens with more
    l0 = 8.0 if request.param == "topk" else 3.0
    return train(activation=request.param, l0=l0, n_tokens=60_000 if is_choosing else 130_000)


def test_every_kind_learns_and_has_as_many_active_features_as_asked(trained: TrainableTranscoders) -> None:
    exported, batch = export(trained), FRESH.round(0)
    kind = trained.config.activation
    # L1 shrinks what it keeps
    limit = {"batchtopk": 0.15, "topk": 0.3, "jumprelu": 0.2, "relu": 0.9}[kind]
    assert max(nmse(exported, batch)) < limit, (kind, nmse(exported, batch))
    assert sum(l0(exported, batch)) == pytest.approx(trained.config.l0, rel=0.05), kind


def test_cross_layer_learns_what_per_layer_cannot() -> None:
    per_layer = nmse(export(train(is_cross_layer=False)), FRESH.round(0))
    assert per_layer[0] < 0.15
    # half of layer 1's variance is written by features that read at layer 0
    assert per_layer[1] > 0.3


def test_exported_set_has_the_features_of_training_at_the_same_tokens(trained: TrainableTranscoders) -> None:
    exported, batch = export(trained), FRESH.round(0)
    for layer, reads in enumerate(batch.reads):
        pairs = trained.causal_pairs(layer, trained.normalised_reads(layer, reads))
        ours = exported.encode_layer(layer, reads) > 0
        theirs = torch.zeros_like(ours)
        theirs[pairs.tokens, pairs.features] = True
        # neither one threshold for both layers, nor what the controller left is calibrated
        most_different = {"relu": 1e-4, "jumprelu": 0.02, "batchtopk": 0.01, "topk": 1e-3}[trained.config.activation]
        assert float((ours != theirs).float().mean()) < most_different
        both = ours & theirs
        values = trained.values(layer, trained.normalised_reads(layer, reads), pairs).detach()
        dense = torch.zeros(ours.shape).index_put((pairs.tokens, pairs.features), values)
        scaled = dense * trained.score_weights(layer)
        assert_close(exported.encode_layer(layer, reads)[both], scaled[both], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_cross_layer", [True, False])
def test_topk_stays_topk_and_is_the_same_function(is_cross_layer: bool) -> None:
    trained = train(activation="topk", is_cross_layer=is_cross_layer, l0=4.0, n_tokens=10_240)
    exported, batch = export(trained), FRESH.round(0)
    assert exported.config.k == 2 and exported.layers[0].threshold is None
    for layer, reads in enumerate(batch.reads):
        with torch.no_grad():
            expected = trained.contributions(layer, reads)
        assert_close(exported.contributions(layer, reads), expected, rtol=1e-4, atol=1e-4)
        assert_close(exported.bias(layer), trained.bias(layer).detach())


def test_batchtopk_becomes_jumprelu_with_one_threshold_a_layer() -> None:
    exported = export(train(n_tokens=10_240))
    assert exported.config.k is None and exported.config.is_cross_layer
    for weights in exported.layers:
        assert weights.threshold is not None
        assert bool((weights.threshold == weights.threshold[0]).all()) and weights.threshold[0] > 0


def test_runs_are_reproducible_and_leave_the_global_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train(n_tokens=5_120)
    assert torch.equal(torch.rand(3), expected)
    for ours, theirs in zip(first.parameters(), train(n_tokens=5_120).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.W_enc[0], train(n_tokens=5_120, seed=1).W_enc[0])


class _InDouble(SparseWorld):
    """As a model in float64 gives them."""

    def round(self, index: int) -> Activations:
        found = super().round(index)
        return Activations(found.reads.double(), found.writes.double())


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
def test_activations_in_double_precision_train_the_same_set(activation: str) -> None:
    single, double = (train(world, n_tokens=5_120, activation=activation) for world in (SparseWorld(), _InDouble()))
    assert_close(double.W_dec[0], single.W_dec[0], rtol=1e-4, atol=1e-5)
    assert double.W_enc[0].dtype == torch.float32


class _StopError(Exception):
    pass


@pytest.mark.parametrize(
    ("activation", "optimizer"), [("batchtopk", "dense"), ("batchtopk", "lazy"), ("jumprelu", "dense")]
)
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path: Path, activation: str, optimizer: str) -> None:
    settings = {"n_tokens": 25_600, "activation": activation, "optimizer": optimizer, "dead_after": 2_000}
    whole: list[dict[str, Any]] = []
    expected = train(hooks=Hooks(report=lambda _, record: whole.append(record)), **settings)

    def stop(_: object, record: dict[str, Any]) -> None:
        if record["step"] == 80:
            raise _StopError

    folder = CheckpointFolder(tmp_path, Shards())
    with pytest.raises(_StopError):
        train(hooks=Hooks(report=stop, checkpoints=folder, checkpoint_every_s=0.0), **settings)
    assert folder.newest_step() == 70
    rest: list[dict[str, Any]] = []
    hooks = Hooks(report=lambda _, record: rest.append(record), checkpoints=folder, is_resuming=True)
    resumed = train(hooks=hooks, **settings)
    assert [r["loss"] for r in rest] == [r["loss"] for r in whole if r["step"] > 70]
    for (name, ours), theirs in zip(resumed.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_checkpoints_are_whole_or_not_there(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Shards())
    (tmp_path / "partial-checkpoint-000000900").mkdir()  # what a killed process leaves
    train(hooks=Hooks(checkpoints=folder, checkpoint_every_s=0.0), n_tokens=10_240)
    assert folder.newest_step() == 40
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-000000040"]


def test_records_hold_what_one_looks_at() -> None:
    records: list[dict[str, Any]] = []
    train(hooks=Hooks(report=lambda _, record: records.append(record)), n_tokens=10_240)
    assert [record["step"] for record in records] == [20, 40]
    last = records[-1]
    assert last["tokens"] == 10_240 and last["l0"] == pytest.approx(3.0, rel=0.01)
    assert last["nmse"] == pytest.approx(sum(last["nmse_by_layer"]) / N_LAYERS)


def test_tokens_weigh_by_their_length_only_if_asked() -> None:
    plain, weighted = train(n_tokens=5_120), train(n_tokens=5_120, token_weight_exponent=0.5)
    assert not torch.equal(plain.W_dec[0], weighted.W_dec[0])


def test_divergence_counts_in_the_last_share_of_the_run() -> None:
    steps: list[int] = []

    def divergence(dictionary: Any, step: int) -> torch.Tensor:
        steps.append(step)
        return sum(dictionary.contributions(i, torch.ones(3, D_MODEL)).square().sum() for i in range(N_LAYERS))

    config = make_config(n_tokens=25_600, kl_weight=0.1, kl_share=0.2)
    with_it = train_transcoders(SparseWorld(), config, divergence=divergence)
    assert steps == list(range(81, 100))  # at its very beginning its weight is zero
    assert not torch.equal(with_it.W_dec[0], train(n_tokens=25_600).W_dec[0])


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    hooks = Hooks(checkpoints=CheckpointFolder(tmp_path, Shards()), is_resuming=True)
    resumed, expected = train(hooks=hooks, n_tokens=5_120), train(n_tokens=5_120)
    assert torch.equal(resumed.W_dec[0], expected.W_dec[0])


@pytest.mark.refusal
def test_activations_that_are_not_finite_are_refused_at_once() -> None:
    with pytest.raises(TrainingError, match="activations of the first rounds are not finite"):
        train(SparseWorld(poisoned_round=0))


@pytest.mark.refusal
def test_a_divergence_that_is_not_finite_stops_before_a_checkpoint_is_spoilt(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Shards())

    def divergence(dictionary: Any, step: int) -> torch.Tensor:
        return dictionary.contributions(0, torch.ones(3, D_MODEL)).sum() * (torch.nan if step == 29 else 0.0)

    hooks = Hooks(checkpoints=folder, checkpoint_every_s=0.0)
    config = make_config(n_tokens=25_600, kl_weight=1.0, kl_share=1.0)
    with pytest.raises(TrainingError, match=r"loss is nan .* at step 29, .*checkpoint-0+20\."):
        train_transcoders(SparseWorld(), config, hooks=hooks, divergence=divergence)


@pytest.mark.refusal
def test_loss_that_is_not_finite_names_step_batch_and_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Shards())
    with pytest.raises(
        TrainingError, match=r"loss is nan .* at step 1[45]\d, round 7, batch \d+; .*checkpoint-0+1[45]0\."
    ):
        # means and scales come from the first seven rounds
        train(SparseWorld(poisoned_round=7, n_tokens=5_200), Hooks(checkpoints=folder, checkpoint_every_s=0.0))


@pytest.mark.refusal
def test_loss_that_explodes_stops_the_run() -> None:
    with pytest.raises(TrainingError, match=r"NMSE .* at step .*the last checkpoint is none. Lower learning_rate"):
        train(learning_rate=1e4, max_gradient_norm=1e9)


@pytest.mark.refusal
def test_resuming_refuses_what_does_not_fit(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Shards())
    train(hooks=Hooks(checkpoints=folder, checkpoint_every_s=0.0), n_tokens=10_240)
    with pytest.raises(TrainingError, match=r"other settings \(l0, seed\)"):
        train(hooks=Hooks(checkpoints=folder, is_resuming=True), n_tokens=10_240, l0=4.0, seed=2)
    state = folder.newest() / "state.json"  # type: ignore[operator]
    state.write_text(state.read_text().replace('"n_ranks": 1', '"n_ranks": 4'))
    with pytest.raises(TrainingError, match="written by 4 processes"):
        train(hooks=Hooks(checkpoints=folder, is_resuming=True), n_tokens=10_240)
    state.write_text("{")
    with pytest.raises(TrainingError, match="not a whole checkpoint"):
        train(hooks=Hooks(checkpoints=folder, is_resuming=True), n_tokens=10_240)


@pytest.mark.refusal
def test_checkpoint_that_cannot_be_written_names_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, Shards())
    train(hooks=Hooks(checkpoints=folder, checkpoint_every_s=0.0), n_tokens=2_560)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attrgraph.transcoders.training.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*the last one is .*checkpoint-0+10\."):
        train(hooks=Hooks(checkpoints=folder, checkpoint_every_s=0.0), n_tokens=5_120)


@pytest.mark.refusal
def test_rounds_smaller_than_a_batch_are_refused() -> None:
    with pytest.raises(AttrGraphError, match=r"round 0 .* has 100 tokens, fewer than one batch \(256\)"):
        train(SparseWorld(n_tokens=100))


@pytest.mark.refusal
def test_l0_beyond_the_features_is_refused() -> None:
    with pytest.raises(AttrGraphError, match="l0 is 100, but 2 layers x 32 features are only 64"):
        train(l0=100.0)
    with pytest.raises(
        AttrGraphError, match="the same number of features in each of 2 layers; expected a multiple of 2"
    ):
        train(l0=3.0, activation="topk")
