"""Gemma Scope 1 and 2: JumpReLU transcoders of Gemma-2 and Gemma-3, one file a layer.

1: `layer_{l}/width_{w}/average_l0_{n}/params.npz`. 2: `transcoder_all/layer_{l}_width_{w}_l0_{n}/params.safetensors`,
and across layers `clt/width_{w}_l0_{n}/params_layer_{l}.safetensors`. Encoders are stored [d_model, n_features],
cross-layer decoders [n_features, n_layers, d_model] with zeros below the feature's layer.

Source: huggingface.co/google/gemma-scope, huggingface.co/google/gemma-scope-2
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, TranscoderConfig
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    SingleLayer,
    check_settings,
    join_layers,
    numbered,
    settings,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = ["*params.npz", "*params.safetensors", "*params_layer_*.safetensors"]
FILES = ("params.npz", "params.safetensors")
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
_KNOWN = ("affine_connection", "hf_hook_point_in", "hf_hook_point_out", "model_name", "width", "l0", "type")
_CHANGES = ("encoders are transposed views",)


def matches(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in (*_CLT, *_PER_LAYER))


def read(folder: Path, points: Points) -> Layout:
    kinds = [any(next(folder.glob(pattern), None) for pattern in patterns) for patterns in (_CLT, _PER_LAYER)]
    if all(kinds):
        raise TranscoderError(f"{folder}: holds cross-layer and per-layer sets; give the subfolder of one.")
    patterns = _CLT if kinds[0] else _PER_LAYER
    paths = _one_a_layer(folder, [path for pattern in patterns for path in sorted(folder.glob(pattern))])
    first = next(iter(paths.values()))
    name = f"gemma-scope-{1 if first.suffix == '.npz' else 2}{'-clt' if kinds[0] else ''}"
    if not kinds[0]:
        return join_layers(name, folder, {layer: read_layer(path) for layer, path in paths.items()}, points)
    hooks = points.of(folder, _READS[first.suffix], "hook_mlp_out", likely=("mlp.hook_in", "hook_mlp_out"))
    layout = across(folder, paths, TranscoderConfig(model_kind=CROSS_LAYER, **hooks))
    said = check_folder(Tensors(first))
    return Layout(name, layout.config, [], *(layout.weights, layout.n_layers, layout.layer), changes=(*_CHANGES, *said))


def across(folder: Path, paths: Mapping[int, Path], config: TranscoderConfig) -> Layout:
    """A cross-layer set of files, by layer."""
    opened = {layer: Tensors(path) for layer, path in paths.items()}
    n_layers = next(iter(opened.values())).check_shape("w_dec", None, None, None).shape[1]

    def weights(layer: int) -> LayerWeights:
        W_dec = opened[layer].check_shape("w_dec", None, n_layers, None)[:, layer:]
        return _weights(opened[layer], W_dec)

    by_layer = {layer: [path] for layer, path in paths.items()}
    return Layout("common", config, [folder / "config.yaml"], by_layer, n_layers, weights, changes=_CHANGES)


def is_layer(path: Path) -> bool:
    """Whether a file of a layer is in this layout."""
    return path.suffix == ".npz" or (path.suffix == ".safetensors" and path.is_file() and "w_enc" in Tensors(path))


def read_layer(path: Path) -> SingleLayer:
    tensors = Tensors(path)
    said = check_folder(tensors)
    beside = path.with_name("config.json")
    return SingleLayer(
        path,
        partial(_one_layer, tensors),
        settings=(beside,) if beside.is_file() else (),
        usual=(_READS[path.suffix], "hook_mlp_out"),
        changes=(*_CHANGES, *said),
    )


def check_folder(tensors: Tensors) -> tuple[str, ...]:
    """Raise for a file of an autoencoder, told by its place or by the config.json beside it."""
    folder = tensors.path.parent
    if _NOT_OF_MLPS.search(str(folder.resolve())):
        raise TranscoderError(f"{folder}: autoencoders, which stand for no MLP; graphs need transcoders.")
    path = folder / "config.json"
    if not path.is_file():
        return ()
    values = settings(path)
    said = check_settings(path, values, _KNOWN, architecture=["jump_relu"])
    hooks = (values.get("hf_hook_point_in", _READS_AT), values.get("hf_hook_point_out", _WRITES_AT))
    if _READS_AT not in str(hooks[0]) or _WRITES_AT not in str(hooks[1]):
        raise TranscoderError(f"{folder}: reads at {hooks[0]} and writes at {hooks[1]}; not of an MLP.")
    has_skip = "affine_skip_connection" in tensors
    if values.get("affine_connection", has_skip) != has_skip:
        raise TranscoderError(
            f"{path}: affine_connection is {values['affine_connection']!r}, but {tensors.path.name} has "
            f"{'an' if has_skip else 'no'} affine_skip_connection; download both again."
        )
    return said


def _one_layer(tensors: Tensors) -> LayerWeights:
    return _weights(tensors, tensors.check_shape("w_dec" if "w_enc" in tensors else "W_dec", None, None)[:, None])


def _weights(tensors: Tensors, W_dec: Tensor) -> LayerWeights:
    name = "affine_skip_connection"
    skip = tensors.check_shape(name, None, None) if name in tensors else None
    weights = LayerWeights(
        W_enc=tensors.check_shape("w_enc" if "w_enc" in tensors else "W_enc", None, None).T,
        b_enc=tensors["b_enc"],
        W_dec=W_dec,
        b_dec=tensors["b_dec"],
        threshold=tensors["threshold"],
        W_skip=None if skip is None else skip.T,
    )
    tensors.check_all_read()
    return weights


def _one_a_layer(folder: Path, paths: Sequence[Path]) -> dict[int, Path]:
    """The files by layer; of several sets in one folder the caller has to choose one."""
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
    of_place = {place: path for path, place in by_place.items()}
    return {layer: of_place[place] for layer, place in numbered(of_place, where=folder).items()}
