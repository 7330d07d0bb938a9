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
from attrgraph.transcoders.config import CROSS_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    check_settings,
    hook_name,
    join_layers,
    k_of,
    layer_of,
    one_value,
    settings,
    settings_beside,
    wide,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["*config.json", "*sae_weights.safetensors"]
FILE, _THRESHOLD = "sae_weights.safetensors", "activation_function.log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm"
_CHANGES = ("norms of inputs and outputs are folded",)
_KNOWN = (
    *("d_model", "expansion_factor", "top_k"),
    *("hook_point_in", "hook_point_out", "hook_points_in", "hook_points_out"),
    # how it was trained, and how fast it computes
    *("use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel", "jumprelu_threshold_window", "device", "dtype"),
    *("init_cross_layer_decoder_all_zero", "decode_with_csr", "sparsity_threshold_for_csr", "promote_act_fn_dtype"),
    *("sae_pretrained_name_or_path", "strict_loading", "force_unit_decoder_norm"),
)


def _settings_of(folder: Path) -> list[Path]:
    one = folder / "config.json"
    return [
        path for path in (one, *sorted(folder.glob("*/config.json"))) if path.is_file() and "sae_type" in settings(path)
    ]


def matches(folder: Path) -> bool:
    return bool(_settings_of(folder))


def read(folder: Path, points: Points) -> Layout:
    paths = _settings_of(folder)
    if settings(paths[0]).get("sae_type") == "clt":
        return _across(folder, paths[0], points)
    layers = {layer_of(settings(path).get("hook_point_in")): path for path in paths}
    if None in layers or len(layers) < len(paths):
        raise TranscoderError(f"{folder}: hook_point_in of each folder has to name a layer of its own (blocks.3.).")
    ones = {layer: read_layer(path.with_name(FILE)) for layer, path in layers.items() if layer is not None}
    return join_layers("llamascopium", folder, ones, points)


def is_layer(path: Path) -> bool:
    return path.name == FILE and settings_beside(path, "config.json", "sae_type") is not None


def read_layer(path: Path) -> SingleLayer:
    file = path.with_name("config.json")
    values = settings(file)
    said = _check(file, values, "sae")
    reads, writes = values["hook_point_in"], values.get("hook_point_out", values["hook_point_in"])
    if reads == writes:
        raise TranscoderError(f"{file}: reads and writes {reads!r}: an autoencoder; graphs need transcoders.")
    layer = layer_of(reads)
    if layer is None or layer_of(writes) != layer:
        raise TranscoderError(f"{file}: reads at {reads!r} and writes at {writes!r}; expected hooks of one layer.")
    tensors = Tensors(path)
    _check_tensors(tensors, values, ["W_E", "b_E", "W_D", "b_D"], [reads, writes])
    return SingleLayer(
        path,
        partial(_one_layer, tensors, values, reads, writes),
        settings=(file,),
        layer=layer,
        hooks=(hook_name(reads), hook_name(writes)),
        k=k_of(file, values.get("top_k")) if values["act_fn"] == "topk" else None,
        is_view=False,
        changes=(*_CHANGES, *said),
    )


def _across(folder: Path, file: Path, points: Points) -> Layout:
    """A cross-layer set, which is one folder."""
    values = settings(file)
    said = _check(file, values, "clt")
    reads, writes = list(values["hook_points_in"]), list(values["hook_points_out"])
    for number, pair in enumerate(zip(reads, writes, strict=True)):
        if any(layer_of(hook) != number for hook in pair):
            raise TranscoderError(f"{folder}: layer {number} reads and writes at {pair}; expected hooks of this layer.")
    names = [one_value(folder, "hooks", [hook_name(hook) for hook in side]) for side in (reads, writes)]
    at = points.of(folder, *names, likely=("ln2.hook_normalized", "hook_mlp_out"))
    k = k_of(file, values.get("top_k")) if values["act_fn"] == "topk" else None
    tensors = Tensors(file.with_name(FILE))
    decoders = [f"{name}.{i}" for name in ("W_D", "b_D") for i in range(len(reads))]
    _check_tensors(tensors, values, ["W_E", "b_E", *decoders], [*reads, *writes])
    return Layout(
        "llamascopium",
        TranscoderConfig(model_kind=CROSS_LAYER, k=k, **at),
        [file],
        {layer: [tensors.path] for layer in range(len(reads))},
        len(reads),
        partial(_layer_across, tensors, values, reads, writes),
        is_view=False,
        changes=(*_CHANGES, "decoders are put together by source", *said),
    )


def _check(file: Path, values: dict[str, Any], kind: str) -> tuple[str, ...]:
    return check_settings(
        file,
        {"sae_type": None, "act_fn": None, **values},
        _KNOWN,
        sae_type=[kind],
        act_fn=["relu", "jumprelu", "topk"],
        norm_activation=["dataset-wise", "inference"],
        sparsity_include_decoder_norm=[True, False],
        use_glu_encoder=[False],
        apply_decoder_bias_to_pre_encoder=[False],
        # a transcoder of one layer has no bias then, those across layers have one all the same
        use_decoder_bias=[True, False],
    )


