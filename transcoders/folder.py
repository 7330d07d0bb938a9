"""Transcoder folders on disk: read in any layout of `formats`, written in the common one, whole or not at all.

An optional `labels.json` ({layer: {feature: name}}) names features; other tools leave it alone.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from attrgraph.errors import TranscoderError, checked
from attrgraph.files import MAY_BE_LOST, foreign_file, put_back, whole_folder
from attrgraph.io.feature_records import OWN_FILES as PAGES
from attrgraph.memory import free_bytes, in_words
from attrgraph.transcoders.config import TranscoderConfig
from attrgraph.transcoders.digests import MOST_WHOLE_BYTES, digest_transcoders
from attrgraph.transcoders.formats import Layout, Points, common, patterns_of, read_layout
from attrgraph.transcoders.formats.common import CROSS_LAYER_FILES, PER_LAYER_FILES
from attrgraph.transcoders.hub import resolve_folder
from attrgraph.transcoders.known_sets import full_name
from attrgraph.transcoders.labels import Labels, joined, load_labels
from attrgraph.transcoders.layer_weights import LayerWeights, check_finite
from attrgraph.transcoders.transcoders import Transcoders

# weights that are computed on opening may take this much of free memory: a choice
_MOST_COMPUTED = 0.5
# what is small, and tells a layout
_SETTINGS = ["config.yaml", "*.json"]
# files of a set that is written here, by circuit-tracer, or at the end of training, and pages of its features
OWN_FILES = "|".join(
    (
        *(r"config\.yaml", r"labels\.json", r"training\.yaml", r"metrics\.jsonl", rf"(?:features/)?(?:{PAGES})"),
        *(re.escape(name).replace(r"\{layer\}", "[0-9]+") for name in (*CROSS_LAYER_FILES, *PER_LAYER_FILES)),
    )
)


@checked
def load_transcoders(
    name: str | Path,
    *,
    read_point: str | None = None,
    write_point: str | None = None,
    labels: Iterable[str | Path] = (),
    revision: str | None = None,
    device: str | torch.device = "cpu",
    allow_missing_layers: bool = False,
) -> Transcoders:
    """Open a folder of transcoders in any layout that `attrgraph.transcoders.formats` knows.

    On a CPU weights stay in their memory-mapped files until they are used, where the layout allows it. `source` says
    what was found: `format`, and `changes`, what differs from the files.

    Encoders that were written transposed are noticed by their shape, but not if they are square.

    Args:
        name: path of a folder, `owner/repo[/subfolder][@revision]` on the Hugging Face hub, or one of circuit-tracer's
            short names for these, "gemma" and "llama".
        read_point: where features read, for folders that do not say it; see `config.READ_POINTS`.
        write_point: where they write; see `config.WRITE_POINTS`.
        labels: files with names of features, besides `labels.json` in the folder; see `load_labels`.
        revision: branch, tag or commit on the hub.
        device: where to put the weights.
        allow_missing_layers: open a set of which single layers are missing: they have no features, and what their MLPs
            write is error, but for what features of other layers write there. `missing_layers` says which they are.

    Raises:
        TranscoderError: the folder or a file is missing or damaged, shapes do not fit, or the layout is not known or
            holds what graphs cannot express.
    """
    points = Points(read_point, write_point, allow_missing_layers)
    folder, layout, source = open_layout(name, points, revision=revision)
    _check_memory(folder, layout)
    is_streamed = layout.is_view and torch.device(device).type == "cpu"
    # what is read for the digest is looked through; of larger sets the rows that are used
    every = not is_streamed or sum(path.stat().st_size for path in layout.used()) <= MOST_WHOLE_BYTES
    layers = []
    for layer in range(layout.n_layers):
        weights = layout.layer(layer)
        check_finite(f"{source['id']}, layer {layer}", weights, every=every)
        layers.append(weights.map(lambda tensor: tensor.to(device)))
    files = layout.weight_files() if is_streamed else ()
    named = joined(labels_of(folder), load_labels(*labels))
    return Transcoders(layers, layout.config, source=source, labels=named, files=files)


def open_layout(
    name: str | Path, points: Points, *, revision: str | None, with_digest: bool = True
) -> tuple[Path, Layout, dict[str, str]]:
    """The folder, its layout, and where it is from, as graphs record it; no weights are read but for the digest."""
    how: dict[str, Any] = {"error": TranscoderError}
    named = str(name) if Path(name).is_dir() else full_name(str(name))
    folder, source = resolve_folder(named, revision=revision, patterns=_SETTINGS, may_lack=True, **how)
    if "revision" in source:
        patterns = [*_SETTINGS, *patterns_of(folder)]
        folder, _ = resolve_folder(source["id"], revision=source["revision"], patterns=patterns, **how)
    layout = read_layout(folder, points)
    source |= {"format": layout.format} | ({"changes": "; ".join(layout.changes)} if layout.changes else {})
    # files from elsewhere are not those of the commit
    if with_digest and ("revision" not in source or any(not path.is_relative_to(folder) for path in layout.used())):
        source["digest"] = digest_transcoders(layout.used())
    return folder, layout, source


def _check_memory(folder: Path, layout: Layout) -> None:
    """Raise for weights that have to be computed and do not fit."""
    size = sum(path.stat().st_size for path in layout.used())
    free = free_bytes(torch.device("cpu"))
    if not layout.is_view and size > _MOST_COMPUTED * free:
        raise TranscoderError(
            f"{folder}: opening a {layout.format} folder computes its weights anew ({'; '.join(layout.changes)}), and "
            f"they take {in_words(size)} where {in_words(free)} are free; write them once in the common layout, which "
            f"is read from files: attrgraph transcoders {folder} -o FOLDER."
        )


@checked
def save_transcoders(
    transcoders: Transcoders, folder: str | Path, *, overwrite: bool = True, texts: Mapping[str, str] | None = None
) -> None:
    """Write a folder that `load_transcoders` reads. It appears complete or not at all.

    circuit-tracer reads it too, but its loader ignores two things in cross-layer sets: k and the linear skip.

    Args:
        transcoders: what to write.
        folder: a new folder, or one that holds transcoders, which are replaced; a symbolic link stays.
        overwrite: False refuses a folder that exists.
        texts: further files by name, such as a model card.

    Raises:
        TranscoderError: the folder exists and `overwrite` is False, or holds something else, or cannot be written.
    """
    folder = Path(folder)
    check = partial(check_replaceable, folder, overwrite=overwrite, texts=texts or ())
    check()
    try:
        with whole_folder(folder, check) as temporary:
            for layer, weights in enumerate(transcoders.layers):
                write_layer(temporary, layer, weights, is_cross_layer=transcoders.config.is_cross_layer)
            write_settings(temporary, transcoders.config, transcoders.n_layers, transcoders.labels)
            for name, text in (texts or {}).items():
                (temporary / name).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as e:
        raise TranscoderError(f"{folder}: cannot be written ({e}).") from e


def write_layer(folder: Path, layer: int, weights: LayerWeights, *, is_cross_layer: bool) -> None:
    """The files of one layer in the common layout."""
    stored = vars(weights)
    if not is_cross_layer:  # without the axis of one target layer
        stored = {**stored, "W_dec": weights.W_dec.squeeze(1)}
    for file, names in (CROSS_LAYER_FILES if is_cross_layer else PER_LAYER_FILES).items():
        present = {field: name for field, name in names.items() if stored[field] is not None}
        tensors = {name.format(layer=layer): stored[field].contiguous() for field, name in present.items()}
        save_file(tensors, folder / file.format(layer=layer))


def write_settings(folder: Path, config: TranscoderConfig, n_layers: int, labels: Labels) -> None:
    """`config.yaml`, and `labels.json` if features have names."""
    if "transcoders" in config.extra:  # which names files elsewhere, and maybe how another tool is to read them
        elsewhere = ("transcoders", "special_load_fn")
        extra = {name: value for name, value in config.extra.items() if name not in elsewhere}
        if not config.is_cross_layer:
            extra["transcoders"] = [f"layer_{layer}.safetensors" for layer in range(n_layers)]
        config = replace(config, extra=extra)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
    if labels:
        nested: dict[str, dict[str, str]] = {}
        for (layer, feature), name in sorted(labels.items()):
            nested.setdefault(str(layer), {})[str(feature)] = name
        text = json.dumps(nested, ensure_ascii=False, indent=0)
        (folder / "labels.json").write_text(text, encoding="utf-8")


def labels_of(folder: Path) -> Labels:
    """Names of features that lie with a folder of transcoders."""
    path = folder / "labels.json"
    return load_labels(path) if path.exists() else {}


def check_replaceable(folder: Path, *, overwrite: bool, texts: Iterable[str] = ()) -> None:
    """Raise TranscoderError if `save_transcoders` would refuse: to be asked before long work, not after it.

    Args:
        folder: what would be replaced.
        overwrite: False refuses a folder that exists.
        texts: names of further files that are its own.
    """
    put_back(folder)
    if os.path.lexists(folder) and not overwrite:
        raise TranscoderError(f"{folder}: exists; choose another name or pass --force (overwrite=True).")
    if not folder.exists():
        return
    try:
        is_set = (folder / "config.yaml").is_file() and common.matches(folder)
    except TranscoderError:
        is_set = False
    if not is_set:
        raise TranscoderError(f"{folder}: exists and is no folder of transcoders; it is not overwritten.")
    if foreign := foreign_file(folder, "|".join((OWN_FILES, *map(re.escape, texts)))):
        raise TranscoderError(
            f"{folder}: holds {foreign}, which saving transcoders does not write, so it is not overwritten ("
            f"{MAY_BE_LOST}, and pages of features); choose another name, or move what is to be kept."
        )
