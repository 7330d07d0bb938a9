"""Evaluation: each number means what it says, however the text is cut into batches."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from texts import LENGTHS, make_rows, read_and_written
from tiny import BOS, D_MODEL, D_VOCAB, N_FEATURES, N_LAYERS, make_model, make_transcoders
from torch import Tensor, nn

import attrgraph as ag
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import AttrGraphError, GraphFileError, PromptError, ResultError, TranscoderError
from attrgraph.evaluation import compare, draw_evaluation, evaluate, neuron_baseline
from attrgraph.evaluation.statistics import Density
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import divergence, replace_with
from attrgraph.transcoders import LayerWeights, Transcoders


def relu_model() -> LanguageModel:
    """A model whose MLPs are ReLU layers on the stream itself, so that transcoders can equal them."""
    settings = {"vocab_size": D_VOCAB, "n_layer": N_LAYERS, "n_embd": D_MODEL, "n_head": 4, "n_positions": 64}
    hf_model = create_hf_model(
        "gpt2", seed=0, bos_token_id=BOS, eos_token_id=None, activation_function="relu", **settings
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in hf_model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    for block in hf_model.transformer.h:
        block.ln_2 = nn.Identity()
    return LanguageModel(hf_model.requires_grad_(False))


def transcoders_equal_to_mlps(model: LanguageModel, *, cross_layer: bool) -> Transcoders:
    layers = []
    for layer, block in enumerate(model.layer_modules()):
        mlp = block.mlp
        W_dec = torch.zeros(mlp.c_proj.weight.shape[0], N_LAYERS - layer if cross_layer else 1, D_MODEL)
        W_dec[:, 0] = mlp.c_proj.weight
        layers.append(LayerWeights(mlp.c_fc.weight.T, mlp.c_fc.bias, W_dec, mlp.c_proj.bias))
    return Transcoders(layers, make_transcoders(cross_layer=cross_layer).config)


# -- what the numbers mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cross_layer", [True, False])
def test_transcoders_that_equal_the_mlps_lose_nothing(cross_layer: bool) -> None:
    model = relu_model()
    found = evaluate(model, transcoders_equal_to_mlps(model, cross_layer=cross_layer), make_rows(), n_graphs=0)
    assert found.nmse == pytest.approx(0, abs=1e-10)
    assert found.top1_agreement == 1
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.ce == pytest.approx(found.ce_model, abs=1e-5)
    assert found.ce_recovered == pytest.approx(1, abs=1e-4)
    assert abs(found.ce_zero_ablation - found.ce_model) > 0.01  # or the last line would mean nothing


def test_the_mean_output_has_an_error_of_one(family: str) -> None:
    model, rows = make_model(family), make_rows()
    _, writes = read_and_written(model, rows)
    layers = [
        LayerWeights(w.W_enc, w.b_enc, torch.zeros_like(w.W_dec), write.mean(0))
        for w, write in zip(make_transcoders().layers, writes, strict=True)
    ]
    found = evaluate(model, Transcoders(layers, make_transcoders().config), rows, n_graphs=0)
    assert [layer.nmse for layer in found.per_layer] == pytest.approx([1.0] * N_LAYERS, rel=1e-5)


@pytest.mark.parametrize("settings", [{"skip": True}, {"cross_layer": False}, {"activation": "jumprelu"}])
@pytest.mark.parametrize("name", ["gemma2", "gpt2", "gpt_neox"])
def test_reconstruction_measures_equal_a_plain_computation(name: str, settings: dict[str, object]) -> None:
    model, transcoders, rows = make_model(name), make_transcoders(**settings), make_rows()
    found = evaluate(model, transcoders, rows, n_graphs=0)
    reads, writes = read_and_written(model, rows)
    n_tokens = len(reads[0])
    assert (found.n_tokens, found.n_documents) == (n_tokens, len(LENGTHS) - 1)
    active = transcoders.encode(reads, torch.zeros(n_tokens, dtype=torch.bool))
    errors = [
        y.double() - transcoders.layers[layer].b_dec - (0.0 if (skip := transcoders.skip(layer, x)) is None else skip)
        for layer, (x, y) in enumerate(zip(reads, writes, strict=True))
    ]
    for layer, feature, pos, activation in zip(
        active.layer.tolist(), active.feature, active.pos, active.activation, strict=True
    ):
        for i, row in enumerate(transcoders.layers[layer].W_dec[feature]):
            errors[layer + i][pos] -= activation * row
    for layer, error in enumerate(errors):
        y = writes[layer].double()
        nmse = error.square().sum() / (y - y.mean(0)).square().sum()
        of_layer = found.per_layer[layer]
        assert of_layer.nmse == pytest.approx(float(nmse), rel=1e-5)
        features = active.feature[active.in_layer(layer)]
        assert of_layer.l0 == pytest.approx(len(features) / n_tokens, rel=1e-12)
        assert of_layer.dead_fraction == pytest.approx(1 - len(features.unique()) / N_FEATURES)
    assert found.nmse == pytest.approx(np.mean([layer.nmse for layer in found.per_layer]))
    assert found.l0 == pytest.approx(len(active) / n_tokens)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "qwen3"])
def test_answers_equal_a_plain_computation_row_by_row(name: str) -> None:
    model, transcoders, rows = make_model(name), make_transcoders(), make_rows()
    found = evaluate(model, transcoders, rows, n_graphs=0)

    def zero(_: int, __: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1], 0 * out[:, 1:]], dim=1)

    kl, agrees, losses = [], [], []
    for row in rows.rows:
        true = model.hf_model(row[None]).logits[0].double()
        with replaced_mlps(model, replace_with(model, transcoders, row[None] != BOS)):
            replaced = model.hf_model(row[None]).logits[0].double()
        with replaced_mlps(model, zero):
            zeroed = model.hf_model(row[None]).logits[0].double()
        kl.append(divergence(true, replaced)[1:])
        agrees.append((true.argmax(-1) == replaced.argmax(-1))[1:])
        log_probs = torch.stack([true, replaced, zeroed]).log_softmax(-1)
        losses.append(-log_probs[:, 1:-1].gather(-1, row[2:].expand(3, -1)[..., None])[..., 0])
    assert found.kl == pytest.approx(float(torch.cat(kl).mean()), rel=1e-4)
    assert found.top1_agreement == pytest.approx(float(torch.cat(agrees).double().mean()), rel=1e-12)
    ce_model, ce, ce_zero = torch.cat(losses, dim=1).mean(1).tolist()
    assert [found.ce_model, found.ce, found.ce_zero_ablation] == pytest.approx([ce_model, ce, ce_zero], rel=1e-5)
    assert found.ce_recovered == pytest.approx((ce_zero - ce) / (ce_zero - ce_model), rel=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt_neox"])
def test_transcoders_of_the_mlp_alone_are_measured_in_its_place(name: str) -> None:
    """By plain hooks on the MLP modules, whose inputs are read and whose outputs are replaced."""
    model, rows = make_model(name), make_rows()
    transcoders = make_transcoders(read_point="mlp.hook_in", write_point="mlp.hook_out", cross_layer=False)
    found, agrees, kl = evaluate(model, transcoders, rows, n_graphs=0), list[Tensor](), list[Tensor]()
    for row in rows.rows:
        true = model.hf_model(row[None]).logits[0].double()
        with ExitStack() as hooks:
            for layer in range(N_LAYERS):

                def replaced(_: Any, args: Any, out: Tensor, layer: int = layer) -> Tensor:
                    new = transcoders.contributions(layer, args[0][0])[:, 0] + transcoders.bias(layer)
                    return torch.cat([out[:, :1], new[None, 1:]], dim=1)

                hooks.enter_context(model.mlp_inner_module(layer).register_forward_hook(replaced))
            answers = model.hf_model(row[None]).logits[0].double()
        agrees.append((true.argmax(-1) == answers.argmax(-1))[1:])
        kl.append(divergence(true, answers)[1:])
    assert found.kl == pytest.approx(float(torch.cat(kl).mean()), rel=1e-4)
    assert found.top1_agreement == pytest.approx(float(torch.cat(agrees).double().mean()), rel=1e-12)


def test_active_and_dead_features_by_hand() -> None:
    """At every layer 3 features are always on, the other 37 never."""
    is_on = torch.arange(N_FEATURES) < 3
    layers = [replace(w, b_enc=torch.where(is_on, 1e3, -1e3)) for w in make_transcoders().layers]
    found = evaluate(make_model("llama"), Transcoders(layers, make_transcoders().config), make_rows(), n_graphs=0)
    assert found.l0 == 3 * N_LAYERS
    assert found.dead_fraction == 37 / 40
    for layer in found.per_layer:
        assert (layer.l0, layer.dead_fraction, layer.density.n_never) == (3, 37 / 40, 37)
        assert layer.density.counts.tolist() == [0] * 15 + [3]


def test_density_bins_by_hand() -> None:
    density = Density.of(np.array([0, 0, 1, 10, 100, 999, 1000]), 1000)
    assert density.n_never == 2
    edges = {-3.0: 1, -2.0: 1, -1.0: 1, -0.5: 2}  # left edge of each bin that holds something
    assert density.counts.tolist() == [edges.get(-8 + i / 2, 0) for i in range(16)]
    rare = Density.of(np.array([1]), 10**9)
    assert rare.counts.tolist() == [1] + [0] * 15


def test_batches_change_nothing(family: str) -> None:
    """Nor does padding, which only batches of several rows have."""
    model, transcoders, rows = make_model(family), make_transcoders(), make_rows()
    alone, together = (
        evaluate(model, transcoders, rows, n_graphs=0, batch_tokens=batch_tokens) for batch_tokens in (1, 4096)
    )
    assert alone.headline() == pytest.approx(together.headline(), rel=1e-3, abs=1e-6)
    for name, ends in alone.intervals.items():
        assert ends == (None if name.startswith("graph") else pytest.approx(together.intervals[name], rel=1e-3))
    for one, other in zip(alone.per_layer, together.per_layer, strict=True):
        assert one.density.counts.tolist() == other.density.counts.tolist()


def test_bos_within_a_row_is_neither_measured_nor_a_target() -> None:
    model, transcoders = make_model("gpt2"), make_transcoders()
    rows = TokenRows([torch.tensor([BOS, 5, 6, BOS, 7, 8, 9])], [0], {})
    found = evaluate(model, transcoders, rows, n_graphs=0)
    assert found.n_tokens == 5
    logits = model.hf_model(rows.rows[0][None]).logits[0].double().log_softmax(-1)
    assert found.ce_model == pytest.approx(-float(logits[1, 6] + logits[4, 8] + logits[5, 9]) / 3, rel=1e-5)


def test_half_precision_model_is_measured_in_full() -> None:
    model, rows = make_model("llama", dtype=torch.bfloat16), make_rows()
    found = evaluate(model, make_transcoders(), rows, n_graphs=1)
    expected = evaluate(make_model("llama"), make_transcoders(), rows, n_graphs=1)
    assert found.model["dtype"] == "bfloat16"
    # bfloat16 has 8 bits; the error of reconstruction is far larger
    assert found.nmse == pytest.approx(expected.nmse, rel=0.02)


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_graph_scores_are_means_over_evenly_spaced_documents() -> None:
    model, transcoders, rows = make_model("llama"), make_transcoders(), make_rows((40, 5, 6, 7, 8, 9))
    found = evaluate(model, transcoders, rows, n_graphs=2)
    traced = LanguageModel(model.hf_model, transcoders=transcoders)
    scores = [ag.trace(traced, rows.rows[i][:32]).scores() for i in (0, 3)]
    assert found.graphs.replacement == pytest.approx(np.mean([score.replacement for score in scores]))
    assert found.graphs.completeness == pytest.approx(np.mean([score.completeness for score in scores]))
    assert found.graphs.n == 2
    low, high = found.intervals["graph_replacement"]
    assert [low, high] == pytest.approx(sorted(score.replacement for score in scores))


def test_there_are_no_more_graphs_than_documents_with_tokens() -> None:
    model, transcoders = make_model("llama"), make_transcoders()
    assert evaluate(model, transcoders, make_rows((1, 4, 1, 5)), n_graphs=10).graphs.n == 2
    none = evaluate(model, transcoders, make_rows((4, 5)), n_graphs=0)
    assert none.to_dict()["graphs"] == {"replacement": None, "completeness": None, "n": 0}
    assert none.intervals["graph_replacement"] is None


def test_what_is_undefined_on_a_text_is_none() -> None:
    """Two documents of one token: nothing to predict, so no cross-entropy."""
    found = evaluate(make_model("llama"), make_transcoders(), make_rows((2, 2)), n_graphs=0)
    values = found.to_dict()
    assert values["ce"] is None and values["ce_recovered"] is None
    assert values["intervals"]["ce_recovered"] is None
    assert values["nmse"] is not None and values["kl"] is not None


def test_outputs_that_do_not_vary_have_no_normalised_error() -> None:
    model = make_model("gpt2")
    model.layer_modules()[1].mlp.c_proj.weight.data.zero_()
    found = evaluate(model, make_transcoders(), make_rows(), n_graphs=0)
    assert np.isnan(found.per_layer[1].nmse) and np.isfinite(found.per_layer[0].nmse)
    assert found.to_dict()["nmse"] is None and found.intervals["nmse"] is None


def test_report_says_what_was_measured() -> None:
    found = evaluate(make_model("llama"), make_transcoders(), make_rows(), n_graphs=0, n_resamples=7, seed=3)
    values = found.to_dict()
    assert values["text"] == {"text.txt": "sha256:0"}
    assert values["model"]["family"] == "Llama"
    assert values["transcoders"]["kind"] == "cross_layer_transcoder"
    skipped = {"skip_positions": "auto", "skipped": "BOS"}
    sizes = {"n_blocks_of_documents": 7, "n_prompt_tokens": 32}
    assert values["settings"] == {"n_resamples": 7, "seed": 3, **skipped, **sizes}
    assert set(values["versions"]) == {"attrgraph", "python", "torch", "transformers", "numpy"}


def test_progress_ends_where_it_should() -> None:
    seen: list[tuple[str, int, int]] = []
    model = make_model("llama")
    evaluate(model, make_transcoders(), make_rows(), n_graphs=2, progress=lambda *at: seen.append(at), batch_tokens=20)
    for phase in ("measure", "trace"):
        of_phase = [(done, total) for name, done, total in seen if name == phase]
        assert of_phase == [(i, of_phase[0][1]) for i in range(of_phase[0][1] + 1)]


# -- the picture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_picture_is_the_same_each_time(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, rows = make_model("llama"), make_rows()
    found = list(compare(model, {"tiny": make_transcoders()}, rows, n_graphs=0).values())
    paths = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for path in paths:
        draw_evaluation(found, path=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if ending == "svg":
        text = paths[0].read_text()
        for label in ("tiny", "top-k neurons", "never", "normalised mean squared error", "48 tokens of 7 documents"):
            assert label in text


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize("setting", [{"n_graphs": -1}, {"n_resamples": 0}, {"batch_tokens": 0}])
def test_settings_are_checked(setting: dict[str, int]) -> None:
    with pytest.raises(AttrGraphError, match="n_graphs must be at least 0"):
        evaluate(make_model("llama"), make_transcoders(), make_rows(), **setting)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([BOS] + [3] * 64, r"a row has 65 tokens; expected 1 to 64, the model's context"),
        ([], "a row has 0 tokens"),
        ([BOS, D_VOCAB], f"a row has token id {D_VOCAB}; the model's vocabulary is 0 to {D_VOCAB - 1}"),
        ([BOS, 3], r"the text has 1 tokens besides those left out \(BOS\); expected at least 2"),
    ],
)
def test_rows_are_checked(row: list[int], message: str) -> None:
    rows = TokenRows([torch.tensor(row, dtype=torch.int64)], [0], {})
    with pytest.raises(PromptError, match=message):
        evaluate(make_model("llama"), make_transcoders(), rows)


@pytest.mark.refusal
def test_transcoders_are_checked_before_anything_is_measured() -> None:
    model, rows = make_model("llama"), make_rows()

    def ran(*_: object) -> None:
        pytest.fail("measured")

    with pytest.raises(TranscoderError, match="the model has 3 layers x d_model 24"):
        compare(model, {"a": make_transcoders(), "b": make_transcoders(n_layers=2)}, rows, n_graphs=0, progress=ran)
    with pytest.raises(TranscoderError, match=r"ln2\.hook_normalized is ambiguous"):
        evaluate(make_model("gpt2"), make_transcoders(read_point="ln2.hook_normalized"), rows, progress=ran)
    with pytest.raises(AttrGraphError, match="there are no transcoders to evaluate"):
        compare(model, {}, rows, n_graphs=0)


@pytest.mark.refusal
def test_neurons_are_checked() -> None:
    model = make_model("llama")
    with pytest.raises(AttrGraphError, match="l0_by_layer has 2 numbers; the model has 3 layers"):
        neuron_baseline(model, [1.0, 2.0], make_rows())
    with pytest.raises(PromptError, match="no tokens besides those left out"):
        neuron_baseline(model, [1.0, 2.0, 3.0], make_rows((1, 1)))


@pytest.mark.refusal
def test_numbers_that_are_not_finite_are_refused() -> None:
    transcoders = make_transcoders()
    last = replace(transcoders.layers[-1], W_dec=transcoders.layers[-1].W_dec * 1e38)
    with pytest.raises(ResultError, match="decoder rows of layer 2 are not finite: numbers overflow"):
        evaluate(make_model("llama"), Transcoders([*transcoders.layers[:-1], last], transcoders.config), make_rows())
    model = make_model("llama")
    model.layer_modules()[2].mlp.down_proj.weight.data *= torch.nan
    with pytest.raises(ResultError, match="MLP outputs are not finite"):
        evaluate(model, transcoders, make_rows())


@pytest.mark.refusal
def test_pictures_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    found = evaluate(make_model("llama"), make_transcoders(), make_rows(), n_graphs=0)
    with pytest.raises(AttrGraphError, match=r"unknown ending '.txt'; expected one of .svg, .png, .pdf"):
        draw_evaluation([found], path=tmp_path / "e.txt")
    with pytest.raises(AttrGraphError, match="0 evaluations cannot be drawn; expected 1 to 6"):
        draw_evaluation([], path=tmp_path / "e.svg")
    (tmp_path / "e.svg").write_text("mine")
    with pytest.raises(GraphFileError, match="exists"):
        draw_evaluation([found], path=tmp_path / "e.svg", overwrite=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AttrGraphError, match=r"pip install 'attrgraph\[draw\]'"):
        draw_evaluation([found], path=tmp_path / "f.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["e.svg"]
