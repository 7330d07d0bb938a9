"""Encoding, decoding and the folder format."""

import filecmp
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import D_MODEL, N_FEATURES, N_LAYERS, make_transcoders
from torch.testing import assert_close

from attrgraph import convert_transcoders
from attrgraph.errors import ResultError, TrainingError, TranscoderError
from attrgraph.training.train import check_output
from attrgraph.transcoders import Transcoders, load_transcoders, save_transcoders
from attrgraph.transcoders import transcoders as transcoders_module

KINDS = [
    {"cross_layer": cross_layer, "activation": activation, "skip": skip}
    for cross_layer in (True, False)
    for activation in ("relu", "jumprelu", "topk")
    for skip in (True, False)
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(v) for v in kind.values()))


def reads_of(n_pos: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n_pos, D_MODEL, generator=generator) for _ in range(N_LAYERS)]


@every_kind
def test_features_and_reconstruction_equal_the_plain_formula(kind: dict[str, object]) -> None:
    transcoders, reads = make_transcoders(**kind), reads_of()
    active = transcoders.encode(reads, torch.tensor([True] + [False] * 5))
    dense = []
    for layer, (weights, read) in enumerate(zip(transcoders.layers, reads, strict=True)):
        h = read @ weights.W_enc.T + weights.b_enc
        if kind["activation"] == "jumprelu":
            a = torch.where(h > weights.threshold, h, torch.zeros(()))
        else:
            a = h.clamp_min(0)
            if kind["activation"] == "topk":
                a = torch.where(h >= h.sort(dim=1).values[:, [-5]], a, torch.zeros(()))
        a[0] = 0
        dense.append(a)
        rows = active.in_layer(layer)
        assert torch.equal(torch.stack([active.pos[rows], active.feature[rows]], 1), a.nonzero())
        assert_close(active.activation[rows], a[a != 0])
    for layer, weights in enumerate(transcoders.layers):
        rows, n_targets = active.in_layer(layer), weights.W_dec.shape[1]
        written = transcoders.written(layer, active, 2 * active.activation[rows], 6)
        assert written.shape == (6, n_targets, D_MODEL)
        for i in range(n_targets):
            assert_close(written[:, i], 2 * dense[layer] @ weights.W_dec[:, i])
            features = active.feature[rows]
            out = written.new_empty(len(features), D_MODEL)
            found = transcoders.decoder_rows(layer, layer + i, features, out=out)
            assert found is out and torch.equal(found, weights.W_dec[features, i])
            found = transcoders.decoder_rows(layer, layer + i, features, out=out.double())
            assert torch.equal(found, weights.W_dec[features, i].double())


