"""What a reader of a published layout gives, and what readers share: tensors as views of files, layer numbers, hooks.

A reader is a module with `matches(folder)` and `read(folder, points)`; one whose layers lie each for itself also has
`is_layer(path)` and `read_layer(path)`, and `join_layers` makes a set of such layers.

Weights are views of memory-mapped files where the layout allows it, a transposed encoder too, read in stripes. Where it
does not (decoders stored by target, scales to be folded), a layer's weights are computed when they are asked for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.files import read_json
from attrgraph.io.json_values import is_number
from attrgraph.transcoders.config import PER_LAYER, READ_POINTS, WRITE_POINTS, TranscoderConfig, is_count
from attrgraph.transcoders.layer_weights import LayerWeights

_NUMBER = re.compile(r"[0-9]+")
# settings that are sizes, wherever they stand, and more than any can be
_SIZES = {
    *("d_in", "d_out", "d_sae", "d_model", "d_latent", "d_acts", "d_features", "num_latents"),
    *("n_layers", "n_targets", "expansion_factor"),
}
_LARGEST = 2**31
# the deepest models have 126
_MOST_LAYERS = 1000


class Points(NamedTuple):
    """What the caller says: where features read and write, where a folder does not; whether layers may be missing."""

    read: str | None = None
    write: str | None = None
    allow_missing_layers: bool = False

    def of(self, folder: Path, read: str | None, write: str | None, *, likely: tuple[str, str]) -> dict[str, Any]:
        """The settings of a `TranscoderConfig`: the caller's, else the folder's.

        Args:
            read, write: as the folder says; None if it does not.
            likely: to be said in the error where nobody says it.
        """
        found = (self.read or read, self.write or write)
        if None in found:
            raise TranscoderError(
                f"{folder}: does not say where its features read and write; pass --read-point and --write-point "
                f"(read_point=, write_point=), most likely {likely[0]} and {likely[1]}."
            )
        if found[0] == "hook_mlp_in":
            raise TranscoderError(
                f"{folder}: reads at hook_mlp_in, which is ambiguous: in TransformerLens 2 it lies before the norm, "
                "in 3 after it; pass --read-point (read_point=) hook_resid_mid if it lay before, mlp.hook_in if after."
            )
        names = ("feature_input_hook", "feature_output_hook")
        for name, point, allowed in zip(names, found, (READ_POINTS, WRITE_POINTS), strict=True):
            if point not in allowed:
                raise TranscoderError(f"{folder}: {name} is {point!r}; expected one of {', '.join(allowed)}.")
        return dict(zip(names, map(str, found), strict=True))


@dataclass(frozen=True)
class Layout:
    """A folder as its reader understands it; only settings have been read.

    Attributes:
        format: what the layout is called.
        config: of the set.
        files: those that decide what is computed, besides the weights' (settings).
        weights: files of weights, by layer; a file may hold several layers. Layers that are missing are left out.
        n_layers: those that are missing included.
        layer: gives the weights of one layer.
        is_view: whether weights are views of files, so that a set may be larger than memory.
        changes: what differs from the files, in words: what is folded, transposed, left out.
    """

    format: str
    config: TranscoderConfig
    files: Sequence[Path]
    weights: Mapping[int, Sequence[Path]]
    n_layers: int
    layer: Callable[[int], LayerWeights]
    is_view: bool = True
    changes: tuple[str, ...] = ()

    def used(self) -> list[Path]:
        """Every file that decides what is computed, each once."""
        return list(dict.fromkeys([*self.files, *self.weight_files()]))

    def weight_files(self) -> list[Path]:
        return list(dict.fromkeys(path for paths in self.weights.values() for path in paths))


@dataclass(frozen=True)
class SingleLayer:
    """The transcoder of one layer in a folder or a file of its own; only settings have been read.

    Attributes:
        path: of its weights.
        weights: gives them.
        settings: the files that decide what is computed, besides.
        layer: the one that it says it is of; None if it does not.
        hooks: where it says that its features read and write, without the layer.
        usual: where features of its layout do.
        k: of a TopK.
        relu_before_topk: whether only positive pre-activations are active.
        is_view, changes: as of a `Layout`.
    """

    path: Path
    weights: Callable[[], LayerWeights]
    settings: tuple[Path, ...] = ()
    layer: int | None = None
    hooks: tuple[str | None, str | None] = (None, None)
    usual: tuple[str | None, str | None] = (None, None)
    k: int | None = None
    relu_before_topk: bool = True
    is_view: bool = True
    changes: tuple[str, ...] = ()


def join_layers(
    name: str, folder: Path, ones: Mapping[int, SingleLayer], points: Points, config: TranscoderConfig | None = None
) -> Layout:
    """A per-layer set of layers that lie each for itself.

    Args:
        name: of the layout.
        folder: said in errors.
        ones: by layer.
        points: where they read and write, as the caller says.
        config: what a list of them says about all; without one, what they say themselves.
    """
    of = list(ones.values())
    for layer, one in ones.items():
        if one.layer not in (None, layer) or not 0 <= layer < _MOST_LAYERS:
            expected = f"layer {layer}" if 0 <= layer < _MOST_LAYERS else f"a layer below {_MOST_LAYERS}"
            raise TranscoderError(f"{one.path}: says that it is of layer {one.layer}; expected {expected}.")
    if config is None:
        hooks = one_value(folder, "hooks", [(one.hooks[0] or one.usual[0], one.hooks[1] or one.usual[1]) for one in of])
        config = TranscoderConfig(PER_LAYER, **points.of(folder, *hooks, likely=("mlp.hook_in", "hook_mlp_out")))
    elif not (points.read or points.write):
        stated = (config.feature_input_hook, config.feature_output_hook)
        for one in of:
            if any(hook not in (None, said) for hook, said in zip(one.hooks, stated, strict=True)):
                raise TranscoderError(
                    f"{one.path}: its features read and write at {one.hooks}, config.yaml says {stated}; correct it."
                )
    for layer, one in ones.items():
        if config.k_of(layer) not in (None, one.k):
            raise TranscoderError(f"{one.path}: its k is {one.k}, config.yaml says {config.k_of(layer)}; correct one.")
    k = k_by_layer({layer: one.k for layer, one in ones.items()})
    signs = {layer: one.relu_before_topk for layer, one in ones.items() if one.k}
    same = len(set(signs.values())) < 2
    relu = next(iter(signs.values()), True) if same else tuple(signs.get(layer, True) for layer in range(max(ones) + 1))
    return Layout(
        name,
        replace(config, k=k, relu_before_topk=relu),
        list(dict.fromkeys(path for one in of for path in one.settings)),
        {layer: [one.path] for layer, one in sorted(ones.items())},
        max(ones) + 1,
        lambda layer: ones[layer].weights(),
        is_view=all(one.is_view for one in of),
        changes=tuple(dict.fromkeys(change for one in of for change in one.changes)),
    )


def settings(path: Path) -> dict[str, Any]:
    """A JSON file with an object in it."""
    try:
        values = read_json(path)
    except (ValueError, OSError) as e:
        raise TranscoderError(f"{path}: cannot be read ({e}).") from e
    if not isinstance(values, dict):
        raise TranscoderError(f"{path}: expected an object, got {type(values).__name__}.")
    return values


def check_settings(
    path: Path, values: Mapping[str, Any], known: Iterable[str], **allowed: Sequence[Any]
) -> tuple[str, ...]:
    """Raise for a setting that asks for what cannot be expressed; one that is missing is fine.

    Args:
        values: of the file.
        known: settings that are read, or that change nothing of what is computed.
        allowed: for each setting the values that can be.

    Returns:
        What to say of settings that are not known, and not off.
    """
    for name in _SIZES & values.keys():
        size = values[name]
        is_right = is_number(size) if name == "expansion_factor" else isinstance(size, int) and type(size) is not bool
        if size is not None and not (is_right and 0 <= size <= _LARGEST):
            raise TranscoderError(f"{path}: {name} is {size!r:.60}; expected a number from 0 to {_LARGEST}.")
    for name, options in allowed.items():
        if name in values and values[name] not in options:
            shown = ", ".join(map(repr, options))
            raise TranscoderError(
                f"{path}: {name} is {values[name]!r:.100}, which these graphs cannot express (expected {shown}); use a "
                "set without it."
            )
    off: tuple[Any, ...] = (None, False, 0, "", "none", [], {})
    unknown = [name for name in values if name not in {*known, *allowed} and values[name] not in off]
    return (f"settings that are not known are ignored: {', '.join(sorted(unknown)):.200}",) if unknown else ()


def settings_beside(path: Path, name: str, *any_of: str) -> dict[str, Any] | None:
    """Settings in the folder of a file of weights, if they hold one of these names."""
    beside = path.with_name(name)
    values = settings(beside) if beside.is_file() else {}
    return values if any(each in values for each in any_of) else None


def numbered(paths: Iterable[Path], *, where: Path) -> dict[int, Path]:
    """Paths whose names hold one number each, in its order: layers."""
    found: dict[int, Path] = {}
    for path in paths:
        number = _NUMBER.search(path.name)
        layer = -1 if number is None else int(number[0])
        if layer in found or not 0 <= layer < _MOST_LAYERS:
            raise TranscoderError(f"{where}: {path.name} and {found.get(layer, path).name} do not name one layer each.")
        found[layer] = path
    return dict(sorted(found.items()))


def one_value(folder: Path, name: str, values: Sequence[Any]) -> Any:
    """What all layers say; they must agree."""
    different = list(dict.fromkeys(map(repr, values)))
    if len(different) > 1:
        raise TranscoderError(f"{folder}: layers differ in {name} ({', '.join(different):.100}); expected one value.")
    return values[0]


def k_of(path: Path, value: Any) -> int:
    """The k of a TopK."""
    if not is_count(value):
        raise TranscoderError(f"{path}: its activation is topk with k {value!r:.60}; expected a positive integer.")
    return int(value)


def k_by_layer(ks: Mapping[int, int | None]) -> int | tuple[int | None, ...] | None:
    """As a `TranscoderConfig` holds it; layers that are missing may have any."""
    if len(set(ks.values())) == 1:
        return next(iter(ks.values()))
    return tuple(ks.get(layer) for layer in range(max(ks) + 1))


def wide(x: Tensor) -> Tensor:
    """In float32, in which scales are folded, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def layer_of(hook: Any) -> int | None:
    """3 of `blocks.3.ln2.hook_normalized`; None if it names no layer."""
    found = re.match(r"blocks\.([0-9]+)\.", hook) if isinstance(hook, str) else None
    return None if found is None else int(found[1])


def hook_name(hook: Any) -> str | None:
    """`ln2.hook_normalized` of `blocks.3.ln2.hook_normalized`."""
    return re.sub(r"^blocks\.\d+\.", "", hook) if isinstance(hook, str) else None
