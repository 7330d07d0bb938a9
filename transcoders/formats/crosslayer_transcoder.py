"""crosslayer-transcoder: `config.yaml` that describes the model's classes, and `checkpoint.safetensors`.

Encoders are stored [n_layers, d_model, n_features], decoders by target: `decoder.W_{t}` [t + 1, n_features, d_model],
or `decoder.W` of a per-layer set. Standardisers of inputs and outputs are folded, unless they have been already.

Source: github.com/Goreg12345/crosslayer-transcoder, `model/standardize.py`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats import common
from attrgraph.transcoders.formats.reader import Layout, Points, check_settings, k_of, wide
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["checkpoint.safetensors"]
_NONLINEARITIES = ("ReLU", "JumpReLU", "PerLayerTopK")
# what scales activations: by numbers that are stored; the last changes nothing
_STANDARDIZERS = (
    *(f"{by}wise{side}Standardizer" for by in ("Dimension", "Layer") for side in ("Input", "Output")),
    "Standardizer",
)
_KNOWN = (
    *("class_path", "init_args"),
    *("encoder", "decoder", "nonlinearity", "input_standardizer", "output_standardizer"),
)
_FILE = "checkpoint.safetensors"


def matches(folder: Path) -> bool:
    return (folder / "config.yaml").exists() and "model" in common.read_settings(folder)


def read(folder: Path, points: Points) -> Layout:
    parts = _parts(folder)
    nonlinearity = _class_of(folder, parts, "nonlinearity", _NONLINEARITIES)
    k = k_of(folder / "config.yaml", _sizes(parts, "nonlinearity").get("k")) if nonlinearity == "PerLayerTopK" else None
    tensors, model = Tensors(folder / _FILE), common.read_settings(folder)["model"]
    is_folded = model.get("is_folded", False)
    said = check_settings(folder / "config.yaml", model | parts, _KNOWN, is_folded=[False, True])
    for side in ("input_standardizer", "output_standardizer"):
        has_weights = f"{side}.std" in tensors
        scales = parts.get(side) is not None and _class_of(folder, parts, side, _STANDARDIZERS) != "Standardizer"
        if bool(is_folded and has_weights) or (scales and not (is_folded or has_weights)):
            raise TranscoderError(
                f"{folder}: config.yaml says is_folded: {str(is_folded).lower()}, and the checkpoint has "
                f"{'an' if has_weights else 'no'} {side}; it cannot be told whether scales are folded."
            )
    is_cross_layer = "decoder.W" not in tensors
    hooks = points.of(folder, None, None, likely=("mlp.hook_in", "mlp.hook_out"))
    config = TranscoderConfig(model_kind=CROSS_LAYER if is_cross_layer else PER_LAYER, k=k, **hooks)
    stated = _sizes(parts, "encoder")
    check_settings(folder / "config.yaml", stated, stated)
    sizes = [stated.get(name) for name in ("n_layers", "d_acts", "d_features")]
    n_layers = len(tensors.check_shape("encoder.W", *sizes))
    decoders = [f"decoder.W_{target}" for target in range(n_layers)] if is_cross_layer else ["decoder.W"]
    _ = [tensors[name] for name in ("encoder.b", *decoders)], tensors.get("decoder.b")
    _ = [tensors.get(f"{side}_standardizer.{name}") for side in ("input", "output") for name in ("mean", "std")]
    if (nonlinearity == "JumpReLU") != (tensors.get("nonlinearity.theta") is not None):
        raise TranscoderError(f"{tensors.path}: nonlinearity.theta does not fit {nonlinearity}.")
    tensors.check_all_read(ignored=["nonlinearity.bandwidth"])
    return Layout(
        "crosslayer-transcoder",
        config,
        [folder / "config.yaml"],
        {layer: [folder / _FILE] for layer in range(n_layers)},
        n_layers,
        partial(_layer, tensors, is_cross_layer),
        is_view=False,
        changes=("decoders are put together by source", "standardisers, if any, are folded", *said),
    )


def _parts(folder: Path) -> dict[str, Any]:
    model = common.read_settings(folder)["model"]
    parts = model.get("init_args") if isinstance(model, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(part, dict | None) for part in parts.values()):
        raise TranscoderError(f"{folder}/config.yaml: model.init_args is no mapping of the model's parts.")
    return parts


def _class_of(folder: Path, parts: dict[str, Any], part: str, expected: Sequence[str]) -> str:
    """The name of a part's class, which must be one of those expected."""
    name = str((parts.get(part) or {}).get("class_path", "")).rpartition(".")[2]
    if name not in expected:
        raise TranscoderError(
            f"{folder}/config.yaml: {part} is {name!r}, which these graphs cannot express; expected one of "
            f"{', '.join(expected)}."
        )
    return name


def _sizes(parts: dict[str, Any], part: str) -> dict[str, Any]:
    return (parts.get(part) or {}).get("init_args") or {}


def _layer(tensors: Tensors, is_cross_layer: bool, layer: int) -> LayerWeights:
    n_layers = len(tensors["encoder.W"])
    W_enc, b_enc = wide(tensors["encoder.W"][layer]), wide(tensors["encoder.b"][layer])
    if "input_standardizer.std" in tensors:
        # a number a dimension, or one for all
        mean, std = (wide(tensors[f"input_standardizer.{name}"][layer]).expand(len(W_enc)) for name in ("mean", "std"))
        W_enc = W_enc / std[:, None]
        b_enc = b_enc - mean @ W_enc
    if is_cross_layer:
        rows = [wide(tensors[f"decoder.W_{target}"][layer]) for target in range(layer, n_layers)]
    else:
        rows = [wide(tensors["decoder.W"][layer])]
    b_dec = wide(tensors["decoder.b"][layer]) if "decoder.b" in tensors else rows[0].new_zeros(rows[0].shape[1])
    if "output_standardizer.std" in tensors:
        stds = wide(tensors["output_standardizer.std"])
        rows = [row * stds[layer + i] for i, row in enumerate(rows)]
        b_dec = b_dec * stds[layer] + wide(tensors["output_standardizer.mean"][layer])
    return LayerWeights(W_enc.T, b_enc, torch.stack(rows, 1), b_dec, threshold=_threshold(tensors, layer))


def _threshold(tensors: Tensors, layer: int) -> Tensor | None:
    """There a feature is on if it exceeds its threshold and zero."""
    theta = tensors.get("nonlinearity.theta")
    return None if theta is None else wide(theta.flatten(0, -2)[layer]).clamp_min(0)
