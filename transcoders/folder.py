"""Transcoder folders on disk, in the field's common layout: read by memory-mapping, written whole or not at all.

Cross-layer: `W_enc_{l}.safetensors` (`W_enc_{l}`, `b_enc_{l}`, `b_dec_{l}`, optional `threshold_{l}`, `W_skip_{l}`)
and `W_dec_{l}.safetensors` (`W_dec_{l}` [n_features, n_layers - l, d_model]). Per layer: `layer_{l}.safetensors`
(`W_enc`, `W_dec` [n_features, d_model], `b_enc`, `b_dec`, optional `activation_function.threshold`, `W_skip`).
An optional `labels.json` ({layer: {feature: name}}) names features; other tools leave it alone.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.files import read_json, read_yaml, whole_folder
from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.hub import digest_files, fetch_uri, resolve_folder
from attrgraph.transcoders.transcoders import LayerWeights, Transcoders

_FILE_PATTERNS = ["config.yaml", "labels.json", "*.safetensors"]
_OPTIONAL = ("threshold", "W_skip")
# names of a layer's tensors, by file; all files of a layer together hold every field of `LayerWeights`
_CROSS_LAYER_FILES = {
    "W_enc_{layer}.safetensors": {
        name: f"{name}_{{layer}}" for name in ("W_enc", "b_enc", "b_dec", "threshold", "W_skip")
    },
    "W_dec_{layer}.safetensors": {"W_dec": "W_dec_{layer}"},
}
_PER_LAYER_FILES = {
    "layer_{layer}.safetensors": {
        **{name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip")},
        "threshold": "activation_function.threshold",
    }
}


def load_transcoders(
    name: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
) -> Transcoders:
    """Open a folder of transcoders. On a CPU the weights stay in their memory-mapped files until they are used.

    Encoders that were written transposed are noticed by their shape, but not if they are square.

    Args:
        name: path of a folder, or `owner/repo[/subfolder][@revision]` on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        device: where to put the weights.

    Raises:
        TranscoderError: the folder or a file is missing, truncated or not safetensors, or a shape does not fit.
    """
    folder, source = resolve_folder(str(name), revision=revision, patterns=_FILE_PATTERNS, error=TranscoderError)
    config = _read_config(folder)
    files = _paths_by_layer(folder, config)
    layers = [_read_layer(layer, paths, config) for layer, paths in enumerate(files)]
    if not layers:
        first = next(iter(_layout(config))).format(layer=0)
        raise TranscoderError(f"{folder}: holds no transcoder weights (expected {first}, ...).")
    used = [path for paths in files for path in paths]
    # files from elsewhere are not those of the commit
    if "revision" not in source or any(path.parent != folder for path in used):
        source["digest"] = digest_files([folder / "config.yaml", *used])
    layers = [weights.map(lambda tensor: tensor.to(device)) for weights in layers]
    return Transcoders(layers, config, source=source, labels=_read_labels(folder))


def save_transcoders(
    transcoders: Transcoders, folder: str | Path, *, overwrite: bool = True, texts: Mapping[str, str] | None = None
) -> None:
    """Write a folder that `load_transcoders` reads. It appears complete or not at all.

    circuit-tracer reads it too, but its loader ignores two things in cross-layer sets: k and the linear skip.

    Args:
        transcoders: what to write.
        folder: a new folder, or one that holds transcoders, which are replaced.
        overwrite: False refuses a folder that exists.
        texts: further files by name, such as a model card.

    Raises:
        TranscoderError: the folder exists and `overwrite` is False, or holds something else, or cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, overwrite=overwrite)
    config = transcoders.config
    if "transcoders" in config.extra:
        files = [f"layer_{layer}.safetensors" for layer in range(transcoders.n_layers)]
        config = replace(config, extra={**config.extra, "transcoders": files})
    contents = {"config.yaml": yaml.safe_dump(config.to_dict()), **(texts or {})}
    if transcoders.labels:
        nested: dict[str, dict[str, str]] = {}
        for (layer, feature), name in sorted(transcoders.labels.items()):
            nested.setdefault(str(layer), {})[str(feature)] = name
        contents["labels.json"] = json.dumps(nested, ensure_ascii=False, indent=0)
    try:
        with whole_folder(folder) as temporary:
            for layer, weights in enumerate(transcoders.layers):
                stored = vars(weights)
                if not config.is_cross_layer:  # without the axis of one target layer
                    stored = {**stored, "W_dec": weights.W_dec.squeeze(1)}
                for file, names in _layout(config).items():
                    present = {field: name for field, name in names.items() if stored[field] is not None}
                    tensors = {name.format(layer=layer): stored[field].contiguous() for field, name in present.items()}
                    save_file(tensors, temporary / file.format(layer=layer))
            for name, text in contents.items():
                (temporary / name).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as e:
        raise TranscoderError(f"{folder}: cannot be written ({e}).") from e


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Raise TranscoderError if `save_transcoders` would refuse: to be asked before long work, not after it."""
    if folder.exists() and not overwrite:
        raise TranscoderError(f"{folder}: exists; choose another name or pass --force (overwrite=True).")
    if folder.exists() and not (folder / "config.yaml").is_file():
        raise TranscoderError(f"{folder}: exists and is no folder of transcoders; it is not overwritten.")


def _layout(config: TranscoderConfig) -> dict[str, dict[str, str]]:
    return _CROSS_LAYER_FILES if config.is_cross_layer else _PER_LAYER_FILES


def _read_labels(folder: Path) -> dict[tuple[int, int], str]:
    path = folder / "labels.json"
    if not path.is_file():
        return {}
    try:
        nested = read_json(path)
        labels = {(int(layer), int(f)): str(name) for layer, of in nested.items() for f, name in of.items()}
        "".join(labels.values()).encode()  # half a surrogate pair could be written nowhere
        return labels
    except (ValueError, AttributeError, OSError) as e:
        raise TranscoderError(f"{path}: expected {{layer: {{feature: name}}}} in JSON ({e}).") from e


def _read_config(folder: Path) -> TranscoderConfig:
    path = folder / "config.yaml"
    try:
        values = read_yaml(path)
    except FileNotFoundError as e:
        raise TranscoderError(f"{folder}: has no config.yaml; is it a folder of transcoders?") from e
    except (ValueError, OSError) as e:
        raise TranscoderError(f"{path}: cannot be read ({e}).") from e
    if not isinstance(values, dict):
        raise TranscoderError(f"{path}: expected a mapping, got {type(values).__name__}.")
    return TranscoderConfig.from_dict(values, str(path))


def _layer_numbers(folder: Path, prefix: str) -> list[int]:
    """Layers that have a file `{prefix}{layer}.safetensors`; they must be 0, 1, 2, ..."""
    names = [path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.safetensors")]
    layers = sorted(int(name) for name in names if name.isascii() and name.isdigit())
    if layers != list(range(len(layers))):
        missing = min(set(range(len(layers))) - set(layers))
        raise TranscoderError(f"{folder}: {prefix}{missing}.safetensors is missing (found layers {layers}).")
    return layers


def _paths_by_layer(folder: Path, config: TranscoderConfig) -> list[list[Path]]:
    """The files of each layer, in the order of the layout."""
    named = None if config.is_cross_layer else config.extra.get("transcoders")
    if named is None:
        files = list(_layout(config))
        layers = _layer_numbers(folder, files[0].partition("{")[0])
        return [[folder / file.format(layer=layer) for file in files] for layer in layers]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise TranscoderError(f"{folder}/config.yaml: transcoders must be a list of paths, one per layer.")
    return [[fetch_uri(name, error=TranscoderError) if name.startswith("hf://") else folder / name] for name in named]


def _read_layer(layer: int, paths: list[Path], config: TranscoderConfig) -> LayerWeights:
    weights: dict[str, Any] = {}
    for path, names in zip(paths, _layout(config).values(), strict=True):
        found = _read_tensors(path)
        for field, pattern in names.items():
            name = pattern.format(layer=layer)
            if name not in found and field not in _OPTIONAL:
                raise TranscoderError(
                    f"{path}: has no tensor {name}; it holds {', '.join(sorted(found)) or 'nothing'}."
                )
            weights[field] = found.pop(name, None)
        if found:  # a tensor that nothing reads could change what the transcoder computes
            raise TranscoderError(
                f"{path}: has tensors that this format does not know: {', '.join(sorted(found))}; "
                "was it written by another tool?"
            )
    for name in ("W_enc", "W_dec"):
        if weights[name].ndim < 2:
            raise TranscoderError(
                f"{paths[0]}: {name} of layer {layer} has shape {list(weights[name].shape)}, expected a matrix."
            )
    if not config.is_cross_layer:
        weights["W_dec"] = weights["W_dec"].unsqueeze(1)
    return LayerWeights(**weights)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of its memory map: nothing is read until it is used."""
    if path.suffix != ".safetensors":
        raise TranscoderError(f"{path}: only safetensors files can be read; convert the weights.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as e:
        raise TranscoderError(f"{path}: is missing.") from e
    except (SafetensorError, OSError) as e:
        raise TranscoderError(f"{path}: is not a whole safetensors file ({e}); copy or download it again.") from e
