"""config.yaml may list layers that lie elsewhere: here or on the hub, of any layout, several in one list."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub.errors import EntryNotFoundError
from published import PUBLISHED, circuit_tracer_topk, draw, llamascopium_per_layer, saelens, sparsify
from tiny import D_MODEL, N_LAYERS, make_model

import attrgraph as ag
from attrgraph.errors import TranscoderError

HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
BOTH = {"activation": "topk", "feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
READS = draw(N_LAYERS, 30, D_MODEL, seed=12)


def write_list(folder: Path, entries: list[str | None], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    values = {"model_kind": "transcoder_set", **HOOKS, "transcoders": entries, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository owner/set of sparsify's folders, of which only what is asked for is in the local copy."""
    there, local = tmp_path / "there", tmp_path / "snapshots" / ("0" * 40)
    sparsify(there)

    def fetch(repo: str, path: str, revision: str | None) -> str:
        assert repo == "owner/set" and revision in (None, "v1", "0" * 40)
        if (there / path).is_dir():
            return ""
        if not (there / path).is_file():
            raise EntryNotFoundError(path)
        (local / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there / path, local / path)
        return str(local / path)

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        local.mkdir(parents=True, exist_ok=True)
        for path in [str(path.relative_to(there)) for path in there.glob("**/*.*")]:
            if any(fnmatch(path, pattern) for pattern in allow_patterns):
                fetch(repo, path, revision)
        return str(local)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return there


def test_entries_may_be_on_the_hub(hub: Path, tmp_path: Path) -> None:
    entries: list[str | None] = ["hf://owner/set/h.0.mlp/sae.safetensors?revision=v1", "hf://owner/set/h.1.mlp"]
    folder = write_list(tmp_path / "list", [*entries, "owner/set/h.2.mlp@v1"])
    found, same = ag.load_transcoders(folder), ag.load_transcoders(hub)
    assert found.config.k == 4 and "digest" in found.source
    for layer in range(N_LAYERS):
        assert torch.equal(found.contributions(layer, READS[layer]), same.contributions(layer, READS[layer]))


@pytest.mark.refusal
def test_folders_that_the_hub_has_not_are_told(hub: Path, tmp_path: Path) -> None:
    said = r"owner/set/h\.9\.mlp: owner/set on the hub has no h\.9\.mlp/sae\.safetensors, .*co/owner/set/tree/main"
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(write_list(tmp_path / "list", ["hf://owner/set/h.9.mlp"]))
    with pytest.raises(TranscoderError, match=r"owner/set on the hub has no small/config\.yaml, .*tree/0000"):
        ag.load_transcoders("owner/set/small@v1")
    with pytest.raises(TranscoderError, match="no such folder; give a folder, or owner/repo"):
        ag.load_transcoders("owner/set/../small")


def test_a_subfolder_without_settings_is_fetched(hub: Path) -> None:
    expected = PUBLISHED["gemma_scope_1"](hub / "set").folder
    found = ag.load_transcoders("owner/set/set")
    assert found.source["format"] == "gemma-scope-1"
    assert torch.equal(found.layers[1].W_enc, ag.load_transcoders(expected).layers[1].W_enc)


def test_activations_may_differ_by_layer(tmp_path: Path) -> None:
    """TopK in layers 0 and 2, thresholds in layer 1: in the set, its traces and its copy in the common layout."""
    sparsify(tmp_path / "a", ks=(3, 4, 5))
    saelens(tmp_path / "b", read="mlp.hook_in")
    entries: list[str | None] = ["../a/h.0.mlp", "../b/run_8", "../a/h.2.mlp"]
    folder = write_list(tmp_path / "list", entries, feature_output_hook="hook_mlp_out")
    found = ag.load_transcoders(folder)
    assert found.config.k == (3, None, 5)
    write_list(folder, entries, feature_output_hook="hook_mlp_out", special_load_fn="mine", a_switch=2)
    described = ag.describe_transcoders(folder)
    assert "settings that are not known are ignored: a_switch, special_load_fn" in described["changes"]
    assert (described["k"], described["activation"]) == ([3, None, 5], "topk and jumprelu")
    ag.convert_transcoders(folder, tmp_path / "ours")
    again = ag.load_transcoders(tmp_path / "ours")
    assert again.config.k == (3, None, 5)
    for layer in range(N_LAYERS):
        assert torch.equal(found.encode_layer(layer, READS[layer]), again.encode_layer(layer, READS[layer]))
    model = make_model("llama")
    model.transcoders = again
    assert ag.trace(model, [1, 7, 12, 33]).metadata["checks"]["is_exact"]


