"""SAELens transcoders: a folder a layer, `cfg.json` and `sae_weights.safetensors`; encoders [d_model, n_features].

Source: github.com/decoderesearch/SAELens, `saes/transcoder.py`
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.io.json_values import is_number
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    check_settings,
    hook_name,
    join_layers,
    layer_of,
    settings,
    settings_beside,
    wide,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["*cfg.json", "*sae_weights.safetensors"]
FILE, SCALER = "sae_weights.safetensors", "activation_scaler.json"
# reads times one factor, which the trainer folds when it has ended
_SCALED = "expected_average_only_in"
_BY_TOKEN = ("layer_norm", "constant_norm_rescale")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_KNOWN = (
    *("architecture", "metadata", "d_in", "d_out", "d_sae", "dtype", "device"),
    *("hook_name", "hook_name_out", "hook_layer", "hook_layer_out", "model_name", "model_class_name"),
    *("sae_lens_version", "sae_lens_training_version", "neuronpedia_id", "dataset_path", "dataset_trust_remote_code"),
    *("context_size", "prepend_bos", "seqpos_slice", "exclude_special_tokens", "disable_concat_sequences"),
)


def matches(folder: Path) -> bool:
    return any("architecture" in settings(path) for path in folder.glob("*/cfg.json"))


def read(folder: Path, points: Points) -> Layout:
    ones: dict[int, SingleLayer] = {}
    for path in sorted(folder.glob("*/cfg.json")):
        found = read_layer(path.with_name(FILE))
        if found.layer is None or found.layer in ones:
            raise TranscoderError(f"{folder}: {path.parent.name} is of layer {found.layer}, as another folder is.")
        ones[found.layer] = found
    return join_layers("saelens", folder, ones, points)


def is_layer(path: Path) -> bool:
    return path.name == FILE and settings_beside(path, "cfg.json", "architecture") is not None


def read_layer(path: Path) -> SingleLayer:
    file = path.with_name("cfg.json")
    values = settings(file)
    about = values | (values.get("metadata") or {})
    architecture, hooks = values.get("architecture"), (about.get("hook_name"), about.get("hook_name_out"))
    if architecture not in _TRANSCODERS or hooks[0] == hooks[1]:
        raise TranscoderError(
            f"{file}: architecture is {architecture!r} at {hooks[0]!r}: an autoencoder, which stands for no MLP; "
            f"graphs need transcoders ({', '.join(_TRANSCODERS)})."
        )
    if about.get("normalize_activations") in _BY_TOKEN:
        raise TranscoderError(
            f"{file}: normalize_activations is {about['normalize_activations']!r}, which divides what each token reads "
            "by a number of its own: no fixed weights do that; use a set without it."
        )
    said = check_settings(
        file,
        about,
        _KNOWN,
        normalize_activations=["none", None, _SCALED],
        apply_b_dec_to_input=[False, None],
        reshape_activations=["none", None],
        finetuning_scaling_factor=[False, None],
        rescale_acts_by_decoder_norm=[False, None],
        hook_head_index=[None],
        k=[None],
        activation_fn=["relu", None],
        activation_fn_str=["relu", None],
        activation_fn_kwargs=[{}, None],
    )
    layer = about.get("hook_layer", layer_of(hooks[0]))
    if not isinstance(layer, int) or {layer_of(hooks[1]), about.get("hook_layer_out")} - {None, layer}:
        raise TranscoderError(f"{file}: reads at {hooks[0]!r} and writes at {hooks[1]!r}; expected hooks of one layer.")
    tensors = Tensors(path)
    for name, what in (("threshold", "jumprelu"), ("W_skip", "skip")):
        if (what in architecture) != (name in tensors):
            has, needs = ("no", "needs") if what in architecture else ("a", "has not")
            raise TranscoderError(f"{path}: has {has} {name}, which {architecture} {needs}; download it again.")
    scale = _scale(file) if about.get("normalize_activations") == _SCALED else None
    return SingleLayer(
        path,
        partial(_layer, tensors, values, scale),
        settings=(file,) if scale is None else (file, file.with_name(SCALER)),
        layer=layer,
        hooks=(hook_name(hooks[0]), hook_name(hooks[1])),
        is_view=scale is None,
        changes=("encoders are transposed views" if scale is None else "the scale of what is read is folded", *said),
    )


def _scale(file: Path) -> float:
    """By what reads were multiplied in training, as a checkpoint says it."""
    scaler = file.with_name(SCALER)
    values = settings(scaler) if scaler.is_file() else {}
    factor: Any = values.get("scaling_factor")
    if not is_number(factor) or factor <= 0 or values.get("has_whitening"):
        raise TranscoderError(
            f"{file}: normalize_activations is {_SCALED!r}, and {SCALER} beside it does not say by which factor alone; "
            "add it from the checkpoint, or save the transcoder after fold_activation_norm_scaling_factor(factor)."
        )
    return float(factor)


def _layer(tensors: Tensors, values: dict[str, Any], scale: float | None) -> LayerWeights:
    threshold = tensors.get("threshold")
    weights = LayerWeights(
        W_enc=tensors.check_shape("W_enc", values.get("d_in"), values.get("d_sae")).T,
        b_enc=tensors["b_enc"],
        W_dec=tensors.check_shape("W_dec", values.get("d_sae"), values.get("d_out"))[:, None],
        b_dec=tensors["b_dec"],
        # there a feature is on if it exceeds its threshold and zero
        threshold=None if threshold is None else wide(threshold).clamp_min(0),
        W_skip=tensors.get("W_skip"),
    )
    tensors.check_all_read()
    if scale is None:
        return weights
    return replace(  # as fold_activation_norm_scaling_factor does
        weights,
        W_enc=wide(weights.W_enc) * scale,
        W_dec=wide(weights.W_dec) / scale,
        b_dec=wide(weights.b_dec) / scale,
    )
