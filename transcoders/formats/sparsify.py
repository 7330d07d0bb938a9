"""sparsify (EleutherAI): a folder a hook point (`layers.3.mlp`), `cfg.json` and `sae.safetensors`; ReLU, then top k.

Features read what the MLP takes in and write what it returns.

Source: github.com/EleutherAI/sparsify, `SparseCoder`
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    check_settings,
    join_layers,
    k_of,
    numbered,
    settings,
    settings_beside,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["*cfg.json", "*sae.safetensors"]
FILE = "sae.safetensors"
# settings that are read, or that training alone goes by
KNOWN = ("k", "d_in", "num_latents", "expansion_factor", "skip_connection", "normalize_decoder", "multi_topk")
_KNOWN = (*KNOWN, "lookup_max_order")


def folders_of(folder: Path) -> dict[int, Path]:
    """A folder a layer."""
    found = numbered((path.parent for path in folder.glob("*/cfg.json")), where=folder)
    for one in found.values():
        if not one.name.endswith(".mlp"):
            raise TranscoderError(
                f"{one}: its hook point is {one.name}, where no MLP reads; graphs need transcoders of .mlp."
            )
    return found


def usual_hooks(folder: Path) -> tuple[str | None, str | None]:
    """What the MLP takes in and returns, unless training was told to read elsewhere."""
    run = folder / "config.json"
    reads_elsewhere = run.is_file() and settings(run).get("hookpoints_in")
    return None if reads_elsewhere else "mlp.hook_in", "mlp.hook_out"


def matches(folder: Path) -> bool:
    return any(
        "num_latents" in settings(path) or "expansion_factor" in settings(path) for path in folder.glob("*/cfg.json")
    )


def read(folder: Path, points: Points) -> Layout:
    ones = {layer: read_layer(path / FILE) for layer, path in folders_of(folder).items()}
    return join_layers("sparsify", folder, ones, points)


def is_layer(path: Path) -> bool:
    return path.name == FILE and settings_beside(path, "cfg.json", "num_latents", "expansion_factor") is not None


def read_layer(path: Path) -> SingleLayer:
    values = settings(path.with_name("cfg.json"))
    if not values.get("transcode", False):
        raise TranscoderError(
            f"{path.parent}: transcode is not set: an autoencoder, which stands for no MLP; graphs need transcoders."
        )
    said = check_settings(
        path.with_name("cfg.json"),
        values,
        _KNOWN,
        transcode=[True],
        activation=["topk"],
        signed=[False],
        embed_skip=[False],
        gram_lookup=[False],
        n_targets=[0],
    )
    tensors = Tensors(path)
    check_skip(tensors, values)
    return SingleLayer(
        path,
        partial(_layer, tensors, values),
        settings=(path.with_name("cfg.json"),),
        usual=usual_hooks(path.parent.parent),
        k=k_of(path.with_name("cfg.json"), values.get("k")),
        changes=said,
    )


def check_skip(tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Raise unless there is a skip where settings say so, and only there."""
    has_skip = any(name.startswith("W_skip") for name in tensors)
    if values.get("skip_connection", has_skip) != has_skip:
        raise TranscoderError(
            f"{tensors.path}: has {'a' if has_skip else 'no'} W_skip, but skip_connection is "
            f"{values['skip_connection']!r}; download it again."
        )


def check_encoder(tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Raise unless the encoder has the size that settings state."""
    d_in = values.get("d_in")
    n_features = values.get("num_latents") or (d_in or 0) * values.get("expansion_factor", 0)
    tensors.check_shape("encoder.weight", n_features or None, d_in)


def _layer(tensors: Tensors, values: dict[str, Any]) -> LayerWeights:
    check_encoder(tensors, values)
    weights = LayerWeights(
        W_enc=tensors["encoder.weight"],
        b_enc=tensors["encoder.bias"],
        W_dec=tensors.check_shape("W_dec", None, None)[:, None],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("W_skip"),
    )
    tensors.check_all_read()
    return weights
