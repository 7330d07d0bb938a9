"""What a published folder of transcoders is, and the same in the common layout, layer by layer."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from attrgraph.errors import TranscoderError, checked
from attrgraph.files import foreign_file, whole_folder
from attrgraph.progress import Progress, shown
from attrgraph.transcoders.folder import (
    OWN_FILES,
    check_replaceable,
    labels_of,
    open_layout,
    write_layer,
    write_settings,
)
from attrgraph.transcoders.formats import Layout, Points
from attrgraph.transcoders.layer_weights import LayerWeights, check_finite, check_layer


@checked
def describe_transcoders(
    name: str | Path,
    *,
    read_point: str | None = None,
    write_point: str | None = None,
    revision: str | None = None,
    allow_missing_layers: bool = False,
    digest: bool = False,
) -> dict[str, Any]:
    """What a folder of transcoders is, in any layout, told without its weights: values that JSON can hold.

    `format`, `kind`, `model`, `n_layers`, `n_features` by layer, `missing_layers`, `d_model`, `activation`, `k` (a list
    if layers differ), `read_point`, `write_point`, `has_skip`, `dtype`, `bytes` of its files, and `changes`, what
    opening it changes.

    Args:
        name, read_point, write_point, revision, allow_missing_layers: as for `load_transcoders`.
        digest: the digest that graphs record, too, for which the files are read.

    Raises:
        TranscoderError: as for `load_transcoders`; what weights hold is not looked at.

    Example:
        >>> import attrgraph as ag
        >>> from attrgraph.demo.shipped import shipped_folder
        >>> ag.describe_transcoders(shipped_folder("cross_layer"))["activation"]
        'topk'
    """
    points = Points(read_point, write_point, allow_missing_layers)
    _, layout, source = open_layout(name, points, revision=revision, with_digest=digest)
    config, shapes, has_skip = layout.config, [], False
    for layer in range(layout.n_layers):
        with torch.device("meta"):  # shapes alone: nothing is read or folded
            weights = _checked(layout, layer, source["id"])
        shapes.append((len(weights.W_enc), weights.W_enc.shape[1], _activation(layout, weights, layer)))
        has_skip |= weights.W_skip is not None
    return {
        **source,
        "kind": config.model_kind,
        "model": config.model_name or None,
        "n_layers": layout.n_layers,
        "n_features": [shape[0] for shape in shapes],
        "missing_layers": [layer for layer, shape in enumerate(shapes) if shape[0] == 0],
        "d_model": shapes[0][1],
        "activation": " and ".join(dict.fromkeys(shape[2] for shape in shapes if shape[0])),
        "k": list(config.k) if isinstance(config.k, tuple) else config.k,
        "read_point": config.feature_input_hook,
        "write_point": config.feature_output_hook,
        "has_skip": has_skip,
        "dtype": str(weights.W_enc.dtype).removeprefix("torch."),
        "bytes": sum(path.stat().st_size for path in layout.used()),
    }


def _checked(layout: Layout, layer: int, name: str) -> LayerWeights:
    """The weights of a layer, whose shapes fit each other."""
    weights, config = layout.layer(layer), layout.config
    n_targets = layout.n_layers - layer if config.is_cross_layer else 1
    d_model = weights.W_enc.shape[1]
    check_layer(f"{name}, layer {layer}", weights, d_model=d_model, n_targets=n_targets, k=config.k_of(layer))
    return weights


def _activation(layout: Layout, weights: LayerWeights, layer: int) -> str:
    if layout.config.k_of(layer) is None:
        return "relu" if weights.threshold is None else "jumprelu"
    return "topk" if layout.config.has_relu(layer) else "topk of either sign"


@checked
def convert_transcoders(
    name: str | Path,
    folder: str | Path,
    *,
    read_point: str | None = None,
    write_point: str | None = None,
    revision: str | None = None,
    allow_missing_layers: bool = False,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> None:
    """Write transcoders of any layout in the common one, a layer at a time.

    The folder appears whole or not at all. What was written before a run was stopped stays in `FOLDER.partial`, and the
    next run goes on after it if the source is still the same.

    Args:
        name, read_point, write_point, revision, allow_missing_layers: as for `load_transcoders`. Layers that are
            missing are written as layers without features.
        folder: a new folder, or one that holds transcoders, which are replaced.
        overwrite: False refuses a folder that exists.
        progress: told how many layers are done.

    Raises:
        TranscoderError: as for `load_transcoders` and `save_transcoders`.
    """
    output, report = Path(folder), shown(progress)
    check_replaceable(output, overwrite=overwrite)
    points = Points(read_point, write_point, allow_missing_layers)
    origin, layout, source = open_layout(name, points, revision=revision)
    _check_apart(output, origin, layout)
    partial = output.with_name(f"{output.name}.partial")
    try:
        begun = _begun(partial, json.dumps(source, sort_keys=True))
        for layer in range(layout.n_layers):
            if layer >= begun:
                weights = _checked(layout, layer, source["id"])
                check_finite(f"{source['id']}, layer {layer}", weights)
                write_layer(partial, layer, weights, is_cross_layer=layout.config.is_cross_layer)
                (partial / _DONE).write_text(str(layer + 1))
            report("layers", layer + 1, layout.n_layers)
        write_settings(partial, layout.config, layout.n_layers, labels_of(origin))
        with whole_folder(output, lambda: check_replaceable(output, overwrite=overwrite)) as new:
            (partial / _DONE).unlink()  # a run that is killed from here on has nothing to go on with
            for file in partial.iterdir():
                if file.name != _SOURCE:
                    shutil.move(file, new / file.name)
        shutil.rmtree(partial)
    except OSError as e:
        raise TranscoderError(f"{output}: cannot be written ({e}).") from e


def _check_apart(output: Path, origin: Path, layout: Layout) -> None:
    """Raise for an output that replaces what is read, or lies in it."""
    to, read = output.resolve(), [path.resolve() for path in (origin, *layout.used())]
    if to.is_relative_to(read[0]) or any(path.is_relative_to(to) for path in read):
        raise TranscoderError(f"{output}: is, holds or lies in {origin}, which is read; choose another folder.")


_DONE, _SOURCE = ".layers-done", ".source"


def _begun(partial: Path, source: str) -> int:
    """How many layers a run before has written; what comes from another source is removed."""
    try:
        if (partial / _SOURCE).read_text() == source:
            return int((partial / _DONE).read_text())
    except (OSError, ValueError):
        pass
    if partial.exists():
        own = f"{OWN_FILES}|{re.escape(_DONE)}|{re.escape(_SOURCE)}"
        if any(partial.iterdir()) and (not (partial / _SOURCE).is_file() or foreign_file(partial, own)):
            raise TranscoderError(f"{partial}: is no unfinished conversion; choose another output, or remove it.")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / _SOURCE).write_text(source)
    return 0
