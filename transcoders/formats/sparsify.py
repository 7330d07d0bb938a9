"""sparsify (EleutherAI): a folder a hook point (`layers.3.mlp`), `cfg.json` and `sae.safetensors`; ReLU, then top k.

Features read what the MLP takes in and write what it returns.

Source: github.com/EleutherAI/sparsify, `SparseCoder`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    Tensors,
    k_of,
    numbered,
    refuse_unless,
    settings,
)
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*cfg.json", "*sae.safetensors"]


def folders_of(folder: Path) -> list[Path]:
    """A folder a layer."""
    return numbered((path.parent for path in folder.glob("*/cfg.json")), where=folder)


def matches(folder: Path) -> bool:
    return any(
        "num_latents" in settings(path) or "expansion_factor" in settings(path) for path in folder.glob("*/cfg.json")
    )


def read(folder: Path, points: Points) -> Layout:
    folders = folders_of(folder)
    configs = [settings(one / "cfg.json") for one in folders]
    for one, values in zip(folders, configs, strict=True):
        if not values.get("transcode", False):
            raise TranscoderError(
                f"{one}: transcode is not set: an autoencoder, which stands for no MLP; graphs need transcoders."
            )
        refuse_unless(one / "cfg.json", values, activation=["topk"], signed=[False])
        if not one.name.endswith(".mlp"):
            raise TranscoderError(
                f"{one}: its hook point is {one.name}, where no MLP reads; graphs need transcoders of .mlp."
            )
    k = k_of(folder, [values.get("k") for values in configs])
    hooks = points.of(folder, "mlp.hook_in", "mlp.hook_out", likely=("mlp.hook_in", "mlp.hook_out"))
    paths = [one / "sae.safetensors" for one in folders]
    config = TranscoderConfig(model_kind=PER_LAYER, k=k, **hooks)
    opened = [Tensors(path) for path in paths]
    for tensors, values in zip(opened, configs, strict=True):
        if values.get("skip_connection") and "W_skip" not in tensors:
            raise TranscoderError(f"{tensors.path}: has no W_skip, but skip_connection is set; download it again.")
    layer = partial(_layer, opened)
    return Layout("sparsify", config, [one / "cfg.json" for one in folders], [[path] for path in paths], layer)


def _layer(opened: Sequence[Tensors], layer: int) -> LayerWeights:
    tensors = opened[layer]
    weights = LayerWeights(
        W_enc=tensors["encoder.weight"],
        b_enc=tensors["encoder.bias"],
        W_dec=tensors.check_shape("W_dec", None, None)[:, None],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("W_skip"),
    )
    tensors.check_all_read()
    return weights
