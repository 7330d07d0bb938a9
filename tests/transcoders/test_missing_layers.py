"""Layers without a transcoder are allowed where they are asked for; then what their MLPs write is error, and said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from published import PUBLISHED, Published
from safetensors.torch import load_file, save_file
from tiny import N_FEATURES, N_LAYERS, PROMPT, make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.provenance import origin_of
from attrgraph.cli.main import main
from attrgraph.errors import InterventionError, TranscoderError
from attrgraph.evaluation.stand_ins import TranscoderStandIn
from attrgraph.transcoders import save_transcoders

# of layouts whose layers lie each for itself, layer 1
LAYERS = {
    "gemma_scope_1": "layer_1",
    "gemma_scope_2": "transcoder_all/layer_1_width_16k_l0_small_affine",
    "gemma_scope_2_clt": "clt/width_1k_l0_big/params_layer_1.safetensors",
    "sparsify": "h.1.mlp",
    "saelens": "run_8",
    "llamascopium_per_layer": "layer_1",
    "circuit_tracer_topk": "layer_1.safetensors",
}


def without(layout: str, folder: Path) -> Published:
    maker = PUBLISHED[layout](folder)
    gone = maker.folder / LAYERS[layout]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    return maker


@pytest.fixture
def lacking(tmp_path: Path) -> Path:
    save_transcoders(make_transcoders(cross_layer=False), tmp_path / "set")
    (tmp_path / "set" / "layer_1.safetensors").unlink()
    return tmp_path / "set"


@pytest.mark.refusal
@pytest.mark.parametrize("layout", LAYERS)
def test_a_missing_layer_is_refused_unless_it_is_asked_for(layout: str, tmp_path: Path) -> None:
    folder = without(layout, tmp_path / "there").folder
    said = r"layer 1 is missing \(found layers 0, 2\); download it, or pass --allow-missing-layers \(allow_missing"
    for read in (ag.load_transcoders, ag.describe_transcoders):
        with pytest.raises(TranscoderError, match=said):
            read(folder)
    with pytest.raises(TranscoderError, match=said):
        ag.convert_transcoders(folder, tmp_path / "ours")


@pytest.mark.parametrize("layout", LAYERS)
def test_its_mlp_is_error_and_the_trace_is_exact_converted_or_not(layout: str, tmp_path: Path) -> None:
    folder, model, graphs = without(layout, tmp_path / "there").folder, make_model("gemma2"), []
    ag.convert_transcoders(folder, tmp_path / "ours", allow_missing_layers=True)
    whole = ag.load_transcoders(PUBLISHED[layout](tmp_path / "whole").folder)
    for name in (folder, tmp_path / "ours"):
        found = ag.load_transcoders(name, allow_missing_layers=True)
        assert found.missing_layers == [1] and found.n_features[1] == 0
        model.transcoders = found
        local, _ = prepare(model, PROMPT, memory_budget=None, prepend="auto", skip_positions="auto")
        out = local.run.blocks[1].written(found.config.feature_output_hook)
        written = torch.zeros_like(out)
        if found.config.is_cross_layer:  # features of layer 0 write there too
            written += whole.contributions(0, local.run.blocks[0].read(found.config.feature_input_hook))[:, 1]
        kept = ~local.is_skipped
        torch.testing.assert_close(local.errors[1][kept], (out - written)[kept], rtol=1e-4, atol=1e-4)
        graph = ag.trace(model, PROMPT)
        assert graph.metadata["checks"]["is_exact"] and graph.metadata["transcoders"]["missing_layers"] == [1]
        assert set(graph.nodes.query("kind == 'feature'")["layer"]) == {0, 2}
        graphs.append(graph)
    assert graphs[0].nodes.index.equals(graphs[1].nodes.index)
    assert abs(graphs[0].adjacency - graphs[1].adjacency).max() < 1e-5 * abs(graphs[0].adjacency).max()


def _lacking(layout: str, layer: int, folder: Path) -> Path:
    """A set without one of its layers."""
    folder = PUBLISHED[layout](folder).folder
    if "list" in layout:
        values = yaml.safe_load((folder / "config.yaml").read_text())
        values["transcoders"][layer] = None
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        return folder
    name = LAYERS[layout.removesuffix("_by_layer")]
    for one in ("layer_", "h."):
        name = name.replace(f"{one}1", f"{one}{layer}")
    gone = folder / (f"run_{9 - layer}" if layout == "saelens" else name)
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    return folder


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize(
    "layout", [*LAYERS, "sparsify_by_layer", "circuit_tracer_topk_by_layer", "mixed_list", "list_of_layouts"]
)
def test_what_opens_is_the_same_converted_or_saved(layout: str, layer: int, tmp_path: Path) -> None:
    folder = _lacking(layout, layer, tmp_path / "there")
    expected = ag.load_transcoders(folder, allow_missing_layers=True)
    ag.convert_transcoders(folder, tmp_path / "converted", allow_missing_layers=True)
    save_transcoders(expected, tmp_path / "saved")
    for name in ("converted", "saved"):
        found = ag.load_transcoders(tmp_path / name, allow_missing_layers=True)
        for of in range(expected.n_layers):
            assert found.config.k_of(of) == expected.config.k_of(of)
            assert found.config.has_relu(of) == expected.config.has_relu(of)
            for mine, theirs in zip(vars(found.layers[of]).values(), vars(expected.layers[of]).values(), strict=True):
                assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))
        assert (found.n_features, found.missing_layers) == (expected.n_features, expected.missing_layers)
    about = [ag.describe_transcoders(name, allow_missing_layers=True) for name in (folder, tmp_path / "converted")]
    for key in ("k", "activation", "n_features", "missing_layers", "read_point", "write_point"):
        assert about[0][key] == about[1][key]


def test_a_set_whose_k_differs_is_the_same_with_layers_added_above(tmp_path: Path) -> None:
    found = ag.load_transcoders(PUBLISHED["circuit_tracer_topk_by_layer"](tmp_path / "there").folder).up_to(5)
    save_transcoders(found, tmp_path / "saved")
    again = ag.load_transcoders(tmp_path / "saved")
    assert again.config.k == found.config.k == (9, 7, 20, None, None) and again.missing_layers == [3, 4]


def test_layers_at_the_top_are_added_for_the_model(lacking: Path) -> None:
    (lacking / "layer_2.safetensors").unlink()
    hf_model = make_model("llama").hf_model
    with pytest.raises(TranscoderError, match=r"for 1 layers .* the model has 3 layers .* --allow-missing-layers"):
        ag.load_model(hf_model, lacking)
    model = ag.load_model(hf_model, lacking, allow_missing_layers=True)
    graph = ag.trace(model, PROMPT)
    assert graph.metadata["transcoders"]["n_features"] == [N_FEATURES, 0, 0]
    assert graph.metadata["transcoders"]["missing_layers"] == [1, 2] and graph.metadata["checks"]["is_exact"]
    assert origin_of(ag.trace(ag.load_model("demo"), "dallas"))["allow_missing_layers"] is False


def test_a_cross_layer_set_says_how_many_layers_it_has(tmp_path: Path) -> None:
    save_transcoders(make_transcoders(), tmp_path / "set")
    for name in ("W_enc_2.safetensors", "W_dec_2.safetensors"):
        (tmp_path / "set" / name).unlink()
    with pytest.raises(TranscoderError, match="layer 2 is missing"):
        ag.load_transcoders(tmp_path / "set")
    found = ag.load_transcoders(tmp_path / "set", allow_missing_layers=True)
    assert (found.n_layers, found.missing_layers) == (N_LAYERS, [2])


def test_lists_name_layers_without_a_transcoder(tmp_path: Path) -> None:
    folder = PUBLISHED["list_of_layouts"](tmp_path / "there").folder
    values = yaml.safe_load((folder / "config.yaml").read_text())
    for entries, missing in ((["a/h.0.mlp", None, "c/layer_2"], [1]), (["a/h.0.mlp", "a/h.1.mlp", None], [2])):
        (folder / "config.yaml").write_text(yaml.safe_dump({**values, "transcoders": entries}))
        assert ag.load_transcoders(folder, allow_missing_layers=True).missing_layers == missing


@pytest.mark.refusal
def test_what_needs_a_transcoder_of_each_layer_says_so(lacking: Path) -> None:
    model = ag.load_model(make_model("llama").hf_model, lacking, allow_missing_layers=True)
    with pytest.raises(InterventionError, match="layer 1 has no features: its transcoder is missing; change 1_-1_2"):
        ag.intervene(model, PROMPT, [ag.Intervention((1, 4, 2), value=1.0)])
    ag.intervene(model, PROMPT, [ag.Intervention("1_-1_2", scale=0)])
    with pytest.raises(TranscoderError, match="has no transcoders of layers 1, whose MLPs nothing can replace"):
        TranscoderStandIn(model, model.transcoders)


def test_decoders_that_count_folders_need_to_know_them(tmp_path: Path) -> None:
    """clt-training on layers 0 and 2: the second decoder of layer 0 writes into layer 2."""
    folder = PUBLISHED["clt_training"](tmp_path / "there").folder
    shutil.rmtree(folder / "layers.1.mlp")
    for layer, n_targets in ((0, 2), (2, 1)):
        path = folder / f"layers.{layer}.mlp"
        values = json.loads((path / "cfg.json").read_text()) | {"n_targets": n_targets}
        (path / "cfg.json").write_text(json.dumps(values))
        held = {name: tensor.clone() for name, tensor in load_file(path / "sae.safetensors").items()}
        dropped = ("W_decs.2", "b_decs.2", "W_skips.2", "post_encs.2")
        save_file({name: tensor for name, tensor in held.items() if name not in dropped}, path / "sae.safetensors")
    with pytest.raises(TranscoderError, match="decoders count the folders above, not the layers; download the others"):
        ag.load_transcoders(folder, allow_missing_layers=True)
    (folder / "config.json").write_text(json.dumps({"hookpoints": ["layers.0.mlp", "layers.2.mlp"]}))
    W_dec = ag.load_transcoders(folder, allow_missing_layers=True).layers[0].W_dec
    path = folder / "layers.2.mlp" / "sae.safetensors"
    written = load_file(folder / "layers.0.mlp" / "sae.safetensors")["W_decs.1"] * load_file(path)["out_norm"]
    torch.testing.assert_close(W_dec[:, 2], written / W_dec.shape[2] ** 0.5)
    assert not W_dec[:, 1].any()
    shutil.rmtree(folder / "layers.2.mlp")
    with pytest.raises(TranscoderError, match="writes into 2 layers, but 1 folders are there from its own"):
        ag.load_transcoders(folder, allow_missing_layers=True)


@pytest.mark.doors
def test_the_command_line_allows_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_transcoders(ag.load_model("demo", "demo-per-layer").transcoders, tmp_path / "set")
    (tmp_path / "set" / "layer_1.safetensors").unlink()
    folder = str(tmp_path / "set")
    assert main(["transcoders", folder]) == 1
    assert main(["transcoders", folder, "--allow-missing-layers"]) == 0
    assert "missing      layers 1\n" in capsys.readouterr().out
    arguments = ["trace", "dallas is", "--transcoders", folder, "--allow-missing-layers"]
    assert main([*arguments, "-o", str(tmp_path / "g.safetensors")]) == 0
    assert "missing      no transcoder for layers 1: what their MLPs write is error" in capsys.readouterr().out
    assert origin_of(ag.load_graph(tmp_path / "g.safetensors"))["allow_missing_layers"] is True
    assert main(["intervene", "dallas is", "--transcoders", folder, "--allow-missing-layers", "--set", "0/1@2=0"]) == 0
