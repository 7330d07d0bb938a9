"""clt-training (EleutherAI): sparsify's folders, with decoders into all layers above.

`W_decs.{i}`, `b_decs.{i}`, `W_skips.{i}` write `i` layers above; `W_dec`, `b_dec` and `W_skip` repeat the first. A
target's bias is the sum over what writes into it. With `normalize_io` what is read is scaled to norm sqrt(d_model) by
`in_norm`, what is written by the target's `out_norm`. With `coalesce_topk: per-layer` a layer holds the decoders
into it, source by source.

Source: github.com/EleutherAI/clt-training
"""

from collections.abc import Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, TranscoderConfig
from attrgraph.transcoders.formats import sparsify
from attrgraph.transcoders.formats.reader import Layout, Points, Tensors, k_of, refuse_unless, settings, wide
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = sparsify.PATTERNS
_NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip", "in_norm", "out_norm")


def matches(folder: Path) -> bool:
    return any("n_targets" in settings(path) for path in folder.glob("*/cfg.json"))


def read(folder: Path, points: Points) -> Layout:
    folders = sparsify.folders_of(folder)
    configs = [settings(one / "cfg.json") for one in folders]
    for one, values in zip(folders, configs, strict=True):
        refuse_unless(
            one / "cfg.json",
            values,
            activation=["topk"],
            transcode=[True],
            coalesce_topk=["none", "per-layer"],
            topk_coalesced=[False],
            divide_cross_layer=[False],
            per_source_tied=[False],
            secondary_target_tied=[False],
            use_fp8=[False],
        )
    k = k_of(folder, [values.get("k") for values in configs])
    hooks = points.of(folder, "mlp.hook_in", "mlp.hook_out", likely=("mlp.hook_in", "mlp.hook_out"))
    paths = [one / "sae.safetensors" for one in folders]
    opened = [Tensors(path) for path in paths]
    for layer, tensors in enumerate(opened):
        _check_expressible(tensors, len(opened) - layer)
    config = TranscoderConfig(model_kind=CROSS_LAYER, k=k, **hooks)
    return Layout(
        "clt-training",
        config,
        [one / "cfg.json" for one in folders],
        [[path] for path in paths],
        partial(_layer, opened, configs),
        is_view=False,
        changes=("decoders are put together by source", "norms of inputs and outputs, if any, are folded"),
    )


def _check_expressible(tensors: Tensors, n_targets: int) -> None:
    numbered = [f"{name}.{i}" for name in ("W_decs", "b_decs", "W_skips", "post_encs") for i in range(n_targets)]
    tensors.check_all_read(ignored=[*_NAMES, *numbered])
    for i in range(n_targets):
        for name, why in ((f"post_encs.{i}", "moves activations after encoding"), (f"W_skips.{i}", "skips layers")):
            if (name.startswith("post") or i > 0) and name in tensors and bool((tensors[name] != 0).any()):
                raise TranscoderError(
                    f"{tensors.path}: {name} is not zero: it {why}, which these graphs cannot express; use a set "
                    "trained without it."
                )


def _layer(opened: Sequence[Tensors], configs: Sequence[dict[str, Any]], layer: int) -> LayerWeights:
    tensors, n_layers = opened[layer], len(opened)
    W_enc = wide(tensors["encoder.weight"])
    n_features, d_model = W_enc.shape
    reads = sqrt(d_model) / _norm(tensors, "in_norm", configs[layer])
    writes = [_norm(opened[target], "out_norm", configs[target]) / sqrt(d_model) for target in range(n_layers)]
    if configs[layer].get("normalize_io"):
        W_enc = W_enc * reads
    rows = [_decoder(opened, configs, layer, target, n_features) * writes[target] for target in range(layer, n_layers)]
    b_dec = torch.stack([_bias(opened, configs, source, layer) for source in range(layer + 1)]).sum(0) * writes[layer]
    skip = _repeated(tensors, "W_skip") if "W_skip" in tensors or "W_skips.0" in tensors else None
    if skip is not None:
        skip = wide(skip) * (writes[layer] * reads)
    return LayerWeights(W_enc, tensors["encoder.bias"], torch.stack(rows, 1), b_dec, W_skip=skip)


def _norm(tensors: Tensors, name: str, config: dict[str, Any]) -> float:
    """sqrt(d_model), which changes nothing, where inputs and outputs are not scaled."""
    return tensors.scalar(name) if config.get("normalize_io") else sqrt(tensors["encoder.weight"].shape[1])


def _decoder(
    opened: Sequence[Tensors], configs: Sequence[dict[str, Any]], source: int, target: int, n_features: int
) -> Tensor:
    if configs[target].get("coalesce_topk") == "per-layer":
        return wide(torch.unflatten(opened[target]["W_dec"], 0, (-1, n_features))[source])
    return wide(_repeated(opened[source], "W_dec", target - source))


def _bias(opened: Sequence[Tensors], configs: Sequence[dict[str, Any]], source: int, target: int) -> Tensor:
    if configs[target].get("coalesce_topk") == "per-layer":
        bias = wide(opened[target]["b_dec"])
        return bias if source == target else torch.zeros_like(bias)
    return wide(_repeated(opened[source], "b_dec", target - source))


def _repeated(tensors: Tensors, name: str, offset: int = 0) -> Tensor:
    """`W_decs.2`; of the own layer, `W_dec` is the same."""
    return tensors[name if offset == 0 and f"{name}s.0" not in tensors else f"{name}s.{offset}"]
