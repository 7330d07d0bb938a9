"""Transcoder folders on disk, in the field's common layout: read by memory-mapping, written whole or not at all.

Cross-layer: `W_enc_{l}.safetensors` (`W_enc_{l}`, `b_enc_{l}`, `b_dec_{l}`, optional `threshold_{l}`, `W_skip_{l}`)
and `W_dec_{l}.safetensors` (`W_dec_{l}` [n_features, n_layers - l, d_model]). Per layer: `layer_{l}.safetensors`
(`W_enc`, `W_dec` [n_features, d_model], `b_enc`, `b_dec`, optional `activation_function.threshold`, `W_skip`).
An optional `labels.json` ({layer: {feature: name}}) names features; other tools leave it alone.
"""

import json
import shutil
import tempfile
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
from attrgraph.transcoders.config import CROSS_LAYER, TranscoderConfig
from attrgraph.transcoders.hub import fetch_uri, resolve_folder
from attrgraph.transcoders.transcoders import LayerWeights, Transcoders

_FILE_PATTERNS = ["config.yaml", "labels.json", "*.safetensors"]


def load_transcoders(
    name: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
) -> Transcoders:
    """Open a folder of transcoders. On a CPU the weights stay in their memory-mapped files until they are used.

    Args:
        name: path of a folder, or `owner/repo[/subfolder][@revision]` on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        device: where to put the weights.

    Raises:
        TranscoderError: the folder or a file is missing, truncated or not safetensors, or a shape does not fit.
    """
    folder, source = resolve_folder(str(name), revision=revision, patterns=_FILE_PATTERNS, error=TranscoderError)
    config = _read_config(folder)
    read = _read_cross_layer if config.is_cross_layer else _read_per_layer
    layers = read(folder, config)
    if not layers:
        raise TranscoderError(f"{folder}: holds no transcoder weights (expected {_first_file(config)}, ...).")
    if str(device) != "cpu":
        layers = [weights.map(lambda tensor: tensor.to(device)) for weights in layers]
    return Transcoders(layers, config, source=source, labels=_read_labels(folder))


def save_transcoders(
    transcoders: Transcoders, folder: str | Path, *, overwrite: bool = False, texts: Mapping[str, str] | None = None
) -> None:
    """Write a folder that `load_transcoders` reads. It appears complete or not at all.

    circuit-tracer reads it too, but for what its own loader leaves out: for cross-layer sets k and the linear skip.

    Args:
        transcoders: what to write.
        folder: a new folder, or with `overwrite` one that holds transcoders.
        overwrite: replace it.
        texts: further files by name, such as a model card.

    Raises:
        TranscoderError: the folder exists and `overwrite` is not set, or it cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as e:
        raise TranscoderError(f"{folder}: cannot be written ({e.strerror}).") from e
    try:
        temporary.chmod(0o755)
        for name, tensors in _files(transcoders):
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary / name)
        config = transcoders.config
        if "transcoders" in config.extra:
            names = [f"layer_{layer}.safetensors" for layer in range(transcoders.n_layers)]
            config = replace(config, extra={**config.extra, "transcoders": names})
        (temporary / "config.yaml").write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
        if transcoders.labels:
            text = json.dumps(_nested(transcoders.labels), ensure_ascii=False, indent=0)
            (temporary / "labels.json").write_text(text, encoding="utf-8")
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        for path in temporary.iterdir():
            path.chmod(0o644)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(old / folder.name)
            try:
                temporary.rename(folder)
            except OSError:
                (old / folder.name).rename(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except (OSError, SafetensorError) as e:
        raise TranscoderError(f"{folder}: cannot be written ({e}).") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Raise TranscoderError if `save_transcoders` would refuse: to be asked before long work, not after it."""
    if folder.exists() and not overwrite:
        raise TranscoderError(f"{folder}: exists; choose another name, or overwrite it explicitly (--force).")
    if folder.exists() and not (folder / "config.yaml").is_file():
        raise TranscoderError(f"{folder}: exists and is no folder of transcoders; it is not overwritten.")


