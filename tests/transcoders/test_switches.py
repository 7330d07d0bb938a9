"""What the makers' settings can switch: given their numbers where graphs can express it, refused or named where not."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from published import (
    POINTS,
    PUBLISHED,
    Published,
    check_numbers,
    clt_training_set,
    crosslayer_transcoder,
    llamascopium_per_layer,
    saelens,
    set_json,
    sparsify,
)
from safetensors.torch import load_file, save_file
from tiny import N_LAYERS

import attrgraph as ag
from attrgraph.errors import TranscoderError

# of clt-training: see `clt_training_set`
CROSS = [
    {"n_targets": 2},
    {"ks": (2, 20, 7)},
    {"coalesce_topk": "per-layer", "n_targets": 2},
    {"coalesce_topk": "concat"},
    {"coalesce_topk": "concat", "n_targets": 2, "post_encoder_scale": True},
    {"per_source_tied": True},
    {"divide_cross_layer": True},
    {"divide_cross_layer": True, "post_encoder_scale": True, "n_targets": 2},
    {"n_targets": 0},
    {"n_targets": 1},
]


@pytest.mark.parametrize("switches", CROSS, ids=str)
def test_clt_training_gives_its_runners_numbers(switches: dict[str, Any], tmp_path: Path) -> None:
    maker = clt_training_set(tmp_path / "there", **switches)
    check_numbers(ag.load_transcoders(maker.folder), maker)
    ag.convert_transcoders(maker.folder, tmp_path / "ours")
    again = ag.load_transcoders(tmp_path / "ours")
    check_numbers(again, maker)
    assert again.config.is_cross_layer == (switches.get("n_targets", N_LAYERS) > 1)


@pytest.mark.parametrize(("by", "k"), [("Layer", None), ("Dimension", 4), ("Layer", 20)])
def test_standardisers_and_k_of_crosslayer_transcoder(by: str, k: int | None, tmp_path: Path) -> None:
    maker = crosslayer_transcoder(tmp_path / "there", by=by, k=k)
    check_numbers(ag.load_transcoders(maker.folder, **POINTS), maker)


def change_tensors(path: Path, *without: str, **more: torch.Tensor) -> None:
    held = {name: tensor.clone() for name, tensor in load_file(path).items() if name not in without}
    save_file({**held, **more}, path)


@pytest.mark.parametrize("expressed", [{"sparsity_include_decoder_norm": True, "act_fn": "relu"}, {}])
def test_llamascopium_activations_of_a_relu_are_the_makers(expressed: dict[str, Any], tmp_path: Path) -> None:
    """Decoder norms decide what a TopK keeps, and thresholds; nothing of what is above zero."""
    folder = llamascopium_per_layer(tmp_path / "there").folder
    for layer in range(N_LAYERS if expressed else 0):
        set_json(folder / f"layer_{layer}/config.json", **expressed)
        change_tensors(folder / f"layer_{layer}/sae_weights.safetensors", "activation_function.log_jumprelu_threshold")
    found = ag.load_transcoders(folder).layers[0]
    held = load_file(folder / "layer_0/sae_weights.safetensors")
    scale = held["W_E"].shape[0] ** 0.5 / held["dataset_average_activation_norm.blocks.0.ln2.hook_normalized"]
    torch.testing.assert_close(found.W_enc, held["W_E"].T * scale)
    assert not found.b_dec.any() and (found.threshold is None) == bool(expressed)


_GEMMA = PUBLISHED["gemma_scope_2"]
_SAE, _SPARSIFY, _OF_LAYER = "run_8/cfg.json", "h.1.mlp/cfg.json", "layer_1/config.json"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("make", "file", "changes", "said"),
    [
        (sparsify, _SPARSIFY, {"embed_skip": True}, "embed_skip is True, which these graphs cannot express"),
        (sparsify, _SPARSIFY, {"gram_lookup": True}, "gram_lookup is True"),
        (sparsify, _SPARSIFY, {"signed": True}, "signed is True"),
        (sparsify, _SPARSIFY, {"skip_connection": False}, "has a W_skip, but skip_connection is False"),
        (sparsify, _SPARSIFY, {"num_latents": 21}, r"encoder.weight has shape \[20, 24\], expected \[21, any\]"),
        (sparsify, _SPARSIFY, {"num_latents": 0, "d_in": 24, "expansion_factor": 2}, r"expected \[48, 24\]"),
        (saelens, _SAE, {"apply_b_dec_to_input": True}, "apply_b_dec_to_input is True"),
        (saelens, _SAE, {"k": 5}, "k is 5, which these graphs cannot express"),
        (saelens, _SAE, {"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        (saelens, _SAE, {"normalize_activations": "constant_norm_rescale"}, "each token .* by a number of its own"),
        (saelens, _SAE, {"normalize_activations": "layer_norm"}, "each token .* by a number of its own"),
        (saelens, _SAE, {"normalize_activations": "covariance_whitening"}, "is 'covariance_whitening'"),
        (saelens, _SAE, {"normalize_activations": "expected_average_only_in"}, "scaler.json beside it does not say"),
        *(
            (partial(saelens, scale=0.5), "run_9/activation_scaler.json", changes, "does not say by which factor alone")
            for changes in ({"scaling_factor": None}, {"scaling_factor": 0}, {"has_whitening": True})
        ),
        (saelens, _SAE, {"finetuning_scaling_factor": True}, "finetuning_scaling_factor is True"),
        (saelens, _SAE, {"activation_fn_str": "topk"}, "activation_fn_str is 'topk'"),
        (saelens, _SAE, {"activation_fn_kwargs": {"k": 5}}, "activation_fn_kwargs is {'k': 5}"),
        (saelens, _SAE, {"d_sae": 21}, r"W_enc has shape \[24, 20\], expected \[any, 21\]"),
        (saelens, _SAE, {"architecture": "jumprelu_transcoder"}, "has a W_skip, which jumprelu_transcoder has not"),
        (lambda path: saelens(path, read="hook_mlp_in"), _SAE, {}, r"hook_mlp_in, which is ambiguous: .* --read-point"),
        (
            lambda path: saelens(path, read="hook_resid_pre"),
            _SAE,
            {},
            r"is 'hook_resid_pre'; expected one of hook_resid",
        ),
        (llamascopium_per_layer, _OF_LAYER, {"use_decoder_bias": True}, "has no tensor b_D"),
        (
            llamascopium_per_layer,
            _OF_LAYER,
            {"expansion_factor": 2.0},
            r"W_D has shape \[20, 24\], expected \[48, 24\]",
        ),
        (llamascopium_per_layer, _OF_LAYER, {"apply_decoder_bias_to_pre_encoder": True}, "pre_encoder is True"),
        (llamascopium_per_layer, _OF_LAYER, {"act_fn": "layertopk"}, "act_fn is 'layertopk'"),
        (llamascopium_per_layer, _OF_LAYER, {"hook_point_out": "blocks.1.ln2.hook_normalized"}, "an autoencoder"),
        (llamascopium_per_layer, _OF_LAYER, {"sae_type": "lorsa"}, "sae_type is 'lorsa'"),
        (PUBLISHED["clt_forge"], "clt_cfg.json", {"activation_fn": "topk"}, "activation_fn is 'topk'"),
        (PUBLISHED["clt_forge"], "clt_cfg.json", {"n_layers": 4}, r"W_enc has shape .*, expected \[4, any, any\]"),
        (clt_training_set, "layers.1.mlp/cfg.json", {"activation": "batchtopk"}, "activation is 'batchtopk'"),
        (clt_training_set, "layers.1.mlp/cfg.json", {"coalesce_topk": "group"}, "coalesce_topk is 'group'"),
        (clt_training_set, "layers.1.mlp/cfg.json", {"secondary_target_tied": True}, "secondary_target_tied is True"),
        (
            clt_training_set,
            "layers.1.mlp/cfg.json",
            {"skip_connection": True},
            "has no W_skip, but skip_connection is True",
        ),
        (clt_training_set, "config.json", {"hookpoints_in": ["layers.0.ln"]}, "does not say where its features read"),
    ],
)
def test_switches_that_graphs_cannot_express_are_refused(
    make: Callable[[Path], Published], file: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "there").folder
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    set_json(folder / file, **changes)
    with pytest.raises(TranscoderError, match=said) as found:
        ag.load_transcoders(folder)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("sparsify", _SPARSIFY),
        ("saelens", _SAE),
        ("llamascopium_per_layer", _OF_LAYER),
        ("llamascopium", "config.json"),
        ("clt_forge", "clt_cfg.json"),
        ("clt_training", "layers.1.mlp/cfg.json"),
        ("gemma_scope_2", "transcoder_all/layer_1_width_16k_l0_small_affine/config.json"),
    ],
)
def test_settings_that_are_not_known_are_named(layout: str, file: str, tmp_path: Path) -> None:
    folder = PUBLISHED[layout](tmp_path / "there").folder
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    assert "not known" not in ag.describe_transcoders(folder).get("changes", "")
    set_json(folder / file, a_new_switch=0.5, another=None)
    assert "settings that are not known are ignored: a_new_switch" in ag.describe_transcoders(folder)["changes"]


def test_parts_that_are_not_known_are_named(tmp_path: Path) -> None:
    folder = crosslayer_transcoder(tmp_path / "there").folder
    assert "not known" not in ag.describe_transcoders(folder, **POINTS)["changes"]
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"]["init_args"]["gate"] = {"class_path": "crosslayer_transcoder.model.gate.Gate"}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert ag.describe_transcoders(folder, **POINTS)["changes"].endswith("not known are ignored: gate")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("part", "name", "said"),
    [
        ("nonlinearity", "topk.BatchTopK", "nonlinearity is 'BatchTopK', which these graphs cannot express"),
        ("input_standardizer", "standardize.SamplewiseInputStandardizer", "is 'SamplewiseInputStandardizer'"),
    ],
)
def test_classes_that_graphs_cannot_express_are_refused(part: str, name: str, said: str, tmp_path: Path) -> None:
    folder = crosslayer_transcoder(tmp_path / "there").folder
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"]["init_args"][part] = {"class_path": f"crosslayer_transcoder.model.{name}"}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(folder, **POINTS)


HOOKS = {"hf_hook_point_in": "model.layers.1.pre_feedforward_layernorm.output", "architecture": "jump_relu"}
HOOKS |= {"hf_hook_point_out": "model.layers.1.post_feedforward_layernorm.output", "affine_connection": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        (
            {"hf_hook_point_in": "model.layers.1.output"},
            r"reads at model\.layers\.1\.output and writes at .*; not of an MLP",
        ),
        ({"hf_hook_point_out": "model.layers.1.self_attn.output"}, "not of an MLP"),
        ({"architecture": "topk"}, "architecture is 'topk', which these graphs cannot express"),
        ({"affine_connection": False}, r"affine_connection is False, but params\.safetensors has an affine_skip"),
    ],
)
def test_hooks_in_gemma_scopes_config_are_checked(changes: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    maker = _GEMMA(tmp_path / "there")
    path = maker.folder / "transcoder_all/layer_1_width_16k_l0_small_affine/config.json"
    path.write_text(json.dumps(HOOKS | changes))
    if said is None:
        check_numbers(ag.load_transcoders(maker.folder), maker)
        return
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(maker.folder)


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["gemma-scope-2b-pt-res", "gemma-scope-2-1b-pt/resid_post", "x/attn_out_all"])
def test_gemma_scopes_autoencoders_are_refused(name: str, tmp_path: Path) -> None:
    """They have the same files."""
    with pytest.raises(TranscoderError, match="autoencoders, which stand for no MLP; graphs need transcoders"):
        ag.load_transcoders(PUBLISHED["gemma_scope_1"](tmp_path / name).folder)


@pytest.mark.refusal
def test_of_several_widths_one_has_to_be_chosen(tmp_path: Path) -> None:
    folder = _GEMMA(tmp_path / "there").folder
    for layer in range(N_LAYERS):
        small = folder / f"transcoder_all/layer_{layer}_width_16k_l0_small_affine"
        other = folder / f"transcoder_all/layer_{layer}_width_262k_l0_big"
        other.mkdir()
        (other / "params.safetensors").write_bytes((small / "params.safetensors").read_bytes())
    said = r"holds several sets \(width_16k_l0_small_affine, width_262k_l0_big\); write a config.yaml that lists one"
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(folder)
    across = PUBLISHED["gemma_scope_2_clt"](tmp_path / "across").folder
    (across / "clt/width_1k_l0_small").mkdir()
    for path in (across / "clt/width_1k_l0_big").iterdir():
        (across / "clt/width_1k_l0_small" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TranscoderError, match=r"\(clt/width_1k_l0_big, clt/width_1k_l0_small\)"):
        ag.load_transcoders(across)
    assert ag.load_transcoders(across / "clt/width_1k_l0_big").config.is_cross_layer


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("k", "settings", "said"),
    [
        (torch.tensor(6.5), {}, r"layer_1\.safetensors: its k is 6\.5; expected one positive integer"),
        (torch.tensor([3, 4]), {}, r"its k is of shape \[2\]; expected one positive integer"),
        (torch.tensor(0), {}, "its k is 0; expected one positive integer"),
        (torch.tensor(21), {}, "layer 1: k is 21, but there are 20 features; expected a k of at most 20"),
        (None, {"activation": "topk"}, "topk needs a positive integer k, and layers 1 have none"),
        (torch.tensor(9), {"activation": "relu"}, r"has a k or thresholds, but config\.yaml says activation: relu"),
        (torch.tensor(9), {"activation": "topk", "k": 8}, r"its k is 9, config\.yaml says 8"),
        (torch.tensor(9), {"activation": "topk", "k": [9, 9]}, "k has 2 entries; expected one for each of 3 layers"),
        (torch.tensor(9), {"relu_before_topk": [True]}, "relu_before_topk has 1 entries; expected one for each of 3"),
        (torch.tensor(9), {"relu_before_topk": ["yes"]}, "expected true or false, or a list of them"),
        (torch.tensor(9), {"activation": "topk", "k": [9, "9", 9]}, "topk needs a positive integer k .or a list"),
    ],
)
def test_a_k_that_does_not_fit_is_refused(
    k: torch.Tensor | None, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = PUBLISHED["circuit_tracer_topk"](tmp_path / "there").folder
    change_tensors(folder / "layer_1.safetensors", "k", **({} if k is None else {"k": k}))
    values = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(values | settings))
    with pytest.raises(TranscoderError, match=said):
        ag.load_transcoders(folder)
