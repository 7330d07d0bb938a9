"""CLT-Forge: `clt_cfg.json` and one file of weights, or one for each process that trained a part of the features.

Decoders stand by (source, target), sources in order and their targets in order; inputs and outputs are scaled by a
factor a layer, which is folded.

Source: github.com/LLM-Interp/CLT-Forge
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import Layout, Points, check_settings, numbered, settings, wide
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["clt_cfg.json", "*clt_weights.safetensors"]
# in files of several processes: along which axis their features stand side by side
_SHARDED = {"W_enc": 2, "b_enc": 1, "W_dec": 1, "log_threshold": 1}
_NOT_WEIGHTS = ("feature_count", "layer_mask", "l_idx", "k_idx")
_KNOWN = (
    *("model_name", "d_in", "d_latent", "n_layers", "world_size", "is_sharded"),
    # how it was trained, and how it computes
    *("device", "dtype", "seed", "debug", "jumprelu_bandwidth", "jumprelu_init_threshold", "normalize_decoder"),
    *("dead_feature_window", "context_size", "functional_loss", "k", "l0_coefficient", "sparse_decode"),
    *("sparse_threshold", "ddp", "fsdp", "feature_sharding", "dead_penalty_coef", "l0_warm_up_steps"),
)
_FACTORS = {"in": "estimated_norm_scaling_factor_in", "out": "estimated_norm_scaling_factor_out"}


def matches(folder: Path) -> bool:
    return (folder / "clt_cfg.json").exists()


def read(folder: Path, points: Points) -> Layout:
    values = settings(folder / "clt_cfg.json")
    whole = folder / "clt_weights.safetensors"
    ranks = folder.glob("rank*_clt_weights.safetensors")
    paths = [whole] if whole.is_file() else list(numbered(ranks, where=folder).values())
    if not paths:
        raise TranscoderError(f"{folder}: has no clt_weights.safetensors; download it.")
    shards = [Tensors(path) for path in paths]
    said = check_settings(
        folder / "clt_cfg.json", values, _KNOWN, activation_fn=["jumprelu"], cross_layer_decoders=[True, False]
    )
    n_layers = len(shards[0].check_shape("W_enc", values.get("n_layers"), values.get("d_in"), None))
    n_features = sum(shard.check_shape("W_enc", n_layers, None, None).shape[2] for shard in shards)
    if values.get("d_latent", n_features) != n_features:
        raise TranscoderError(
            f"{folder}: holds {n_features} features a layer, clt_cfg.json says {values['d_latent']}; is a file missing?"
        )
    is_cross_layer = bool(values.get("cross_layer_decoders", True))
    # it is trained with TransformerLens 2
    hooks = points.of(folder, "tl2.ln2.hook_normalized", "hook_mlp_out", likely=("mlp.hook_in", "hook_mlp_out"))
    kind = CROSS_LAYER if is_cross_layer else PER_LAYER
    config = TranscoderConfig(model_kind=kind, model_name=str(values.get("model_name", "")), **hooks)
    n_decoders = n_layers * (n_layers + 1) // 2 if is_cross_layer else n_layers
    for shard in shards:
        shard.check_shape("W_dec", n_decoders, None, None)
        shard.check_shape("b_dec", n_decoders, None)
        if len({name in shard for name in _FACTORS.values()}) > 1:
            raise TranscoderError(f"{shard.path}: holds one of {', '.join(_FACTORS.values())}; expected both or none.")
        _ = shard["W_enc"], shard["b_enc"], shard.get("log_threshold"), *(shard.get(name) for name in _FACTORS.values())
        shard.check_all_read(ignored=_NOT_WEIGHTS)
    return Layout(
        "clt-forge",
        config,
        [folder / "clt_cfg.json"],
        {layer: paths for layer in range(n_layers)},
        n_layers,
        partial(_layer, shards, is_cross_layer),
        is_view=False,
        changes=("norms of inputs and outputs are folded", "decoders are put together by source", *said),
    )


def _layer(shards: list[Tensors], is_cross_layer: bool, layer: int) -> LayerWeights:
    def part(name: str, at: Any) -> Tensor:
        # the first axis is gone: layers, or pairs of them
        return wide(torch.cat([shard[name][at] for shard in shards], dim=_SHARDED[name] - 1))

    n_layers = len(shards[0]["W_enc"])
    reads, writes = (_factors(shards[0], name, n_layers) for name in ("in", "out"))
    if is_cross_layer:
        pairs = [(source, target) for source in range(n_layers) for target in range(source, n_layers)]
        into = [i for i, (_, target) in enumerate(pairs) if target == layer]
        out = [i for i, (source, _) in enumerate(pairs) if source == layer]
        rows = [part("W_dec", i) / writes[pairs[i][1]] for i in out]
    else:
        into, rows = [layer], [part("W_dec", layer) / writes[layer]]
    has_threshold = "log_threshold" in shards[0]
    return LayerWeights(
        W_enc=part("W_enc", layer).T * reads[layer],
        b_enc=part("b_enc", layer),
        W_dec=torch.stack(rows, 1),
        b_dec=wide(shards[0]["b_dec"][into]).sum(0) / writes[layer],
        threshold=part("log_threshold", layer).exp() if has_threshold else None,
    )


def _factors(tensors: Tensors, name: str, n_layers: int) -> Tensor:
    found = tensors.get(_FACTORS[name])
    return torch.ones(n_layers) if found is None else wide(tensors.check_shape(_FACTORS[name], n_layers))