@pytest.mark.parametrize("k", [4, 7])
def test_a_topk_of_either_sign_may_stand_beside_one_after_relu(k: int, tmp_path: Path) -> None:
    """circuit-tracer's keeps the k largest whatever their sign, sparsify's positive ones only."""
    theirs, others = sparsify(tmp_path / "a"), circuit_tracer_topk(tmp_path / "c", ks=(k, k, k))
    entries: list[str | None] = ["../a/h.0.mlp", "../c/layer_1.safetensors", "../a/h.2.mlp"]
    ag.convert_transcoders(write_list(tmp_path / "list", entries), tmp_path / "ours")
    reads = READS * torch.tensor([1.0, 0.1, 1.0])[:, None, None]  # so that biases decide, which are below zero
    for name in ("list", "ours"):
        found = ag.load_transcoders(tmp_path / name)
        assert found.config.relu_before_topk == (True, False, True)
        for layer, maker in enumerate((theirs, others, theirs)):
            expected = maker.encode(reads)[layer]
            torch.testing.assert_close(found.encode_layer(layer, reads[layer]), expected)
            assert bool((expected < 0).any()) == (layer == 1)
    assert ag.describe_transcoders(tmp_path / "ours")["activation"] == "topk and topk of either sign"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("entries", "settings", "said"),
    [
        (["a/h.0.mlp", "b/run_7", "a/h.2.mlp"], {}, "says that it is of layer 2; expected layer 1"),
        (["a/h.0.mlp", "b/run_8", "a/h.2.mlp"], {}, r"at .*hook_resid_mid.*, config\.yaml says .*mlp\.hook_in"),
        (["a/h.0.mlp", "a/h.1.mlp", "a/h.2.mlp"], {"activation": "topk", "k": 6}, r"its k is 4, config\.yaml says 6"),
        (["a/h.0.mlp", "b/run_8", "a/h.2.mlp"], {**BOTH, "k": 4}, r"run_8.*: its k is None, config\.yaml says 4"),
        (["a/h.0.mlp", "a/h.1.mlp", "a"], {}, r"/a: holds h\.0\.mlp, .*; expected one of .*sae\.safetensors"),
        (["a/h.0.mlp", "gone.safetensors", "a/h.2.mlp"], {}, r"gone\.safetensors: is missing"),
        (["a/h.0.mlp", None, "a/h.2.mlp"], {}, r"layer 1 is missing .* --allow-missing-layers"),
        (["a/h.0.mlp", "a/h.1.mlp", None], {}, r"layer 2 is missing .* --allow-missing-layers"),
        (["a/h.0.mlp", 3, "a/h.2.mlp"], {}, "must be a list of paths, one per layer"),
        (["a/h.0.mlp"], {"model_kind": "cross_layer_transcoder"}, "files in Gemma Scope's layout only"),
        (["c/layer_0", "c/layer_1", "c/layer_2"], {}, r"at .*ln2\.hook_normalized"),
    ],
)
def test_lists_that_contradict_their_entries_are_refused(
    entries: list[str | None], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    sparsify(tmp_path / "a")
    saelens(tmp_path / "b")
    llamascopium_per_layer(tmp_path / "c")
    with pytest.raises(TranscoderError, match=said) as found:
        ag.load_transcoders(write_list(tmp_path, entries, **settings))
    assert "\n" not in str(found.value)
