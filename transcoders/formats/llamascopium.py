"""Llamascopium (Language-Model-SAEs): `config.json` and `sae_weights.safetensors`, a folder a layer or one for all.

Inputs and outputs are scaled to norm sqrt(d_model) by their average norm in the data set, which is folded. Where
sparsity includes the decoder's norm, features are compared after being scaled by it: thresholds are divided by it, or
the norm is folded into top-k activations.

Source: github.com/OpenMOSS/Language-Model-SAEs
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    Tensors,
    hook_name,
    in_order,
    k_of,
    layer_of,
    one_value,
    refuse_unless,
    settings,
    wide,
)
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*config.json", "*sae_weights.safetensors"]
_FILE, _THRESHOLD = "sae_weights.safetensors", "activation_function.log_jumprelu_threshold"
_CHANGES = ("norms of inputs and outputs are folded", "decoders are put together by source")


def _settings_of(folder: Path) -> list[Path]:
    one = folder / "config.json"
    return [one] if one.is_file() and "sae_type" in settings(one) else sorted(folder.glob("*/config.json"))


def matches(folder: Path) -> bool:
    return any("sae_type" in settings(path) for path in _settings_of(folder))


def read(folder: Path, points: Points) -> Layout:
    paths = _settings_of(folder)
    is_cross_layer = settings(paths[0]).get("sae_type") == "clt"
    if not is_cross_layer:
        layers = {layer_of(settings(path).get("hook_point_in")): path for path in paths}
        if None in layers or len(layers) < len(paths):
            raise TranscoderError(f"{folder}: hook_point_in of each folder has to name a layer of its own (blocks.3.).")
        paths = in_order(folder, {layer: path for layer, path in layers.items() if layer is not None})
    configs = [settings(path) for path in paths]
    for path, values in zip(paths, configs, strict=True):
        _check(path, values)
    hooks = [_hooks(values) for values in configs]
    reads, writes = ([side for pair in hooks for side in pair[i]] for i in (0, 1))
    if reads == writes:
        raise TranscoderError(f"{folder}: reads and writes {reads[0]!r}: an autoencoder; graphs need transcoders.")
    for number, pair in enumerate(zip(reads, writes, strict=True)):
        if any(layer_of(hook) != number for hook in pair):
            raise TranscoderError(f"{folder}: layer {number} reads and writes at {pair}; expected hooks of this layer.")
    names = [one_value(folder, "hooks", [hook_name(hook) for hook in side]) for side in (reads, writes)]
    at = points.of(folder, *names, likely=("ln2.hook_normalized", "hook_mlp_out"))
    activation = one_value(folder, "act_fn", [values["act_fn"] for values in configs])
    k = k_of(folder, [values.get("top_k") for values in configs]) if activation == "topk" else None
    config = TranscoderConfig(model_kind=CROSS_LAYER if is_cross_layer else PER_LAYER, k=k, **at)
    weights = [path.parent / _FILE for path in paths]
    opened = [Tensors(path) for path in weights]
    for tensors in opened:
        if (activation == "jumprelu") != (_THRESHOLD in tensors):
            raise TranscoderError(f"{tensors.path}: its thresholds do not fit act_fn {activation!r}.")
        decoders = [f"{name}.{i}" for name in ("W_D", "b_D") for i in range(len(reads))]
        norms = [f"dataset_average_activation_norm.{hook}" for hook in (*reads, *writes)]
        tensors.check_all_read(ignored=["W_E", "b_E", "W_D", "b_D", _THRESHOLD, *decoders, *norms])
    layer = partial(_layer, opened, configs, reads, writes)
    by_layer = [weights] * len(reads) if is_cross_layer else [[path] for path in weights]
    return Layout("llamascopium", config, paths, by_layer, layer, is_view=False, changes=_CHANGES)


def _check(path: Path, values: dict[str, Any]) -> None:
    refuse_unless(
        path,
        {"sae_type": None, "act_fn": None, **values},
        sae_type=["sae", "clt"],
        act_fn=["relu", "jumprelu", "topk"],
        norm_activation=["dataset-wise", "inference"],
        use_glu_encoder=[False],
        use_decoder_bias=[True],
    )


def _hooks(values: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    if values["sae_type"] == "clt":
        return list(values["hook_points_in"]), list(values["hook_points_out"])
    return [values["hook_point_in"]], [values["hook_point_out"]]


def _layer(
    opened: Sequence[Tensors],
    configs: Sequence[dict[str, Any]],
    reads: Sequence[str],
    writes: Sequence[str],
    layer: int,
) -> LayerWeights:
    n_layers = len(reads)
    is_cross_layer = configs[0]["sae_type"] == "clt"
    own, values = (opened[0], configs[0]) if is_cross_layer else (opened[layer], configs[layer])
    W_E, b_E, limit = own["W_E"], own["b_E"], own.get(_THRESHOLD)
    if is_cross_layer:
        W_E, b_E, limit = W_E[layer], b_E[layer], None if limit is None else limit[layer]
        targets = range(layer, n_layers)
        rows, b_D = torch.stack([wide(own[f"W_D.{target}"][layer]) for target in targets], 1), own[f"b_D.{layer}"]
    else:
        targets, rows, b_D = range(layer, layer + 1), wide(own["W_D"])[:, None], own["b_D"]
    scales = torch.stack([_scale(own, values, writes[target]) for target in targets])
    weights = LayerWeights(
        W_enc=wide(W_E).T * _scale(own, values, reads[layer]),
        b_enc=wide(b_E),
        W_dec=rows / scales[:, None],
        b_dec=wide(b_D) / scales[0],
        threshold=None if limit is None else wide(limit).exp(),
    )
    return _with_norms(weights, rows) if values.get("sparsity_include_decoder_norm") else weights


def _scale(tensors: Tensors, values: dict[str, Any], hook: str) -> Tensor:
    """What a stream is multiplied by so that its average norm is sqrt(d_model)."""
    if values.get("norm_activation") == "inference":
        return torch.tensor(1.0)
    return torch.tensor(sqrt(values["d_model"]) / tensors.scalar(f"dataset_average_activation_norm.{hook}"))


def _with_norms(weights: LayerWeights, rows: Tensor) -> LayerWeights:
    """Features scaled by the norms of their decoders; a threshold is divided instead, which changes no activation."""
    norms = rows.flatten(1).norm(dim=1)
    norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)  # of a feature that writes nothing, and never passes
    if weights.threshold is not None:
        largest = torch.finfo(norms.dtype).max
        return replace(weights, threshold=(weights.threshold / norms).clamp_max(largest))
    return replace(
        weights,
        W_enc=weights.W_enc * norms[:, None],
        b_enc=weights.b_enc * norms,
        W_dec=weights.W_dec / norms[:, None, None],
    )