@every_kind
def test_folder_round_trip_keeps_every_byte(kind: dict[str, object], tmp_path: Path) -> None:
    transcoders = make_transcoders(**kind)
    save_transcoders(transcoders, tmp_path / "a")
    again = load_transcoders(tmp_path / "a")
    assert again.config == transcoders.config
    for ours, theirs in zip(transcoders.layers, again.layers, strict=True):
        for name, tensor in vars(ours).items():
            other = getattr(theirs, name)
            assert (tensor is None and other is None) or torch.equal(tensor, other)
    save_transcoders(again, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    save_transcoders(make_transcoders(dtype=torch.bfloat16), tmp_path / "a")
    assert load_transcoders(tmp_path / "a").layers[0].W_dec.dtype == torch.bfloat16


def test_keys_of_other_tools_survive(tmp_path: Path) -> None:
    save_transcoders(make_transcoders(cross_layer=False), tmp_path / "a")
    config = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    for layer in range(N_LAYERS):
        (tmp_path / f"a/layer_{layer}.safetensors").rename(tmp_path / f"a/theirs_{layer}.safetensors")
    config |= {"transcoders": [f"theirs_{layer}.safetensors" for layer in range(N_LAYERS)], "trained_on": "pile"}
    (tmp_path / "a/config.yaml").write_text(yaml.safe_dump(config))
    save_transcoders(load_transcoders(tmp_path / "a"), tmp_path / "b")
    saved = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    assert saved["trained_on"] == "pile"
    assert saved["transcoders"][1] == "layer_1.safetensors"
    assert load_transcoders(tmp_path / "b").n_layers == N_LAYERS


def test_features_of_another_type_are_converted_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, converted = make_transcoders(), make_transcoders(dtype=torch.bfloat16)
    active = converted.encode(reads_of(), torch.tensor([True] + [False] * 5))
    exact = Transcoders([w.map(lambda t: t.float()) for w in converted.layers], plain.config)
    monkeypatch.setattr(transcoders_module, "_CONVERTED_BYTES", 2000)
    for layer in range(N_LAYERS):
        activations = active.activation[active.in_layer(layer)]
        assert_close(converted.written(layer, active, activations, 6), exact.written(layer, active, activations, 6))


def test_no_active_feature_writes_nothing() -> None:
    transcoders = make_transcoders()
    active = transcoders.encode(reads_of(), torch.ones(6, dtype=torch.bool))
    assert len(active) == 0
    assert [transcoders.written(layer, active, active.activation, 6).any() for layer in range(N_LAYERS)] == [
        False
    ] * N_LAYERS


def test_contributions_are_what_active_features_write() -> None:
    transcoders, reads = make_transcoders(skip=True), reads_of()
    active = transcoders.encode(reads, torch.zeros(6, dtype=torch.bool))
    for layer, read in enumerate(reads):
        written = transcoders.written(layer, active, active.activation[active.in_layer(layer)], 6)
        written[:, 0] += read @ transcoders.layers[layer].W_skip.T  # the skip counts to its own layer
        assert_close(transcoders.contributions(layer, read), written)


# -- refusals ----------------------------------------------------------------------------------------------------------


def _folder(tmp_path: Path, **kind: object) -> Path:
    save_transcoders(make_transcoders(**kind), tmp_path / "t")
    return tmp_path / "t"


@pytest.mark.refusal
def test_missing_layer_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "W_enc_1.safetensors").unlink()
    with pytest.raises(TranscoderError, match="layer 1 is missing"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_missing_decoder_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "W_dec_2.safetensors").unlink()
    with pytest.raises(TranscoderError, match=r"W_dec_2\.safetensors: is missing"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    path = folder / "W_dec_0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TranscoderError, match="not a whole safetensors file"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "W_enc_0.safetensors").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TranscoderError, match="not a whole safetensors file"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_wrong_shape_says_what_was_expected(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    path = folder / "W_dec_1.safetensors"
    save_file({"W_dec_1": torch.zeros(N_FEATURES, N_LAYERS, D_MODEL)}, path)
    expected = rf"W_dec has shape \[{N_FEATURES}, 3, {D_MODEL}\], expected \[{N_FEATURES}, 2, {D_MODEL}\]"
    with pytest.raises(TranscoderError, match=expected):
        load_transcoders(folder)


@pytest.mark.refusal
def test_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    path = folder / "W_enc_0.safetensors"
    tensors = load_file(path)
    del tensors["b_dec_0"]
    save_file(tensors, path)
    with pytest.raises(TranscoderError, match="has no tensor b_dec_0"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_nan_weights_are_found_where_they_matter() -> None:
    transcoders = make_transcoders()
    transcoders.layers[1].W_dec[:] = float("nan")
    active = transcoders.encode(reads_of(), torch.zeros(6, dtype=torch.bool))
    with pytest.raises(ResultError, match="decoder rows of layer 1 are not finite"):
        transcoders.written(1, active, active.activation[active.in_layer(1)], 6)
    transcoders.layers[2].W_enc[3] = float("nan")
    with pytest.raises(ResultError, match="pre-activations of layer 2 are not finite"):
        transcoders.encode(reads_of(), torch.zeros(6, dtype=torch.bool))


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_kind": "sae"}, "model_kind is 'sae'"),
        ({"feature_input_hook": "hook_resid_pre"}, "feature_input_hook is 'hook_resid_pre'"),
        ({"activation": "topk"}, "topk needs a positive integer k"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"k": 3}, "topk needs a positive integer k"),
        ({"activation": "relu", "k": 0}, "topk needs a positive integer k"),
        ({"activation": "topk", "k": 2.5}, "topk needs a positive integer k"),
    ],
)
def test_config_errors_say_what_was_expected(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | change))
    with pytest.raises(TranscoderError, match=message):
        load_transcoders(folder)


@pytest.mark.refusal
def test_folder_and_config_must_exist(tmp_path: Path) -> None:
    with pytest.raises(TranscoderError, match="no such folder"):
        load_transcoders(tmp_path / "nowhere")
    with pytest.raises(TranscoderError, match=r"has no config\.yaml"):
        load_transcoders(tmp_path)
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(TranscoderError, match="is not YAML"):
        load_transcoders(tmp_path)


@pytest.mark.refusal
def test_saving_refuses_to_overwrite_if_told_so(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    with pytest.raises(TranscoderError, match="exists"):
        save_transcoders(make_transcoders(), folder, overwrite=False)
    save_transcoders(make_transcoders(skip=True), folder)
    assert load_transcoders(folder).layers[0].W_skip is not None
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.refusal
def test_transcoders_of_another_model_are_refused() -> None:
    with pytest.raises(TranscoderError, match="were they trained on another model"):
        make_transcoders().check_fits(n_layers=5, d_model=D_MODEL)


def test_labels_are_kept_beside_the_weights(tmp_path: Path) -> None:
    plain = make_transcoders()
    save_transcoders(
        Transcoders(plain.layers, plain.config, labels={(1, 30): "says Paris", (0, 2): "é"}), tmp_path / "a"
    )
    again = load_transcoders(tmp_path / "a")
    assert again.labels == {(0, 2): "é", (1, 30): "says Paris"}
    save_transcoders(plain, tmp_path / "b")
    assert not (tmp_path / "b/labels.json").exists()


@pytest.mark.refusal
def test_malformed_labels_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "labels.json").write_text("[1]")
    with pytest.raises(TranscoderError, match=r"labels\.json: holds no labels"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_tensors_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, cross_layer=False, activation="jumprelu")
    path = folder / "layer_1.safetensors"
    tensors = load_file(path)
    tensors["threshold"] = tensors.pop("activation_function.threshold")
    save_file(tensors, path)
    with pytest.raises(TranscoderError, match=r"layer_1\.safetensors: has tensors that .* not know: threshold"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_thresholds_must_be_finite_and_alone(tmp_path: Path) -> None:
    folder = _folder(tmp_path, cross_layer=False, activation="jumprelu")
    path = folder / "layer_1.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"activation_function.threshold": torch.full((N_FEATURES,), torch.nan)}, path)
    with pytest.raises(TranscoderError, match="layer 1: threshold of feature 0 holds NaN"):
        load_transcoders(folder)
    save_file(tensors, path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"activation": "topk", "k": 3}))
    with pytest.raises(TranscoderError, match="both thresholds and k"):
        load_transcoders(folder)


