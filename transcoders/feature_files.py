"""circuit-tracer's files of features: `index.json.gz` = {layer: {filename, offsets}}, and a file of records a layer.

A record is four bytes of length, and JSON compressed by gzip. A set has hundreds of thousands, each with its examples.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from attrgraph.errors import TranscoderError

Place = tuple[int, int]
INDEX = "index.json.gz"
NAMES = ("label", "description", "explanation", "name", "text")
_MOST_BYTES = 2**30
_N_PROMOTED = 3


class FeatureFiles(Mapping[Place, str]):
    """Names of features by layer and index: what their records say, or the tokens that they promote, or an empty one.

    The index is read at once, a record when its feature is asked for.

    Raises:
        ValueError: the index is not of this form, or a file that it names is missing.
    """

    def __init__(self, index: Path) -> None:
        with gzip.open(index) as file:
            layers = json.loads(file.read(_MOST_BYTES))
        self._layers = {int(layer): _layer(index.parent, about) for layer, about in layers.items()}

    def _span(self, place: Any) -> tuple[int, int]:
        """Where a feature's record begins and ends; without one the same."""
        layer, feature = place
        _, offsets = self._layers.get(layer, (Path(), np.empty(0)))
        return (int(offsets[feature]), int(offsets[feature + 1])) if 0 <= feature < len(offsets) - 1 else (0, 0)

    def __contains__(self, place: object) -> bool:
        begin, end = self._span(place)
        return end - begin > 4

    def __iter__(self) -> Iterator[Place]:
        for layer, (_, offsets) in self._layers.items():
            yield from zip(repeat(layer), (np.diff(offsets) > 4).nonzero()[0].tolist(), strict=False)

    def __len__(self) -> int:
        return sum(int((np.diff(offsets) > 4).sum()) for _, offsets in self._layers.values())

    def __getitem__(self, place: Place) -> str:
        if place not in self:
            raise KeyError(place)
        path, (begin, end) = self._layers[place[0]][0], self._span(place)
        try:
            with path.open("rb") as records:
                records.seek(begin)
                (size,) = struct.unpack("<I", records.read(4))
                record = json.loads(gzip.decompress(records.read(min(size, end - begin - 4))))
            name = next((record[key] for key in NAMES if record.get(key)), None) or promoted(record.get("top_logits"))
        except (OSError, EOFError, ValueError, struct.error, zlib.error, AttributeError, TypeError) as e:
            raise TranscoderError(
                f"{path}: its record of feature {place[1]} cannot be read; copy or download it and {INDEX} again."
            ) from e
        return " ".join(str(name).split()).encode(errors="replace").decode()


def promoted(tokens: Sequence[Any] | None) -> str:
    """A name by the tokens that a feature promotes most; empty without any."""
    said = ", ".join(json.dumps(str(token), ensure_ascii=False) for token in (tokens or ())[:_N_PROMOTED])
    return f"promotes {said}" if said else ""


def _layer(folder: Path, about: Any) -> tuple[Path, np.ndarray]:
    """The file of a layer, and where its records begin."""
    offsets = np.asarray(about.get("offsets") if isinstance(about, dict) else None)
    if offsets.ndim != 1 or offsets.dtype.kind != "i":
        raise ValueError(f"{INDEX} does not say where the records of each layer begin")
    path = folder / Path(str(about.get("filename"))).name
    if not path.is_file():
        raise ValueError(f"{path.name}, which {INDEX} names, is missing; download it")
    if len(offsets) and (offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > path.stat().st_size):
        raise ValueError(
            f"{path.name} is shorter than {INDEX} says, or its records are in no order; download both again"
        )
    return path, offsets
