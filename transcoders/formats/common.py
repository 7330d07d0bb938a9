"""The field's common layout, circuit-tracer's and this package's own.

Cross-layer: `W_enc_{l}.safetensors` (`W_enc_{l}`, `b_enc_{l}`, `b_dec_{l}`, optional `threshold_{l}`, `W_skip_{l}`)
and `W_dec_{l}.safetensors` (`W_dec_{l}` [n_features, n_layers - l, d_model]). Per layer: `layer_{l}.safetensors`
(`W_enc`, `W_dec` [n_features, d_model], `b_enc`, `b_dec`, optional `activation_function.threshold`, `W_skip`, `k`).
`config.yaml` may list files elsewhere instead, of any layout whose layers lie each for itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attrgraph.errors import TranscoderError
from attrgraph.files import read_yaml
from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.formats import gemma_scope, llamascopium, saelens, sparsify
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    check_settings,
    join_layers,
    numbered,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.hub import fetch_uri, resolve_folder, split_uri
from attrgraph.transcoders.layer_weights import LayerWeights

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
# settings that are read, or that say where a set came from
_KNOWN = (
    *("model_kind", "model_name", "feature_input_hook", "feature_output_hook", "scan", "activation", "k"),
    *("relu_before_topk", "transcoders", "repo_id", "revision", "subfolder", "scan_name"),
)
# loaders of circuit-tracer for files that are known by what they hold
_LOADERS = ("gemma-scope", "gemma-scope-2")
# of the layouts whose layers lie each for itself, and what their files are called in a folder that is listed
_READERS = (sparsify, saelens, llamascopium, gemma_scope)
_FILES = tuple(dict.fromkeys((sparsify.FILE, saelens.FILE, llamascopium.FILE, *gemma_scope.FILES)))
# and the settings that lie beside them
_BESIDE = {
    sparsify.FILE: ("cfg.json",),
    saelens.FILE: ("cfg.json", "config.json", saelens.SCALER),
    "params.safetensors": ("config.json",),
}
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
    loader = ("special_load_fn",) if values.get("special_load_fn") in _LOADERS else ()
    said = check_settings(folder / "config.yaml", values, [*_KNOWN, *loader])
    hooks = (values.get("feature_input_hook"), values.get("feature_output_hook"))
    values |= points.of(folder, *hooks, likely=("hook_resid_mid", "hook_mlp_out"))
    config = TranscoderConfig.from_dict(values, str(folder / "config.yaml"))
    paths = _paths_by_layer(folder, config)
    if not paths:
        first = next(iter(files_of(config))).format(layer=0)
        raise TranscoderError(f"{folder}: holds no transcoder weights (expected {first}, ...).")
    if not config.is_cross_layer:
        ones = {layer: _one(of[0], config, layer) for layer, of in paths.items()}
        layout = join_layers("common", folder, ones, points, config)
    elif "transcoders" not in config.extra:
        layout = _across(paths, config)
    elif all(gemma_scope.is_layer(of[0]) for of in paths.values()):
        layout = gemma_scope.across(folder, {layer: of[0] for layer, of in paths.items()}, config)
    else:
        raise TranscoderError(
            f"{folder}/config.yaml: a cross-layer set can list files in Gemma Scope's layout only; leave the list "
            "out where W_enc_0.safetensors, W_dec_0.safetensors and so on lie in the folder."
        )
    k, n_layers = layout.config.k, max(layout.n_layers, len(config.extra.get("transcoders") or ()))
    _check_k(folder, config, layout)
    config.check_lists(f"{folder}/config.yaml", n_layers)
    extra = {name: value for name, value in config.extra.items() if k is None or name != "activation"}
    files = dict.fromkeys([folder / "config.yaml", *layout.files])
    config = replace(layout.config, extra=extra)
    return replace(layout, config=config, files=list(files), n_layers=n_layers, changes=(*layout.changes, *said))


def _across(paths: Mapping[int, Sequence[Path]], config: TranscoderConfig) -> Layout:
    opened = {layer: [Tensors(path) for path in of] for layer, of in paths.items()}
    first = next(iter(opened))
    decoders = opened[first][1]
    decoders.check_is_matrix(f"W_dec_{first}")
    n_layers = max(max(opened) + 1, first + decoders[f"W_dec_{first}"].shape[1])
    layer = partial(_layer, opened, config)
    return Layout("common", config, [], paths, n_layers, layer)


def _one(path: Path, config: TranscoderConfig, layer: int) -> SingleLayer:
    """A layer's file of any layout, told by the file and by settings beside it."""
    reader = next((reader for reader in _READERS if reader.is_layer(path)), None)
    if reader is not None:
        one: SingleLayer = reader.read_layer(path)
        return one
    tensors = Tensors(path)
    k = _count(tensors) if "k" in tensors else None
    relu = k is None and config.has_relu(layer)
    weights = partial(_layer, {layer: [tensors]}, config, layer)
    return SingleLayer(path, weights, k=config.k_of(layer) if k is None else k, relu_before_topk=relu)


