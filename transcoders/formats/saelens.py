"""SAELens transcoders: a folder a layer, `cfg.json` and `sae_weights.safetensors`; encoders [d_model, n_features].

Source: github.com/decoderesearch/SAELens, `saes/transcoder.py`
"""

from functools import partial
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    Tensors,
    check_settings,
    hook_name,
    join_layers,
    layer_of,
    settings,
    settings_beside,
    wide,
)
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*cfg.json", "*sae_weights.safetensors"]
FILE = "sae_weights.safetensors"
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
    said = check_settings(
        file,
        about,
        _KNOWN,
        normalize_activations=["none", None],
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
    return SingleLayer(
        path,
        partial(_layer, tensors, values),
        settings=(file,),
        layer=layer,
        hooks=(hook_name(hooks[0]), hook_name(hooks[1])),
        changes=("encoders are transposed views", *said),
    )


def _layer(tensors: Tensors, values: dict[str, Any]) -> LayerWeights:
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
    return weights
