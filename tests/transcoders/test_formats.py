"""Published layouts give their makers' numbers, as they are and converted; what cannot be expressed is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published import POINTS, PUBLISHED, READS, D, Published, check_numbers, saelens, set_json, sparsify
from safetensors.torch import load_file, save_file
from tiny import N_LAYERS, make_model

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import TranscoderError
from attrgraph.transcoders import LayerWeights
from attrgraph.transcoders.known_sets import KNOWN_SETS, full_name, known_for
from attrgraph.transcoders.layer_weights import check_layer


@pytest.mark.parametrize("layout", PUBLISHED)
def test_numbers_are_the_makers_before_and_after_conversion(layout: str, tmp_path: Path) -> None:
    maker = PUBLISHED[layout](tmp_path / "there")
    # one layout does not say where its features read
    points: dict[str, Any] = POINTS if layout == "crosslayer_transcoder" else {}
    found = ag.load_transcoders(maker.folder, **points)
    check_numbers(found, maker)
    ag.convert_transcoders(maker.folder, tmp_path / "ours", **points)
    again = ag.load_transcoders(tmp_path / "ours")
    assert again.source["format"] == "common" and again.config.feature_input_hook == found.config.feature_input_hook
    check_numbers(again, maker)
    described = ag.describe_transcoders(maker.folder, **points)
    assert (described["n_features"], described["d_model"]) == ([20] * N_LAYERS, D)
    assert described["format"] == found.source["format"]


def test_a_stopped_conversion_goes_on_and_one_of_another_source_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, written = PUBLISHED["clt_forge"](tmp_path / "there"), []

    def until(n_layers: int) -> Callable[[str, int, int], None]:
        def progress(phase: str, done: int, total: int) -> None:
            written.append(done)
            if done > n_layers:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        ag.convert_transcoders(maker.folder, tmp_path / "ours", progress=until(1))
    assert not (tmp_path / "ours").exists()
    first = (tmp_path / "ours.partial" / "W_enc_0.safetensors").stat().st_mtime_ns
    ag.convert_transcoders(maker.folder, tmp_path / "ours")
    assert (tmp_path / "ours" / "W_enc_0.safetensors").stat().st_mtime_ns == first
    check_numbers(ag.load_transcoders(tmp_path / "ours"), maker)
    with pytest.raises(KeyboardInterrupt):
        ag.convert_transcoders(maker.folder, tmp_path / "ours", progress=until(1))
    other = PUBLISHED["llamascopium"](tmp_path / "other")
    ag.convert_transcoders(other.folder, tmp_path / "ours")
    check_numbers(ag.load_transcoders(tmp_path / "ours"), other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "ours", "there"]


@pytest.mark.refusal
def test_a_conversion_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    maker = PUBLISHED["clt_forge"](tmp_path / "there")
    (tmp_path / "ours.partial").mkdir()
    (tmp_path / "ours.partial/run.yaml").write_text("an unfinished training run")
    with pytest.raises(TranscoderError, match=r"ours\.partial: is no unfinished conversion; choose another output"):
        ag.convert_transcoders(maker.folder, tmp_path / "ours")
    assert (tmp_path / "ours.partial/run.yaml").exists()


@pytest.mark.parametrize("layout", PUBLISHED)
def test_traces_are_exact_and_those_of_the_converted_set(layout: str, tmp_path: Path, prompt: list[int]) -> None:
    """Encoders may be transposed views, and decoders parts of rows."""
    points: dict[str, Any] = POINTS if layout == "crosslayer_transcoder" else {}
    folder, model = PUBLISHED[layout](tmp_path / "there").folder, make_model("llama")
    graphs = []
    for name in (folder, tmp_path / "ours"):
        model.transcoders = ag.load_transcoders(name, **points)
        graphs.append(ag.trace(model, prompt))
        ag.convert_transcoders(folder, tmp_path / "ours", **points)
    first, second = graphs
    assert first.metadata["checks"]["is_exact"] and first.nodes.index.equals(second.nodes.index)
    # sums in another order
    assert abs(first.adjacency - second.adjacency).max() < 1e-5 * abs(first.adjacency).max()


@pytest.mark.parametrize("layout", PUBLISHED)
def test_a_folder_is_described_without_its_weights(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: dict[str, Any] = POINTS if layout == "crosslayer_transcoder" else {}
    folder, seen = PUBLISHED[layout](tmp_path / "there").folder, []

    def check(where: str, weights: LayerWeights, **how: Any) -> None:
        seen.extend(w.is_meta for w in vars(weights).values() if w is not None)
        check_layer(where, weights, **how)

    monkeypatch.setattr("attrgraph.transcoders.conversion.check_layer", check)
    assert "digest" not in ag.describe_transcoders(folder, **points) and seen and all(seen)
    digest = ag.describe_transcoders(folder, **points, digest=True)["digest"]
    assert digest == ag.load_transcoders(folder, **points).source["digest"]


@pytest.mark.refusal
def test_where_features_read_is_asked_for(tmp_path: Path) -> None:
    folder = PUBLISHED["crosslayer_transcoder"](tmp_path / "there").folder
    with pytest.raises(TranscoderError, match=r"--read-point and --write-point .* most likely mlp.hook_in and mlp"):
        ag.load_transcoders(folder)
    with pytest.raises(TranscoderError, match=r"feature_input_hook is 'mlp\.in'; expected one of hook_resid_mid"):
        ag.load_transcoders(folder, read_point="mlp.in", write_point="hook_mlp_out")


def hooks(read: int, write: int) -> dict[str, str]:
    return {"hook_name": f"blocks.{read}.hook_resid_mid", "hook_name_out": f"blocks.{write}.hook_mlp_out"}


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("make", "file", "changes", "said"),
    [
        (sparsify, "h.1.mlp/cfg.json", {"transcode": False}, "an autoencoder, which stands for no MLP"),
        (sparsify, "h.1.mlp/cfg.json", {"activation": "groupmax"}, "activation is 'groupmax', which these graphs"),
        (sparsify, "h.1.mlp/cfg.json", {"k": 21}, r"layer 1: k is 21, but there are 20 features; .* at most 20"),
        (saelens, "run_8/cfg.json", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        (saelens, "run_8/cfg.json", {"architecture": "topk"}, "an autoencoder, which stands for no MLP"),
        (sparsify, "h.1.mlp/cfg.json", {"k": None}, "topk with k None"),
        (saelens, "run_8/cfg.json", {"metadata": None}, "an autoencoder"),
        (saelens, "run_8/cfg.json", {"metadata": hooks(1, 2)}, "expected hooks of one layer"),
        (PUBLISHED["clt_forge"], "clt_cfg.json", {"d_latent": 40}, "holds 20 features a layer, clt_cfg.json says 40"),
        (PUBLISHED["llamascopium"], "config.json", {"act_fn": "topk", "top_k": None}, "topk with k None"),
        (PUBLISHED["llamascopium"], "config.json", {"act_fn": "relu"}, "its thresholds do not fit act_fn 'relu'"),
        (PUBLISHED["llamascopium"], "config.json", {"hook_points_out": ["blocks.2.hook_mlp_out"] * 3}, "of this layer"),
        (PUBLISHED["llamascopium"], "config.json", {"d_model": "x"}, "d_model is 'x'; expected a number from 0 to"),
        (PUBLISHED["llamascopium"], "config.json", {"act_fn": []}, "act_fn is \\[\\], which these graphs"),
        (PUBLISHED["llamascopium"], "config.json", {"hook_points_in": 3}, "settings or weights are not those of its"),
        (PUBLISHED["clt_training"], "layers.0.mlp/cfg.json", {"topk_coalesced": True}, "topk_coalesced is True"),
        (PUBLISHED["llamascopium"], "config.json", {"act_fn": "batchtopk"}, "act_fn is 'batchtopk'"),
        (PUBLISHED["llamascopium"], "config.json", {"use_glu_encoder": True}, "use_glu_encoder is True"),
        (PUBLISHED["llamascopium"], "config.json", {"norm_activation": "token-wise"}, "is 'token-wise'"),
    ],
)
def test_what_graphs_cannot_express_is_refused(
    make: Callable[[Path], Published], file: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "there").folder
    set_json(folder / file, **changes)
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(folder)


@pytest.mark.refusal
@pytest.mark.parametrize(("name", "said"), [("post_encs.1", "after encoding"), ("W_skips.1", "it skips layers")])
def test_writes_that_no_edge_stands_for_are_refused(name: str, said: str, tmp_path: Path) -> None:
    path = PUBLISHED["clt_training"](tmp_path / "there").folder / "layers.0.mlp" / "sae.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    save_file({**tensors, name: torch.ones_like(tensors[name])}, path)
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(tmp_path / "there")


@pytest.mark.refusal
def test_several_sets_in_one_folder_and_no_set_are_told(tmp_path: Path) -> None:
    folder = PUBLISHED["gemma_scope_1"](tmp_path / "there").folder
    (folder / "layer_1/width_65k/average_l0_9").mkdir(parents=True)
    wide = folder / "layer_1/width_16k/average_l0_71/params.npz"
    (folder / "layer_1/width_65k/average_l0_9/params.npz").write_bytes(wide.read_bytes())
    with pytest.raises(TranscoderError, match=r"holds several sets \(layer_1/width_16k/average_l0_71/params.npz"):
        ag.load_transcoders(folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ae.pt").write_bytes(b"")
    with pytest.raises(TranscoderError, match="an autoencoder in a pickle, which is never opened"):
        ag.load_transcoders(tmp_path / "notes")


@pytest.mark.refusal
@pytest.mark.parametrize("k", [None, 0, -1, "8", 8.0, True])
def test_a_k_that_is_no_count_is_refused(k: object, tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "there").folder
    for layer in range(N_LAYERS):
        set_json(folder / f"h.{layer}.mlp" / "cfg.json", k=k)
    with pytest.raises(TranscoderError, match=rf"topk with k {k!r}; expected a positive integer"):
        ag.load_transcoders(folder)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("make", "path", "name", "said"),
    [
        (sparsify, "h.1.mlp/sae.safetensors", "W_skip", "has no W_skip, but skip_connection is True"),
        (saelens, "run_8/sae_weights.safetensors", "threshold", "has no threshold, which jumprelu_skip_transcoder"),
        (saelens, "run_8/sae_weights.safetensors", "W_skip", "has no W_skip, which jumprelu_skip_transcoder"),
        (PUBLISHED["clt_training"], "layers.1.mlp/sae.safetensors", "encoder.bias", "has no tensor encoder.bias"),
    ],
)
def test_tensors_that_settings_promise_have_to_be_there(
    make: Callable[[Path], Published], path: str, name: str, said: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "there").folder
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / path).items() if key != name}
    save_file(tensors, folder / path)
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(folder)


def test_scales_are_folded_in_float32_whatever_the_weights_are(tmp_path: Path) -> None:
    for layout in ("clt_forge", "llamascopium", "clt_training", "crosslayer_transcoder"):
        points: dict[str, Any] = POINTS if layout == "crosslayer_transcoder" else {}
        sets = []
        for dtype in (torch.bfloat16, torch.float32):
            folder = PUBLISHED[layout](tmp_path / f"{layout}-{dtype}").folder
            for path in folder.glob("**/*.safetensors"):
                tensors = load_file(path)
                save_file(
                    {name: t.bfloat16().to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}, path
                )
            sets.append(ag.load_transcoders(folder, **points))
        for ours, theirs in zip(sets[0].layers, sets[1].layers, strict=True):
            for name, tensor in vars(theirs).items():
                if tensor is not None:
                    torch.testing.assert_close(getattr(ours, name).float(), tensor, msg=f"{layout} {name}")


@pytest.mark.parametrize("layout", PUBLISHED)
def test_weights_of_eight_bits_give_the_numbers_that_they_hold(layout: str, tmp_path: Path) -> None:
    found = []
    for dtype in (torch.float8_e4m3fn, torch.float32):
        folder = PUBLISHED[layout](tmp_path / str(dtype)).folder
        for path in folder.rglob("*.safetensors"):
            tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
            held = {name: x.to(torch.float8_e4m3fn).to(dtype) for name, x in tensors.items() if x.is_floating_point()}
            save_file(tensors | held, path)
        points: dict[str, Any] = POINTS if layout == "crosslayer_transcoder" else {}
        ag.convert_transcoders(folder, tmp_path / "ours", **points)
        found += [ag.load_transcoders(folder, **points), ag.load_transcoders(tmp_path / "ours")]
    for layer in range(N_LAYERS):
        kept, values = torch.zeros(len(READS[layer]), dtype=torch.bool), READS[layer]
        ones = [(each.encode_one(layer, values, kept), each.contributions(layer, values)) for each in found]
        for active, written in ones[1:]:
            assert torch.equal(active.codes, ones[0][0].codes) and len(active)
            torch.testing.assert_close(active.activation, ones[0][0].activation)
            torch.testing.assert_close(written, ones[0][1])
    if found[0].layers[0].threshold is not None:
        some = found[0].encode_some(0, READS[0], torch.tensor([2, 5, 9]))
        assert set(some.feature.tolist()) <= {2, 5, 9} and len(some)


@pytest.mark.refusal
def test_what_cannot_be_told_is_not_guessed(tmp_path: Path) -> None:
    folder = PUBLISHED["crosslayer_transcoder"](tmp_path / "folded").folder
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("model:\n", "model:\n  is_folded: true\n"))
    with pytest.raises(TranscoderError, match="it cannot be told whether scales are folded"):
        ag.load_transcoders(folder, **POINTS)
    both = PUBLISHED["gemma_scope_2_clt"](tmp_path / "both").folder
    PUBLISHED["gemma_scope_2"](both)
    with pytest.raises(TranscoderError, match="holds cross-layer and per-layer sets; give the subfolder of one"):
        ag.load_transcoders(both)
    other = sparsify(tmp_path / "other").folder
    (other / "h.2.mlp").rename(other / "h.2")
    with pytest.raises(TranscoderError, match=r"its hook point is h\.2, where no MLP reads"):
        ag.load_transcoders(other)


@pytest.mark.refusal
def test_conversion_checks_what_it_writes(tmp_path: Path) -> None:
    folder = PUBLISHED["gemma_scope_2_clt"](tmp_path / "there").folder
    path = folder / "clt/width_1k_l0_big/params_layer_1.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({**tensors, "w_enc": tensors["w_enc"].to(torch.int8)}, path)
    with pytest.raises(
        TranscoderError, match=r"params_layer_1\.safetensors: w_enc is int8; expected floating-point weights"
    ):
        ag.convert_transcoders(folder, tmp_path / "ours")
    with pytest.raises(
        TranscoderError, match=r"params_layer_1\.safetensors: w_enc is int8; expected floating-point weights"
    ):
        ag.describe_transcoders(folder)


@pytest.mark.refusal
def test_weights_to_be_computed_that_do_not_fit_are_converted_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PUBLISHED["clt_forge"](tmp_path / "there").folder
    monkeypatch.setattr("attrgraph.transcoders.folder.free_bytes", lambda device: 1000)
    with pytest.raises(TranscoderError, match=r"they take .* attrgraph transcoders .*there -o FOLDER"):
        ag.load_transcoders(folder)
    # views of files take no memory
    ag.load_transcoders(PUBLISHED["gemma_scope_2_clt"](tmp_path / "views").folder)


@pytest.mark.doors
def test_the_verb_describes_converts_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(PUBLISHED["gemma_scope_2_clt"](tmp_path / "there").folder)
    assert main(["transcoders", folder]) == 0
    assert "layout       gemma-scope-2-clt" in capsys.readouterr().out
    assert main(["transcoders", folder, "-o", str(tmp_path / "ours"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [str(tmp_path / "ours")]}
    assert main(["transcoders", folder, "-o", str(tmp_path / "ours")]) == 1
    assert "exists; choose another name or pass --force" in capsys.readouterr().err
    assert main(["transcoders", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(KNOWN_SETS)
    assert main(["transcoders"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert "- mwhanna/gemma-scope-transcoders (gemma)  PLT   26 x 16k   Gemma Scope   8 GB" in table
    assert main(["trace", "a", "--model", "google/gemma-2-2b"]) == 1
    assert "known for it: mntss/clt-gemma-2-2b-426k" in capsys.readouterr().err
    assert full_name("gemma") == "mwhanna/gemma-scope-transcoders"
    assert full_name("owner/clt") == "owner/clt"
    assert known_for("google/gemma-3-270m") == "; known for it: mwhanna/gemma-scope-2-270m-pt"
