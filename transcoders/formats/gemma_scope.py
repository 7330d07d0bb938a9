"""Gemma Scope 1 and 2: JumpReLU transcoders of Gemma-2 and Gemma-3, one file a layer.

1: `layer_{l}/width_{w}/average_l0_{n}/params.npz`. 2: `transcoder_all/layer_{l}_width_{w}_l0_{n}/params.safetensors`,
and across layers `clt/width_{w}_l0_{n}/params_layer_{l}.safetensors`. Encoders are stored [d_model, n_features],
cross-layer decoders [n_features, n_layers, d_model] with zeros below the feature's layer.

Source: huggingface.co/google/gemma-scope, huggingface.co/google/gemma-scope-2
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import Layout, Points, Tensors, numbered, refuse_unless, settings
from attrgraph.transcoders.transcoders import LayerWeights

PATTERNS = ["*params.npz", "*params.safetensors", "*params_layer_*.safetensors"]
# where files lie below the folder that is given
_CLT = ("params_layer_*.safetensors", "width_*/params_layer_*.safetensors", "clt/width_*/params_layer_*.safetensors")
_PER_LAYER = (
    "layer_*/params.safetensors",
    "transcoder*/layer_*/params.safetensors",
    "layer_*/params.npz",
    "layer_*/width_*/average_l0_*/params.npz",
)
# the hooks that config.json names, and repositories and folders of autoencoders, which have the same files
_READS_AT, _WRITES_AT = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_NOT_OF_MLPS = re.compile(r"gemma-scope[^/]*-(res|att|mlp)(/|$)|/(resid_post|attn_out|mlp_out)[^/]*(/|$)")
# in Gemma Scope 1 features read after the norm without its weight, in 2 what the MLP takes in
_READS = {".npz": "ln2.hook_normalized", ".safetensors": "mlp.hook_in"}


def matches(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in (*_CLT, *_PER_LAYER))


def read(folder: Path, points: Points) -> Layout:
    kinds = [any(next(folder.glob(pattern), None) for pattern in patterns) for patterns in (_CLT, _PER_LAYER)]
    if _NOT_OF_MLPS.search(str(folder.resolve())):
        raise TranscoderError(f"{folder}: autoencoders, which stand for no MLP; graphs need transcoders.")
    if all(kinds):
        raise TranscoderError(f"{folder}: holds cross-layer and per-layer sets; give the subfolder of one.")
    is_cross_layer = kinds[0]
    patterns = _CLT if is_cross_layer else _PER_LAYER
    paths = _one_a_layer(folder, [path for pattern in patterns for path in sorted(folder.glob(pattern))])
    if (paths[0].parent / "config.json").is_file():
        values = settings(paths[0].parent / "config.json")
        refuse_unless(paths[0].parent / "config.json", values, architecture=["jump_relu"])
        stated = (values.get("hf_hook_point_in", _READS_AT), values.get("hf_hook_point_out", _WRITES_AT))
        if _READS_AT not in str(stated[0]) or _WRITES_AT not in str(stated[1]):
            raise TranscoderError(f"{paths[0].parent}: reads at {stated[0]} and writes at {stated[1]}; not of an MLP.")
    hooks = points.of(folder, _READS[paths[0].suffix], "hook_mlp_out", likely=("mlp.hook_in", "hook_mlp_out"))
    config = TranscoderConfig(model_kind=CROSS_LAYER if is_cross_layer else PER_LAYER, **hooks)
    opened = [Tensors(path) for path in paths]
    layer = partial(_layer, opened, is_cross_layer)
    name = f"gemma-scope-{1 if paths[0].suffix == '.npz' else 2}{'-clt' if is_cross_layer else ''}"
    changes = ("encoders are transposed views",)
    return Layout(name, config, [], [[path] for path in paths], layer, changes=changes)


def is_one(tensors: Tensors) -> bool:
    """Whether a file of a layer is in this layout."""
    return tensors.path.suffix == ".npz" or "w_enc" in tensors


def weights_of(tensors: Tensors, layer: int, n_layers: int, *, is_cross_layer: bool) -> LayerWeights:
    """One layer's weights."""
    small = "w_" if "w_enc" in tensors else "W_"
    W_enc = tensors.check_shape(f"{small}enc", None, None).T
    W_dec = tensors[f"{small}dec"]
    if is_cross_layer:
        W_dec = tensors.check_shape(f"{small}dec", None, n_layers, None)[:, layer:]
    else:
        W_dec = tensors.check_shape(f"{small}dec", None, None)[:, None]
    skip = tensors.get("affine_skip_connection")
    weights = LayerWeights(
        W_enc=W_enc,
        b_enc=tensors["b_enc"],
        W_dec=W_dec,
        b_dec=tensors["b_dec"],
        threshold=tensors["threshold"],
        W_skip=None if skip is None else skip.T,
    )
    tensors.check_all_read()
    return weights


def _layer(opened: Sequence[Tensors], is_cross_layer: bool, layer: int) -> LayerWeights:
    return weights_of(opened[layer], layer, len(opened), is_cross_layer=is_cross_layer)


def _one_a_layer(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """The files of layers 0, 1, 2, ...; of several sets in one folder the caller has to choose one."""
    by_place: dict[Path, Path] = {}
    sets = defaultdict(list)
    for path in paths:
        # the part of the path that names the layer, and what is the same in all files of a set
        named = path if path.name.startswith("params_layer_") else folder / path.relative_to(folder).parts[-2]
        if path.suffix == ".npz" and path.parent.name.startswith("average_l0_"):
            named = path.parent.parent.parent
        by_place[path] = named
        sets[named.name].append(path)
    several = [(name, found) for name, found in sets.items() if len(found) > 1]
    widths = {name.split("_", 2)[-1] for name in sets if name.startswith("layer_") and "width" in name}
    parents = {path.parent for path in paths if path.name.startswith("params_layer_")}
    widths |= {str(path.relative_to(folder)) for path in parents} if len(parents) > 1 else set()
    if several or len(widths) > 1:
        names = sorted(widths) or [str(path.relative_to(folder)) for path in several[0][1]]
        raise TranscoderError(
            f"{folder}: holds several sets ({', '.join(names):.200}); write a config.yaml that lists one file a layer "
            "under transcoders, or give a folder with one set."
        )
    ordered = numbered([by_place[path] for path in paths], where=folder)
    of_place = {place: path for path, place in by_place.items()}
    return [of_place[place] for place in ordered]
