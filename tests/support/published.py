"""Small folders in published layouts, by the formulas of the tools that publish them, with what those compute."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from tiny import D_MODEL, N_LAYERS
from torch import Tensor

from attrgraph.transcoders import Transcoders

D, F = D_MODEL, 20  # of the tiny models, which have three layers


@dataclass
class Published:
    """What the maker's code gives: activations [layer, pos, feature] and reconstructions [layer, pos, d_model]."""

    folder: Path
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]  # of activations and what was read


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def _write(folder: Path, tensors: dict[str, Tensor], **settings: dict[str, Any]) -> None:
    """Tensors by `file:name`, and JSON files by their name without its ending."""
    by_file: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        file, _, inside = name.partition(":")
        by_file.setdefault(file, {})[inside] = tensor.contiguous().clone()
    for file, of in by_file.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(of, folder / file)
    for name, values in settings.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


W_ENC, B_ENC = draw(N_LAYERS, D, F, seed=1), draw(N_LAYERS, F, seed=2)
W_DEC = draw(N_LAYERS, N_LAYERS, F, D, seed=3)  # [source, target]
B_DEC = draw(N_LAYERS, N_LAYERS, D, seed=4)
SKIP = draw(N_LAYERS, D, D, seed=5)
THETA = draw(N_LAYERS, F, seed=6).abs() * 0.5
NORM_IN, NORM_OUT = draw(N_LAYERS, seed=7).abs() + 0.5, draw(N_LAYERS, seed=8).abs() + 0.5


def _h(x: Tensor) -> Tensor:
    return torch.einsum("lnd,ldf->lnf", x, W_ENC) + B_ENC[:, None]


def _relu(h: Tensor) -> Tensor:
    return h.relu()


def _jump(h: Tensor) -> Tensor:
    return h * (h > THETA[:, None])


def _top(h: Tensor, *ks: int) -> Tensor:
    """The k largest, of all layers or layer by layer."""
    layers = zip(h, ks * len(h) if len(ks) == 1 else ks, strict=True)
    return torch.stack([torch.zeros_like(of).scatter(-1, of.topk(k).indices, of.topk(k).values) for of, k in layers])


def _own(a: Tensor) -> Tensor:
    """Into their own layers."""
    return torch.stack([a[i] @ W_DEC[i, i] for i in range(N_LAYERS)])


def _across(a: Tensor) -> Tensor:
    return torch.stack([sum(a[s] @ W_DEC[s, t] for s in range(t + 1)) for t in range(N_LAYERS)])  # type: ignore[misc]


def _summed_bias() -> Tensor:
    return torch.stack([B_DEC[: t + 1, t].sum(0) for t in range(N_LAYERS)])


_DIAGONAL_BIAS = torch.stack([B_DEC[i, i] for i in range(N_LAYERS)])


def gemma_scope_1(folder: Path) -> Published:
    for i in range(N_LAYERS):
        path = folder / f"layer_{i}/width_16k/average_l0_{70 + i}/params.npz"
        path.parent.mkdir(parents=True)
        arrays = {"W_enc": W_ENC[i], "W_dec": W_DEC[i, i], "b_enc": B_ENC[i], "b_dec": B_DEC[i, i]}
        np.savez(path, **{name: array.numpy() for name, array in {**arrays, "threshold": THETA[i]}.items()})
    return Published(folder, lambda x: _jump(_h(x)), lambda a, x: _own(a) + _DIAGONAL_BIAS[:, None])


def gemma_scope_2(folder: Path) -> Published:
    tensors = {}
    for i in range(N_LAYERS):
        file = f"transcoder_all/layer_{i}_width_16k_l0_small_affine/params.safetensors"
        named = {"w_enc": W_ENC[i], "w_dec": W_DEC[i, i], "b_enc": B_ENC[i], "b_dec": B_DEC[i, i]}
        named |= {"threshold": THETA[i], "affine_skip_connection": SKIP[i]}
        tensors |= {f"{file}:{name}": tensor for name, tensor in named.items()}
    _write(folder, tensors)
    return Published(folder, lambda x: _jump(_h(x)), lambda a, x: _own(a) + x @ SKIP + _DIAGONAL_BIAS[:, None])