def _check_tensors(tensors: Tensors, values: dict[str, Any], names: Sequence[str], hooks: Sequence[str]) -> None:
    if (values["act_fn"] == "jumprelu") != (_THRESHOLD in tensors):
        raise TranscoderError(f"{tensors.path}: its thresholds do not fit act_fn {values['act_fn']!r}.")
    tensors.check_all_read(ignored=[*names, _THRESHOLD, *(f"{_NORM}.{hook}" for hook in hooks)])


def _sizes(values: dict[str, Any]) -> tuple[int | None, int | None]:
    """Those stated: d_model, and the number of features."""
    d_model, factor = values.get("d_model"), values.get("expansion_factor")
    return d_model, None if d_model is None or factor is None else int(d_model * factor)


def _one_layer(tensors: Tensors, values: dict[str, Any], reads: str, writes: str) -> LayerWeights:
    d_model, d_sae = _sizes(values)
    rows = wide(tensors.check_shape("W_D", d_sae, d_model))[:, None]
    has_bias = values.get("use_decoder_bias", True)
    if not has_bias and "b_D" in tensors:
        raise TranscoderError(f"{tensors.path}: has a b_D, but use_decoder_bias is false; correct config.json.")
    b_D = tensors["b_D"] if has_bias else rows.new_zeros(rows.shape[2])
    W_E, b_E = tensors.check_shape("W_E", d_model, d_sae), tensors["b_E"]
    limit = tensors.check_shape(_THRESHOLD, W_E.shape[1]) if _THRESHOLD in tensors else None
    return _folded((W_E, b_E, limit), rows, b_D, [_scale(tensors, values, hook) for hook in (reads, writes)], values)


def _layer_across(
    tensors: Tensors, values: dict[str, Any], reads: Sequence[str], writes: Sequence[str], layer: int
) -> LayerWeights:
    d_model, d_sae = _sizes(values)
    W_E, b_E = tensors.check_shape("W_E", len(reads), d_model, d_sae)[layer], tensors["b_E"][layer]
    limit = tensors.check_shape(_THRESHOLD, len(reads), len(b_E)) if _THRESHOLD in tensors else None
    targets = range(layer, len(reads))
    decoders = [wide(tensors.check_shape(f"W_D.{to}", to + 1, d_sae, d_model)[layer]) for to in targets]
    rows, b_D = torch.stack(decoders, 1), tensors[f"b_D.{layer}"]
    scales = [_scale(tensors, values, hook) for hook in (reads[layer], *(writes[to] for to in targets))]
    return _folded((W_E, b_E, None if limit is None else limit[layer]), rows, b_D, scales, values)


def _folded(
    encoder: tuple[Tensor, Tensor, Tensor | None],
    rows: Tensor,
    b_D: Tensor,
    scales: Sequence[Tensor],
    values: dict[str, Any],
) -> LayerWeights:
    """With the scales of what is read and of each stream that is written into, in this order."""
    W_E, b_E, limit = encoder
    written = torch.stack(list(scales[1:]))
    weights = LayerWeights(
        W_enc=wide(W_E).T * scales[0],
        b_enc=wide(b_E),
        W_dec=rows / written[:, None],
        b_dec=wide(b_D) / written[0],
        threshold=None if limit is None else wide(limit).exp(),
    )
    # norms count unless settings say otherwise; what is above zero is so at any scale
    has_norms = values.get("sparsity_include_decoder_norm", True) and values["act_fn"] != "relu"
    return _with_norms(weights, rows) if has_norms else weights


def _scale(tensors: Tensors, values: dict[str, Any], hook: str) -> Tensor:
    """What a stream is multiplied by so that its average norm is sqrt(d_model)."""
    if values.get("norm_activation") == "inference":
        return torch.tensor(1.0)
    return torch.tensor(sqrt(values["d_model"]) / tensors.scalar(f"{_NORM}.{hook}"))


def _with_norms(weights: LayerWeights, rows: Tensor) -> LayerWeights:
    """Features scaled by the norms of their decoders; a threshold is divided instead, which changes no activation."""
    norms = rows.flatten(1).norm(dim=1)
    norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)  # of a feature that writes nothing, and never passes
    if weights.threshold is not None:
        largest = torch.finfo(norms.dtype).max
        divided = (weights.threshold / norms).clamp_max(largest)
        return replace(weights, threshold=divided.where(weights.threshold <= largest, weights.threshold))
    return replace(
        weights,
        W_enc=weights.W_enc * norms[:, None],
        b_enc=weights.b_enc * norms,
        W_dec=weights.W_dec / norms[:, None, None],
    )