@pytest.mark.refusal
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(TranscoderError, match="is no folder of transcoders"):
        save_transcoders(make_transcoders(), tmp_path / "mine")
    assert (tmp_path / "mine/thesis.tex").exists()


@pytest.mark.refusal
@pytest.mark.parametrize("config", ["name: my app", "a: [1", "model_kind: transcoder_set"])
def test_a_folder_with_files_of_others_is_never_replaced(tmp_path: Path, config: str) -> None:
    project, transcoders = tmp_path / "project", make_transcoders()
    (project / "notes").mkdir(parents=True)
    (project / "config.yaml").write_text(config)
    (project / "notes/thesis.tex").write_text("years of work")
    save_transcoders(transcoders, tmp_path / "set")
    for write in (
        lambda: save_transcoders(transcoders, project),
        lambda: convert_transcoders(tmp_path / "set", project),
        lambda: check_output(project, overwrite=True, is_resuming=False),
    ):
        with pytest.raises(TranscoderError, match=r"is no folder of transcoders|holds notes/thesis.tex, which"):
            write()
    assert (project / "notes/thesis.tex").exists() and (project / "config.yaml").read_text() == config


@pytest.mark.refusal
def test_folders_of_unfinished_work_with_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    save_transcoders(make_transcoders(), tmp_path / "set")
    other = tmp_path / "out.partial"
    other.mkdir()
    for name in ("run.yaml", ".source", "thesis.tex"):
        (other / name).write_text("{}")
    with pytest.raises(TranscoderError, match="is no unfinished conversion"):
        convert_transcoders(tmp_path / "set", tmp_path / "out")
    with pytest.raises(TrainingError, match="is no unfinished training run"):
        check_output(tmp_path / "out", overwrite=True, is_resuming=False)
    assert (other / "thesis.tex").exists()


@pytest.mark.refusal
def test_a_set_is_never_converted_onto_itself(tmp_path: Path) -> None:
    folder = tmp_path / "t/inner"
    save_transcoders(make_transcoders(), folder)
    for to in (folder, folder / "common"):
        with pytest.raises(TranscoderError, match="is, holds or lies in"):
            convert_transcoders(folder, to)
    with pytest.raises(TranscoderError, match="is no folder of transcoders"):
        convert_transcoders(folder, folder.parent)
    load_transcoders(folder)


def test_further_files_of_a_set_are_replaced_with_it(tmp_path: Path) -> None:
    for text in ("one", "two"):
        save_transcoders(make_transcoders(), tmp_path / "t", texts={"card.md": text})
    assert (tmp_path / "t/card.md").read_text() == "two"


@pytest.mark.refusal
def test_a_write_that_fails_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attrgraph.transcoders.folder.save_file", full)
    with pytest.raises(TranscoderError, match=r"cannot be written .*No space left"):
        save_transcoders(make_transcoders(skip=True), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert load_transcoders(folder).layers[0].W_skip is None


@pytest.mark.refusal
def test_a_decoder_bias_that_is_not_finite_is_named_on_opening() -> None:
    good = make_transcoders()
    layers = [replace(weights, b_dec=weights.b_dec / 0) for weights in good.layers]
    with pytest.raises(TranscoderError, match="layer 0: b_dec holds NaN or infinite values"):
        Transcoders(layers, good.config)


def test_only_what_would_be_missed_keeps_a_set_from_being_replaced(tmp_path: Path) -> None:
    """Hidden files, README.md and pages of the features would not."""
    folder = _folder(tmp_path)
    lost = (".DS_Store", "README.md", "features/.DS_Store", "features/index.json.gz", "features/layer_0.bin")
    pages = ("card.json", "labels.json", "features.parquet", "neuronpedia/batch-0.json", "features/layer_2.bin")
    for name in (*lost, *(f"features/{page}" for page in pages)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    save_transcoders(load_transcoders(folder), folder)
    assert not (folder / "features").exists() and load_transcoders(folder).n_layers == N_LAYERS
    for name in ("notes.txt", ".git/HEAD", "features/mine.npy", "features/labels.json.bak"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
        said = rf"holds {name}, which .* \(hidden files and README\.md may be lost, and pages of features\)"
        with pytest.raises(TranscoderError, match=said):
            save_transcoders(make_transcoders(), folder)
        (folder / name).unlink()