def _count(tensors: Tensors) -> int:
    """The k that a layer holds as a tensor, as circuit-tracer writes it."""
    k = tensors.any("k")
    if k.numel() != 1 or k.is_floating_point() or k.dtype == torch.bool or int(k) < 1:
        shown = k.tolist() if k.numel() == 1 else f"of shape {list(k.shape)}"
        raise TranscoderError(f"{tensors.path}: its k is {shown}; expected one positive integer.")
    return int(k)


def _check_k(folder: Path, config: TranscoderConfig, layout: Layout) -> None:
    """Raise for a TopK without a k."""
    lacking = [layer for layer in layout.weights if layout.config.k_of(layer) is None]
    if config.extra.get("activation") == "topk" and lacking:
        raise TranscoderError(
            f"{folder}/config.yaml: topk needs a positive integer k, and layers {', '.join(map(str, lacking)):.200} "
            "have none, nor does it say one for all; add k (for facebook/crv-8b-instruct-transcoders: 128)."
        )


def _layer(opened: Mapping[int, Sequence[Tensors]], config: TranscoderConfig, layer: int) -> LayerWeights:
    weights: dict[str, Any] = {}
    for tensors, names in zip(opened[layer], files_of(config).values(), strict=True):
        for field, pattern in names.items():
            name = pattern.format(layer=layer)
            weights[field] = tensors.get(name) if field in _OPTIONAL else tensors[name]
            if field.startswith("W_d") or field == "W_enc":
                tensors.check_is_matrix(name)
        tensors.check_all_read(ignored=[] if config.is_cross_layer else ["k"])
        if config.extra.get("activation") == "relu" and ("k" in tensors or weights.get("threshold") is not None):
            raise TranscoderError(
                f"{tensors.path}: has a k or thresholds, but config.yaml says activation: relu; correct it."
            )
    if not config.is_cross_layer:
        weights["W_dec"] = weights["W_dec"].unsqueeze(1)
    return LayerWeights(**weights)


def _paths_by_layer(folder: Path, config: TranscoderConfig) -> dict[int, list[Path]]:
    """The files of each layer, in the order of the layout."""
    named = config.extra.get("transcoders")
    if named is None:
        first, *others = (file.partition("{")[0] for file in files_of(config))
        found = (path for path in folder.iterdir() if re.fullmatch(f"{first}[0-9]+\\.safetensors", path.name))
        paths = numbered(found, where=folder)
        return {
            layer: [path, *(path.with_name(path.name.replace(first, other)) for other in others)]
            for layer, path in paths.items()
        }
    if not isinstance(named, list) or not all(name is None or _is_path(name) for name in named):
        raise TranscoderError(
            f"{folder}/config.yaml: transcoders must be a list of paths, one per layer (null for a layer without one)."
        )
    return {layer: [_listed(folder, name)] for layer, name in enumerate(named) if name is not None}


def _listed(folder: Path, name: str) -> Path:
    """The file of weights that a list names: a file or a folder here, or on the hub."""
    uri, _, _ = name.partition("?")
    is_file = uri.endswith((".safetensors", ".npz"))
    if name.startswith("hf://") and is_file:
        return fetch_uri(name, beside=_BESIDE.get(uri.rpartition("/")[2], ()), error=TranscoderError)
    patterns = [*_FILES, *dict.fromkeys(each for beside in _BESIDE.values() for each in beside)]
    if name.startswith("hf://"):
        repo, inside, revision = split_uri(name, error=TranscoderError)
        return _file_in(
            resolve_folder(f"{repo}/{inside}", revision=revision, patterns=patterns, error=TranscoderError)[0]
        )
    path = folder / name
    if not is_file and not path.exists():
        path, _ = resolve_folder(name, revision=None, patterns=patterns, error=TranscoderError)
    return _file_in(path) if path.is_dir() else path


def _file_in(folder: Path) -> Path:
    found = [folder / name for name in _FILES if (folder / name).exists()]
    if len(found) != 1:
        held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise TranscoderError(f"{folder}: holds {held:.200}; expected one of {', '.join(_FILES)}, or name the file.")
    return found[0]


def _is_path(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_PATH and name.isprintable()