def _files(transcoders: Transcoders) -> list[tuple[str, dict[str, Tensor]]]:
    """The weight files to write: names and tensors."""
    files = []
    for layer, w in enumerate(transcoders.layers):
        if transcoders.config.is_cross_layer:
            tensors = {f"W_enc_{layer}": w.W_enc, f"b_enc_{layer}": w.b_enc, f"b_dec_{layer}": w.b_dec}
            optional = {f"threshold_{layer}": w.threshold, f"W_skip_{layer}": w.W_skip}
            files.append((f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": w.W_dec}))
            name = f"W_enc_{layer}.safetensors"
        else:
            tensors = {"W_enc": w.W_enc, "b_enc": w.b_enc, "W_dec": w.W_dec[:, 0], "b_dec": w.b_dec}
            optional = {"activation_function.threshold": w.threshold, "W_skip": w.W_skip}
            name = f"layer_{layer}.safetensors"
        files.append((name, tensors | {key: value for key, value in optional.items() if value is not None}))
    return files


def _nested(labels: dict[tuple[int, int], str]) -> dict[str, dict[str, str]]:
    nested: dict[str, dict[str, str]] = {}
    for (layer, feature), name in sorted(labels.items()):
        nested.setdefault(str(layer), {})[str(feature)] = name
    return nested


def _read_labels(folder: Path) -> dict[tuple[int, int], str]:
    path = folder / "labels.json"
    if not path.is_file():
        return {}
    try:
        nested = json.loads(path.read_text(encoding="utf-8"))
        return {(int(layer), int(f)): str(name) for layer, of in nested.items() for f, name in of.items()}
    except (ValueError, AttributeError, OSError) as e:
        raise TranscoderError(f"{path}: expected {{layer: {{feature: name}}}} in JSON ({e}).") from e


def _read_config(folder: Path) -> TranscoderConfig:
    path = folder / "config.yaml"
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise TranscoderError(f"{folder}: has no config.yaml; is it a folder of transcoders?") from e
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
        raise TranscoderError(f"{path}: cannot be read as YAML ({type(e).__name__}).") from e
    if not isinstance(values, dict):
        raise TranscoderError(f"{path}: expected a mapping, got {type(values).__name__}.")
    return TranscoderConfig.from_dict(values, str(path))


def _first_file(config: TranscoderConfig) -> str:
    return "W_enc_0.safetensors" if config.model_kind == CROSS_LAYER else "layer_0.safetensors"


def _layer_numbers(folder: Path, prefix: str) -> list[int]:
    """Layers that have a file `{prefix}{layer}.safetensors`; they must be 0, 1, 2, ..."""
    names = [path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.safetensors")]
    layers = sorted(int(name) for name in names if name.isdigit())
    if layers != list(range(len(layers))):
        missing = min(set(range(len(layers))) - set(layers))
        raise TranscoderError(f"{folder}: {prefix}{missing}.safetensors is missing (found layers {layers}).")
    return layers


def _read_cross_layer(folder: Path, config: TranscoderConfig) -> list[LayerWeights]:
    layers = []
    for layer in _layer_numbers(folder, "W_enc_"):
        encoder = _TensorFile(folder / f"W_enc_{layer}.safetensors")
        decoder = _TensorFile(folder / f"W_dec_{layer}.safetensors")
        weights = LayerWeights(
            W_enc=encoder.take(f"W_enc_{layer}"),
            b_enc=encoder.take(f"b_enc_{layer}"),
            W_dec=decoder.take(f"W_dec_{layer}"),
            b_dec=encoder.take(f"b_dec_{layer}"),
            threshold=encoder.take_optional(f"threshold_{layer}"),
            W_skip=encoder.take_optional(f"W_skip_{layer}"),
        )
        encoder.refuse_leftovers()
        decoder.refuse_leftovers()
        layers.append(weights)
    return layers


def _read_per_layer(folder: Path, config: TranscoderConfig) -> list[LayerWeights]:
    named = config.extra.get("transcoders")
    if named is None:
        paths = [folder / f"layer_{layer}.safetensors" for layer in _layer_numbers(folder, "layer_")]
    elif isinstance(named, list) and all(isinstance(name, str) for name in named):
        paths = [
            fetch_uri(name, error=TranscoderError) if name.startswith("hf://") else folder / name for name in named
        ]
    else:
        raise TranscoderError(f"{folder}/config.yaml: transcoders must be a list of paths, one per layer.")
    layers = []
    for path in paths:
        file = _TensorFile(path)
        weights = LayerWeights(
            W_enc=file.take("W_enc"),
            b_enc=file.take("b_enc"),
            W_dec=file.take("W_dec").unsqueeze(1),
            b_dec=file.take("b_dec"),
            threshold=file.take_optional("activation_function.threshold"),
            W_skip=file.take_optional("W_skip"),
        )
        file.refuse_leftovers()
        layers.append(weights)
    return layers


class _TensorFile:
    """The tensors of a safetensors file as views of its memory map: nothing is read until it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.suffix != ".safetensors":
            raise TranscoderError(f"{path}: only safetensors files can be read; convert the weights.")
        try:
            with safe_open(path, framework="pt") as file:
                self._left: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except FileNotFoundError as e:
            raise TranscoderError(f"{path}: is missing.") from e
        except (SafetensorError, OSError) as e:
            raise TranscoderError(f"{path}: is not a whole safetensors file ({e}); copy or download it again.") from e

    def take(self, name: str) -> Tensor:
        if name not in self._left:
            holds = ", ".join(sorted(self._left)) or "nothing"
            raise TranscoderError(f"{self._path}: has no tensor {name}; it holds {holds}.")
        return self._left.pop(name)

    def take_optional(self, name: str) -> Tensor | None:
        return self._left.pop(name, None)

    def refuse_leftovers(self) -> None:
        """A tensor that nothing reads could change what the transcoder computes."""
        if self._left:
            raise TranscoderError(
                f"{self._path}: has tensors that this format does not know: {', '.join(sorted(self._left))}; "
                "was it written by another tool?"
            )
