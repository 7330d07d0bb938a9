"""Tokens that transcoders are neither trained nor measured on: the same ones everywhere."""

from pathlib import Path

import pytest
import torch
from tiny import BOS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.data.activations import LiveRounds, activations_of, pad_rows, true_logits
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import PromptError
from attrgraph.evaluation import Evaluation, neuron_baseline
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions
from attrgraph.transcoders.training.train_config import TrainConfig

ROWS = [torch.tensor([7, 8, 9, 10, 11, 12]), torch.tensor([9, 8, 7]), torch.tensor([5, 6, 7, 8, 9])]


def sink_model(position: int, factor: float, *, has_bos: bool = False) -> LanguageModel:
    """A GPT-2 in which what MLPs read at one position is about `factor` times longer than elsewhere."""
    hf_model = make_model("gpt2").hf_model
    usual = LanguageModel(hf_model).run(ROWS[0]).blocks[-1].mlp_stream.norm(dim=1).median()
    at = hf_model.get_parameter("transformer.wpe.weight")[position]
    with torch.no_grad():
        at *= factor * usual / at.norm()
    hf_model.config.bos_token_id = BOS if has_bos else None
    return LanguageModel(hf_model)


@pytest.mark.parametrize(
    ("asked", "n_trained", "n_sinks"), [("auto", 9, 2), ("none", 14, 0), ([0], 11, 0), ([0, 3, 5], 8, 0)]
)
def test_rows_are_trained_and_measured_on_at_the_same_tokens(
    asked: SkipPositions, n_trained: int, n_sinks: int
) -> None:
    """Position 3, which two of the rows have, is a sink."""
    model = sink_model(3, 300)
    found = activations_of(model, pad_rows(model, ROWS, asked))
    assert (found.n_tokens, found.n_sinks) == (n_trained, n_sinks)
    whole = LiveRounds(model, ROWS, round_tokens=14, skip_positions=asked).round(0)
    assert (whole.n_tokens, whole.n_sinks) == (n_trained, n_sinks)
    measured = ag.evaluate(
        model, make_transcoders(), TokenRows(ROWS, [0, 1, 2], {}), skip_positions=asked, n_graphs=2, n_resamples=2
    )
    assert (measured.n_tokens, measured.n_sinks, measured.n_skipped) == (n_trained, n_sinks, 14 - n_trained - n_sinks)
    assert measured.settings["skip_positions"] == asked
    logits, kept = true_logits(model, pad_rows(model, ROWS, asked))
    assert len(logits) == int(kept.is_trained.sum()) == n_trained


def test_sinks_do_not_enter_the_means_of_neurons() -> None:
    rows, layer = TokenRows(ROWS, [0, 1, 2], {}), 0
    at_sinks, without = (
        neuron_baseline(sink_model(3, 300), [4.0] * 3, rows, skip_positions=asked)._means[layer]
        for asked in ([0], [0, 3])
    )
    found = neuron_baseline(sink_model(3, 300), [4.0] * 3, rows)._means[layer]
    assert torch.equal(found, without) and not torch.allclose(found, at_sinks)


def trained(model: LanguageModel, folder: Path, asked: SkipPositions | None = None) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 50, (12,), generator=generator) for _ in range(240)]
    if model.bos_token_id is not None:
        for row in rows:
            row[0] = BOS
    parts = (TokenRows(each, list(range(len(each))), {}) for each in (rows[:200], rows[200:]))
    config = TrainConfig(n_features=32, l0=8.0, n_tokens=2500, batch_tokens=128, learning_rate=2e-2, kl_weight=0.1)
    model.hf_model.requires_grad_(True)
    found = ag.train(model, *parts, folder, config, skip_positions=asked)
    assert found is not None
    assert all(p.requires_grad and p.grad is None for p in model.hf_model.parameters())
    return found


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrgraph.transcoders.training.trainer._SAMPLE_TOKENS", 2000)


def test_a_sink_at_the_beginning_changes_no_numbers_with_bos_or_without(tmp_path: Path) -> None:
    found = [
        trained(sink_model(0, factor, has_bos=has_bos), tmp_path / f"{factor}-{has_bos}")
        for factor, has_bos in ((30, True), (30, False), (300, False))
    ]
    for each in found:
        assert each.nmse == pytest.approx(found[0].nmse, rel=0.03) and each.nmse < 0.5
        assert each.l0 == pytest.approx(8, rel=0.05) and each.n_skipped == 40
    card = (tmp_path / "300-False" / "README.md").read_text()
    assert "the first of each row, since the tokenizer has no BOS (200 tokens in training, 40 held out)" in card


def test_a_sink_in_the_middle_is_left_out_and_counted_unless_asked_otherwise(tmp_path: Path) -> None:
    model = sink_model(5, 300)
    auto, none = trained(model, tmp_path / "auto"), trained(model, tmp_path / "none", "none")
    assert auto.nmse < 0.5 and auto.n_sinks == 40 and none.n_sinks == none.n_skipped == 0
    card = (tmp_path / "auto" / "README.md").read_text()
    assert "(200 of the first 2,200 tokens in training, 40 held out)" in card
    assert (
        "Left out (`skip_positions: none`): nothing, as asked (0 tokens"
        in (tmp_path / "none" / "README.md").read_text()
    )


@pytest.mark.refusal
@pytest.mark.parametrize("asked", ["some", [-1], [64], [0.5]])
def test_positions_that_no_row_can_have_are_refused(tmp_path: Path, asked: SkipPositions) -> None:
    with pytest.raises(PromptError, match=r"skip_positions is|a position to skip is"):
        trained(sink_model(0, 30), tmp_path / "set", asked)
