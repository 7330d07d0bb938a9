"""SAELens transcoders: a folder a layer, `cfg.json` and `sae_weights.safetensors`; encoders [d_model, n_features].

Source: github.com/decoderesearch/SAELens, `saes/transcoder.py`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    Tensors,
    hook_name,
    in_order,
    layer_of,
    one_value,
    refuse_unless,
    settings,
)
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*cfg.json", "*sae_weights.safetensors"]
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def matches(folder: Path) -> bool:
    return any("architecture" in settings(path) for path in folder.glob("*/cfg.json"))


def read(folder: Path, points: Points) -> Layout:
    found: dict[int, Path] = {}
    hooks = []
    for path in sorted(folder.glob("*/cfg.json")):
        layer, *of = _check(path, settings(path))
        if layer in found:
            raise TranscoderError(f"{folder}: {path.parent.name} and {found[layer].name} are both of layer {layer}.")
        found[layer] = path.parent
        hooks.append(of)
    read, write = one_value(folder, "hooks", hooks)
    folders = in_order(folder, found)
    paths = [one / "sae_weights.safetensors" for one in folders]
    at = points.of(folder, read, write, likely=("mlp.hook_in", "hook_mlp_out"))
    config = TranscoderConfig(model_kind=PER_LAYER, **at)
    layer_of = partial(_layer, [Tensors(path) for path in paths])
    files = [one / "cfg.json" for one in folders]
    changes = ("encoders are transposed views",)
    return Layout("saelens", config, files, [[path] for path in paths], layer_of, changes=changes)


def _check(path: Path, values: dict[str, Any]) -> tuple[int, str | None, str | None]:
    """Layer, and where features read and write; refuses what is no transcoder."""
    about = values | (values.get("metadata") or {})
    architecture, hooks = values.get("architecture"), (about.get("hook_name"), about.get("hook_name_out"))
    if architecture not in _TRANSCODERS or hooks[0] == hooks[1]:
        raise TranscoderError(
            f"{path}: architecture is {architecture!r} at {hooks[0]!r}: an autoencoder, which stands for no MLP; "
            f"graphs need transcoders ({', '.join(_TRANSCODERS)})."
        )
    refuse_unless(path, values, normalize_activations=["none", None], apply_b_dec_to_input=[False, None])
    layer = about.get("hook_layer", layer_of(hooks[0]))
    if not isinstance(layer, int) or layer_of(hooks[1]) not in (None, layer):
        raise TranscoderError(f"{path}: reads at {hooks[0]!r} and writes at {hooks[1]!r}; expected hooks of one layer.")
    tensors = Tensors(path.with_name("sae_weights.safetensors"))
    for name, what in (("threshold", "jumprelu"), ("W_skip", "skip")):
        if what in architecture and name not in tensors:
            raise TranscoderError(f"{tensors.path}: has no {name}, which {architecture} needs; download it again.")
    return layer, hook_name(hooks[0]), hook_name(hooks[1])


def _layer(opened: Sequence[Tensors], layer: int) -> LayerWeights:
    tensors = opened[layer]
    threshold = tensors.get("threshold")
    weights = LayerWeights(
        W_enc=tensors.check_shape("W_enc", None, None).T,
        b_enc=tensors["b_enc"],
        W_dec=tensors.check_shape("W_dec", None, None)[:, None],
        b_dec=tensors["b_dec"],
        # there a feature is on if it exceeds its threshold and zero
        threshold=None if threshold is None else threshold.clamp_min(0),
        W_skip=tensors.get("W_skip"),
    )
    tensors.check_all_read()
    return weights
