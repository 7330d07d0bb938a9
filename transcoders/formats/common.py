"""The field's common layout, circuit-tracer's and this package's own.

Cross-layer: `W_enc_{l}.safetensors` (`W_enc_{l}`, `b_enc_{l}`, `b_dec_{l}`, optional `threshold_{l}`, `W_skip_{l}`)
and `W_dec_{l}.safetensors` (`W_dec_{l}` [n_features, n_layers - l, d_model]). Per layer: `layer_{l}.safetensors`
(`W_enc`, `W_dec` [n_features, d_model], `b_enc`, `b_dec`, optional `activation_function.threshold`, `W_skip`, `k`).
`config.yaml` may list files elsewhere instead, each in this layout or in Gemma Scope's.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.files import read_yaml
from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.formats import gemma_scope
from attrgraph.transcoders.formats.reader import Layout, Points, Tensors, numbered, one_value
from attrgraph.transcoders.hub import fetch_uri
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*.safetensors", "*.npz"]
# names of a layer's tensors, by file; all files of a layer together hold every field of `LayerWeights`
CROSS_LAYER_FILES = {
    "W_enc_{layer}.safetensors": {
        name: f"{name}_{{layer}}" for name in ("W_enc", "b_enc", "b_dec", "threshold", "W_skip")
    },
    "W_dec_{layer}.safetensors": {"W_dec": "W_dec_{layer}"},
}
PER_LAYER_FILES = {
    "layer_{layer}.safetensors": {
        **{name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip")},
        "threshold": "activation_function.threshold",
    }
}
_OPTIONAL = ("threshold", "W_skip")
_MOST_BITS, _LONGEST_PATH = 64, 1000


def files_of(config: TranscoderConfig) -> dict[str, dict[str, str]]:
    """Names of files, and of the tensors in each."""
    return CROSS_LAYER_FILES if config.is_cross_layer else PER_LAYER_FILES


def matches(folder: Path) -> bool:
    return (folder / "config.yaml").exists() and "model_kind" in read_settings(folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """What `config.yaml` holds."""
    path = folder / "config.yaml"
    try:
        values = read_yaml(path)
    except (ValueError, OSError) as e:
        raise TranscoderError(f"{path}: cannot be read ({e}).") from e
    if not isinstance(values, dict):
        raise TranscoderError(f"{path}: expected a mapping, got {type(values).__name__}.")
    for name, value in values.items():
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # which Python does not print
            raise TranscoderError(f"{path}: {name} is a number of {value.bit_length()} bits.")
    return values


def read(folder: Path, points: Points) -> Layout:
    values = read_settings(folder)
    hooks = (values.get("feature_input_hook"), values.get("feature_output_hook"))
    values |= points.of(folder, *hooks, likely=("hook_resid_mid", "hook_mlp_out"))
    config = TranscoderConfig.from_dict(values, str(folder / "config.yaml"))
    paths = _paths_by_layer(folder, config)
    if not paths:
        first = next(iter(files_of(config))).format(layer=0)
        raise TranscoderError(f"{folder}: holds no transcoder weights (expected {first}, ...).")
    opened = [[Tensors(path) for path in of] for of in paths]
    is_foreign = [gemma_scope.is_one(of[0]) for of in opened]
    if config.is_cross_layer and "transcoders" in config.extra and not all(is_foreign):
        raise TranscoderError(
            f"{folder}/config.yaml: a cross-layer set can list files in Gemma Scope's layout only; leave the list "
            "out where W_enc_0.safetensors, W_dec_0.safetensors and so on lie in the folder."
        )
    changes = ("encoders are transposed views",) if any(is_foreign) else ()
    layer = partial(_layer, opened, is_foreign, config)
    return Layout("common", _with_k(folder, config, opened), [folder / "config.yaml"], paths, layer, changes=changes)


def _with_k(folder: Path, config: TranscoderConfig, opened: Sequence[Sequence[Tensors]]) -> TranscoderConfig:
    """With the k that layers hold as a tensor, as circuit-tracer writes it."""
    stated = [int(of[0]["k"]) for of in opened if "k" in of[0]]
    if stated and len(stated) < len(opened):
        raise TranscoderError(f"{folder}: only {len(stated)} of {len(opened)} layers have a k.")
    k = one_value(folder, "k", [*stated, *([] if config.k is None else [config.k])]) if stated else config.k
    if k is None and config.extra.get("activation") == "topk":
        raise TranscoderError(
            f"{folder}/config.yaml: topk needs a positive integer k, and neither it nor the layers say one; add k (for "
            "facebook/crv-8b-instruct-transcoders: 128)."
        )
    extra = {name: value for name, value in config.extra.items() if k is None or name != "activation"}
    return replace(config, k=k, relu_before_topk=config.relu_before_topk and not stated, extra=extra)


def _layer(
    opened: Sequence[Sequence[Tensors]], is_foreign: Sequence[bool], config: TranscoderConfig, layer: int
) -> LayerWeights:
    if is_foreign[layer]:
        return gemma_scope.weights_of(opened[layer][0], layer, len(opened), is_cross_layer=config.is_cross_layer)
    weights: dict[str, Any] = {}
    for tensors, names in zip(opened[layer], files_of(config).values(), strict=True):
        for field, pattern in names.items():
            name = pattern.format(layer=layer)
            weights[field] = tensors.get(name) if field in _OPTIONAL else tensors[name]
            if field.startswith("W_d") or field == "W_enc":
                tensors.check_is_matrix(name)
        tensors.check_all_read(ignored=["k"])
    if not config.is_cross_layer:
        weights["W_dec"] = weights["W_dec"].unsqueeze(1)
    return LayerWeights(**weights)


def _paths_by_layer(folder: Path, config: TranscoderConfig) -> list[list[Path]]:
    """The files of each layer, in the order of the layout."""
    named = config.extra.get("transcoders")
    if named is None:
        first, *others = (file.partition("{")[0] for file in files_of(config))
        found = (path for path in folder.iterdir() if re.fullmatch(f"{first}[0-9]+\\.safetensors", path.name))
        paths = numbered(found, where=folder)
        return [[path, *(path.with_name(path.name.replace(first, other)) for other in others)] for path in paths]
    if not isinstance(named, list) or not all(isinstance(name, str) and _is_path(name) for name in named):
        raise TranscoderError(f"{folder}/config.yaml: transcoders must be a list of paths, one per layer.")
    return [[fetch_uri(name, error=TranscoderError) if name.startswith("hf://") else folder / name] for name in named]


def _is_path(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_PATH and name.isprintable()