def gemma_scope_2_clt(folder: Path) -> Published:
    tensors = {}
    for i in range(N_LAYERS):
        W_dec = W_DEC[i].transpose(0, 1).clone()  # [F, target, d]
        W_dec[:, :i] = 0
        named = {"w_enc": W_ENC[i], "w_dec": W_dec, "b_enc": B_ENC[i], "b_dec": B_DEC[i, i], "threshold": THETA[i]}
        tensors |= {f"clt/width_1k_l0_big/params_layer_{i}.safetensors:{name}": each for name, each in named.items()}
    _write(folder, tensors)
    return Published(folder, lambda x: _jump(_h(x)), lambda a, x: _across(a) + _DIAGONAL_BIAS[:, None])


def sparsify(folder: Path, ks: tuple[int, ...] = (4, 4, 4)) -> Published:
    for i in range(N_LAYERS):
        named = {"encoder.weight": W_ENC[i].T, "encoder.bias": B_ENC[i], "W_dec": W_DEC[i, i], "b_dec": B_DEC[i, i]}
        named |= {"W_skip": SKIP[i]}
        settings = {"activation": "topk", "k": ks[i], "num_latents": F, "transcode": True, "skip_connection": True}
        tensors = {f"h.{i}.mlp/sae.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"h.{i}.mlp__cfg": settings})
    return Published(
        folder,
        lambda x: _top(_relu(_h(x)), *ks),
        lambda a, x: _own(a) + x @ SKIP.transpose(1, 2) + _DIAGONAL_BIAS[:, None],
    )


def clt_training(folder: Path) -> Published:
    """With inputs and outputs scaled, and a skip into the own layer."""
    for i in range(N_LAYERS):
        named = {"encoder.weight": W_ENC[i].T, "encoder.bias": B_ENC[i]}
        for to in range(N_LAYERS - i):
            named |= {f"W_decs.{to}": W_DEC[i, i + to], f"b_decs.{to}": B_DEC[i, i + to]}
            named |= {f"post_encs.{to}": torch.zeros(F), f"W_skips.{to}": SKIP[i] * (to == 0)}
        named |= {"W_dec": W_DEC[i, i], "b_dec": B_DEC[i, i], "W_skip": SKIP[i]}
        named |= {"in_norm": NORM_IN[i : i + 1], "out_norm": NORM_OUT[i : i + 1]}
        settings = {"activation": "topk", "k": 5, "transcode": True, "n_targets": N_LAYERS - i, "normalize_io": True}
        tensors = {f"layers.{i}.mlp/sae.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"layers.{i}.mlp__cfg": settings})
    reads, writes = sqrt(D) / NORM_IN[:, None, None], NORM_OUT[:, None, None] / sqrt(D)
    return Published(
        folder,
        lambda x: _top(_relu(_h(x * reads)), 5),
        lambda a, x: (_across(a) + (x * reads) @ SKIP.transpose(1, 2) + _summed_bias()[:, None]) * writes,
    )


def clt_training_coalesced(folder: Path) -> Published:
    for i in range(N_LAYERS):
        named = {"encoder.weight": W_ENC[i].T, "encoder.bias": B_ENC[i], "b_dec": B_DEC[i, i]}
        named["W_dec"] = torch.cat([W_DEC[source, i] for source in range(i + 1)])
        settings = {"activation": "topk", "k": 5, "transcode": True, "n_targets": N_LAYERS - i}
        tensors = {f"layers.{i}.mlp/sae.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"layers.{i}.mlp__cfg": {**settings, "coalesce_topk": "per-layer"}})
    return Published(folder, lambda x: _top(_relu(_h(x)), 5), lambda a, x: _across(a) + _DIAGONAL_BIAS[:, None])


def clt_training_set(
    folder: Path,
    *,
    n_targets: int = N_LAYERS,
    ks: tuple[int, ...] = (5, 5, 5),
    coalesce_topk: str = "none",
    **switches: bool,
) -> Published:
    """Decoders into the next `n_targets` layers, written and run as the maker's trainer and runner do.

    Args:
        switches: per_source_tied, divide_cross_layer, post_encoder_scale.
    """
    is_coalesced = coalesce_topk != "none"
    reach = [max(1, min(n_targets, N_LAYERS - i)) for i in range(N_LAYERS)]
    # the trainer counts a source once too often where it has just ended
    n_blocks = [sum(s + reach[s] >= t for s in range(t + 1)) for t in range(N_LAYERS)]
    blocks = [draw(n_blocks[t], F, D, seed=20 + t) for t in range(N_LAYERS)]
    scale = draw(N_LAYERS, N_LAYERS, F, seed=23) if switches.get("post_encoder_scale") else torch.ones(3, 3, F)
    for i in range(N_LAYERS):
        several = [f".{to}" for to in range(reach[i])] if n_targets else []
        named = {"encoder.weight": W_ENC[i].T, "encoder.bias": B_ENC[i], "W_dec": W_DEC[i, i], "b_dec": B_DEC[i, i]}
        named |= {f"post_encs{to}": torch.zeros(F) for to in several} or {"post_enc": torch.zeros(F)}
        if switches.get("post_encoder_scale"):
            named |= {f"post_enc_scales.{to}": scale[i, to] for to in range(reach[i])}
        if coalesce_topk == "per-layer":
            named["W_dec"] = blocks[i].flatten(0, 1)
        elif not is_coalesced and several:
            named |= {f"b_decs.{to}": B_DEC[i, i + to] for to in range(reach[i])}
            if not switches.get("per_source_tied"):
                named |= {f"W_decs.{to}": W_DEC[i, i + to] for to in range(reach[i])}
        settings = {"activation": "topk", "k": ks[i], "transcode": True, "d_in": D, "num_latents": F, "dtype": "none"}
        settings |= {"n_targets": reach[i] if n_targets else 0, "n_sources": n_blocks[i], "normalize_io": False}
        settings |= {"coalesce_topk": coalesce_topk, "topk_coalesced": False, "train_post_encoder": True, **switches}
        tensors = {f"layers.{i}.mlp/sae.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"layers.{i}.mlp__cfg": settings})

    def decode(a: Tensor, x: Tensor) -> Tensor:
        alive: list[int] = []
        out = []
        for t in range(N_LAYERS):
            alive = [s for s in [*alive, t] if s + reach[s] > t]
            acts = {s: a[s] * scale[s, t - s] for s in alive}
            if is_coalesced:
                decoders = blocks[t] if coalesce_topk == "per-layer" else [W_DEC[t, t]] * len(alive)
                out.append(sum(acts[s] @ W for s, W in zip(alive, decoders, strict=False)) + B_DEC[t, t])
                continue
            W = {s: W_DEC[s, s] if switches.get("per_source_tied") else W_DEC[s, t] for s in alive}
            below = sum((acts[s] @ W[s] + B_DEC[s, t] for s in alive if s != t), torch.zeros(D))
            divide_by = max(1, len(alive) - 1) if switches.get("divide_cross_layer") else 1
            out.append(acts[t] @ W[t] + B_DEC[t, t] + below / divide_by)
        return torch.stack(out)  # type: ignore[arg-type]

    return Published(folder, lambda x: _top(_relu(_h(x)), *ks), decode)


def saelens(folder: Path, read: str = "hook_resid_mid", scale: float | None = None) -> Published:
    """With a scale, as a checkpoint of its trainer, which folds that only at its end."""
    for i in range(N_LAYERS):
        # decoders so small that rounding stays so: three layers of features that recompute amplify it
        named = {"W_enc": W_ENC[i], "b_enc": B_ENC[i], "W_dec": 0.3 * W_DEC[i, i], "b_dec": B_DEC[i, i]}
        named |= {"threshold": THETA[i] - 0.2, "W_skip": SKIP[i]}
        hooks = {"hook_name": f"blocks.{i}.{read}", "hook_name_out": f"blocks.{i}.hook_mlp_out"}
        settings = {"architecture": "jumprelu_skip_transcoder", "normalize_activations": "none", "metadata": hooks}
        scalers = {}
        if scale is not None:
            settings["normalize_activations"] = "expected_average_only_in"
            scalers[f"run_{9 - i}__activation_scaler"] = {"scaling_factor": scale, "has_whitening": False}
        tensors = {f"run_{9 - i}/sae_weights.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"run_{9 - i}__cfg": settings}, **scalers)
    by = scale or 1.0
    return Published(
        folder,
        lambda x: _h(x * by).relu() * (_h(x * by) > THETA[:, None] - 0.2),
        lambda a, x: (0.3 * _own(a) + _DIAGONAL_BIAS[:, None]) / by + x @ SKIP.transpose(1, 2),
    )


def saelens_scaled(folder: Path) -> Published:
    return saelens(folder, scale=0.37)


_PAIRS = [(s, t) for s in range(N_LAYERS) for t in range(s, N_LAYERS)]


def clt_forge(folder: Path, n_shards: int = 1) -> Published:
    W_dec = torch.stack([W_DEC[s, t] for s, t in _PAIRS])
    b_dec = torch.stack([B_DEC[s, t] for s, t in _PAIRS])
    tensors = {}
    for rank in range(n_shards):
        of = slice(rank * F // n_shards, (rank + 1) * F // n_shards)
        file = "clt_weights.safetensors" if n_shards == 1 else f"rank{rank}_clt_weights.safetensors"
        named = {"W_enc": W_ENC[..., of], "b_enc": B_ENC[:, of], "W_dec": W_dec[:, of], "b_dec": b_dec}
        named |= {"log_threshold": THETA[:, of].log(), "feature_count": torch.zeros(3, F, dtype=torch.int64)}
        named |= {"estimated_norm_scaling_factor_in": NORM_IN, "estimated_norm_scaling_factor_out": NORM_OUT}
        tensors |= {f"{file}:{name}": tensor for name, tensor in named.items()}
    _write(folder, tensors, clt_cfg={"model_name": "tiny", "cross_layer_decoders": True})
    return Published(
        folder,
        lambda x: _jump(_h(x * NORM_IN[:, None, None])),
        lambda a, x: (_across(a) + _summed_bias()[:, None]) / NORM_OUT[:, None, None],
    )


def clt_forge_shards(folder: Path) -> Published:
    return clt_forge(folder, n_shards=2)


def crosslayer_transcoder(folder: Path, by: str = "Dimension", k: int | None = None) -> Published:
    """With standardisers by dimension or by layer, and thresholds or a k of each layer."""
    size = (2, N_LAYERS, D) if by == "Dimension" else (2, N_LAYERS)
    means, stds = draw(*size, seed=9), draw(*size, seed=10).abs() + 0.5
    named = {"encoder.W": W_ENC, "encoder.b": B_ENC, "decoder.b": _DIAGONAL_BIAS}
    named |= {f"decoder.W_{t}": W_DEC[: t + 1, t] for t in range(N_LAYERS)}
    if k is None:
        named["nonlinearity.theta"] = THETA[None]
    for i, side in enumerate(("input", "output")):
        named |= {f"{side}_standardizer.mean": means[i], f"{side}_standardizer.std": stds[i]}
    _write(folder, {f"checkpoint.safetensors:{name}": tensor for name, tensor in named.items()})
    name = "jumprelu.JumpReLU" if k is None else "topk.PerLayerTopK"
    parts: dict[str, Any] = {"nonlinearity": {"class_path": f"crosslayer_transcoder.model.{name}"}}
    parts["nonlinearity"]["init_args"] = {} if k is None else {"k": k, "e": None, "n_layers": None}
    parts["encoder"] = {"init_args": {"d_acts": D, "d_features": F, "n_layers": N_LAYERS}}
    for side in ("input", "output"):
        path = f"crosslayer_transcoder.model.standardize.{by}wise{side.title()}Standardizer"
        parts[f"{side}_standardizer"] = {"class_path": path, "init_args": {"n_layers": N_LAYERS}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": parts}}))
    means, stds = (of.reshape(2, N_LAYERS, 1, -1) for of in (means, stds))
    activate = _jump if k is None else lambda h: _top(_relu(h), k)
    return Published(
        folder,
        lambda x: activate(_h((x - means[0]) / stds[0])),
        lambda a, x: (_across(a) + _DIAGONAL_BIAS[:, None]) * stds[1] + means[1],
    )


def llamascopium(folder: Path) -> Published:
    """A cross-layer set with thresholds on activations times their decoders' norms."""
    hooks = {"hook_points_in": [f"blocks.{i}.ln2.hook_normalized" for i in range(N_LAYERS)]}
    hooks |= {"hook_points_out": [f"blocks.{i}.hook_mlp_out" for i in range(N_LAYERS)]}
    named = {"W_E": W_ENC, "b_E": B_ENC, "activation_function.log_jumprelu_threshold": THETA.log()}
    for i in range(N_LAYERS):
        named |= {f"W_D.{i}": W_DEC[: i + 1, i], f"b_D.{i}": B_DEC[i, i]}
        for norm, hook in ((NORM_IN, hooks["hook_points_in"][i]), (NORM_OUT, hooks["hook_points_out"][i])):
            named[f"dataset_average_activation_norm.{hook}"] = norm[i]
    settings = {"sae_type": "clt", "d_model": D, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    tensors = {f"sae_weights.safetensors:{name}": tensor for name, tensor in named.items()}
    _write(folder, tensors, config={**settings, **hooks, "sparsity_include_decoder_norm": True})
    norms = torch.stack([W_DEC[s, s:].square().sum((0, 2)).sqrt() for s in range(N_LAYERS)])[:, None]
    reads, writes = sqrt(D) / NORM_IN[:, None, None], sqrt(D) / NORM_OUT[:, None, None]
    return Published(
        folder,
        lambda x: _h(x * reads) * (_h(x * reads) * norms > THETA[:, None]),
        lambda a, x: (_across(a) + _DIAGONAL_BIAS[:, None]) / writes,
    )


def llamascopium_per_layer(folder: Path, read: str = "ln2.hook_normalized") -> Published:
    """Without biases of decoders, and with thresholds on activations times their decoders' norms."""
    for i in range(N_LAYERS):
        hooks = {"hook_point_in": f"blocks.{i}.{read}", "hook_point_out": f"blocks.{i}.hook_mlp_out"}
        named = {"W_E": W_ENC[i], "b_E": B_ENC[i], "W_D": W_DEC[i, i]}
        named |= {"activation_function.log_jumprelu_threshold": THETA[i].log()}
        for norm, hook in zip((NORM_IN, NORM_OUT), hooks.values(), strict=True):
            named[f"dataset_average_activation_norm.{hook}"] = norm[i]
        settings = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu", **hooks}
        settings |= {"norm_activation": "dataset-wise", "use_decoder_bias": False, "use_glu_encoder": False}
        tensors = {f"layer_{i}/sae_weights.safetensors:{name}": tensor for name, tensor in named.items()}
        _write(folder, tensors, **{f"layer_{i}__config": settings})
    norms = torch.stack([W_DEC[i, i].norm(dim=1) for i in range(N_LAYERS)])[:, None]
    reads, writes = sqrt(D) / NORM_IN[:, None, None], sqrt(D) / NORM_OUT[:, None, None]
    return Published(
        folder,
        lambda x: _h(x * reads) * (_h(x * reads) * norms > THETA[:, None]),
        lambda a, x: _own(a) / writes,
    )


def sparsify_by_layer(folder: Path) -> Published:
    return sparsify(folder, ks=(3, 20, 5))


def circuit_tracer_topk(folder: Path, ks: tuple[int, ...] = (9, 9, 9)) -> Published:
    """With k as a tensor: the k largest, of either sign."""
    tensors = {}
    for i in range(N_LAYERS):
        named = {"W_enc": W_ENC[i].T, "b_enc": B_ENC[i] - 2, "W_dec": W_DEC[i, i], "b_dec": B_DEC[i, i]}
        tensors |= {f"layer_{i}.safetensors:{name}": tensor for name, tensor in named.items()}
        tensors[f"layer_{i}.safetensors:k"] = torch.tensor(ks[i])
    _write(folder, tensors)
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_kind": "transcoder_set", **hooks}))
    return Published(folder, lambda x: _top(_h(x) - 2, *ks), lambda a, x: _own(a) + _DIAGONAL_BIAS[:, None])


def circuit_tracer_topk_by_layer(folder: Path) -> Published:
    return circuit_tracer_topk(folder, ks=(9, 7, 20))


def mixed_list(folder: Path) -> Published:
    """A config.yaml that lists files of two layouts."""
    gemma_scope_1(folder / "scope")
    names = ("W_dec", "b_enc", "b_dec", "activation_function.threshold")
    named = dict(zip(names, (W_DEC[1, 1], B_ENC[1], B_DEC[1, 1], THETA[1]), strict=True)) | {"W_enc": W_ENC[1].T}
    _write(folder, {f"own.safetensors:{name}": tensor for name, tensor in named.items()})
    paths = [f"scope/layer_{i}/width_16k/average_l0_{70 + i}/params.npz" for i in range(N_LAYERS)]
    hooks = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
    settings = {"model_kind": "transcoder_set", **hooks, "transcoders": [paths[0], "own.safetensors", paths[2]]}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return Published(folder, lambda x: _jump(_h(x)), lambda a, x: _own(a) + _DIAGONAL_BIAS[:, None])


def list_of_layouts(folder: Path) -> Published:
    """A config.yaml that lists a folder of sparsify's, a file of SAELens's and a folder of Llamascopium's."""
    of = [
        sparsify(folder / "a"),
        saelens(folder / "b", read="mlp.hook_in"),
        llamascopium_per_layer(folder / "c", read="mlp.hook_in"),
    ]
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    entries = ["a/h.0.mlp", "b/run_8/sae_weights.safetensors", "c/layer_2"]
    settings = {"model_kind": "transcoder_set", **hooks, "transcoders": entries}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return Published(
        folder,
        lambda x: torch.stack([one.encode(x)[i] for i, one in enumerate(of)]),
        lambda a, x: torch.stack([one.decode(a, x)[i] for i, one in enumerate(of)]),
    )


PUBLISHED = {
    each.__name__: each
    for each in (
        gemma_scope_1,
        gemma_scope_2,
        gemma_scope_2_clt,
        sparsify,
        sparsify_by_layer,
        clt_training,
        clt_training_coalesced,
        saelens,
        saelens_scaled,
        clt_forge,
        clt_forge_shards,
        crosslayer_transcoder,
        llamascopium,
        llamascopium_per_layer,
        circuit_tracer_topk,
        circuit_tracer_topk_by_layer,
        mixed_list,
        list_of_layouts,
    )
}


READS = draw(N_LAYERS, 40, D, seed=11)
# for a layout that does not say where its features read
POINTS = {"read_point": "mlp.hook_in", "write_point": "mlp.hook_out"}


def check_numbers(found: Transcoders, maker: Published) -> None:
    """A set as it was opened against what the maker's code gives."""
    expected = maker.encode(READS)
    active = found.encode(list(READS), torch.zeros(READS.shape[1], dtype=torch.bool))
    activations = torch.zeros_like(expected)
    activations[active.layer, active.pos, active.feature] = active.activation
    assert ((activations != 0) == (expected != 0)).all() and (expected != 0).any()
    # folded scales round differently
    torch.testing.assert_close(activations, expected, rtol=1e-5, atol=1e-5)
    rebuilt = torch.stack([found.bias(layer) for layer in range(N_LAYERS)])[:, None].expand_as(READS).clone()
    for layer in range(N_LAYERS):
        for i, part in enumerate(found.contributions(layer, READS[layer]).unbind(1)):
            rebuilt[layer + i] += part
    torch.testing.assert_close(rebuilt, maker.decode(expected, READS), rtol=1e-4, atol=1e-4)


def set_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
