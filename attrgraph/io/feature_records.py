"""Feature pages on disk: records in circuit-tracer's feature files, and in Neuronpedia's batches.

`features/index.json.gz` names for each layer a file and the offsets of its records: record f lies between offsets f and
f + 1, a little-endian 32-bit length and then JSON, compressed with gzip. A feature that is not described has no bytes.
`neuronpedia/batch-0.json`, ... hold the same as Neuronpedia's dashboards.

Source: the readers of github.com/safety-research/circuit-tracer and github.com/hijohnnylin/neuronpedia
"""

import gzip
import json
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrgraph.errors import FeatureError
from attrgraph.files import read_json

_FEATURES, _NEURONPEDIA, INDEX = "features", "neuronpedia", "index.json.gz"
# of a folder of pages
OWN_FILES = (
    r"(?:card|labels)\.json|features\.parquet|neuronpedia/batch-\d+\.json|features/(?:index\.json\.gz|layer_\d+\.bin)"
)
_BATCH = 256
_LENGTH = struct.Struct("<I")
_MOST_BYTES = 2**26
Place = tuple[int, int]  # layer, feature


def packed(record: Mapping[str, Any]) -> bytes:
    """A record as it lies in a file: the same bytes whenever it is written."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return gzip.compress(text.encode(), 6, mtime=0)


def unpacked(blob: bytes) -> dict[str, Any]:
    """The record."""
    record: dict[str, Any] = json.loads(gzip.decompress(blob))
    return record


def write_feature_files(folder: Path, blobs: Mapping[Place, bytes], n_features: list[int]) -> None:
    """Write `features/`: an index, and a file for each layer that has described features."""
    (folder / _FEATURES).mkdir()
    index: dict[str, Any] = {}
    by_layer: dict[int, dict[int, bytes]] = {}
    for (layer, feature), blob in blobs.items():
        by_layer.setdefault(layer, {})[feature] = blob
    for layer, of_layer in sorted(by_layer.items()):
        name, offsets = f"layer_{layer}.bin", [0]
        with (folder / _FEATURES / name).open("wb") as file:
            for feature in range(n_features[layer]):
                if feature in of_layer:
                    file.write(_LENGTH.pack(len(of_layer[feature])) + of_layer[feature])
                offsets.append(file.tell())
        index[str(layer)] = {"filename": name, "offsets": offsets}
    (folder / _FEATURES / INDEX).write_bytes(gzip.compress(json.dumps(index).encode(), mtime=0))


class FeatureFiles(Mapping[Place, bytes]):
    """The packed records of `features/`, read one at a time when they are asked for.

    Raises:
        FeatureError: the folder has no such files, or they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FEATURES
        try:
            with gzip.open(self._folder / INDEX) as file:
                index = json.loads(file.read(_MOST_BYTES))
            self._files = {int(layer): (str(one["filename"]), one["offsets"]) for layer, one in index.items()}
            self._places = [
                (layer, feature)
                for layer, (_, offsets) in self._files.items()
                for feature in range(len(offsets) - 1)
                if offsets[feature + 1] > offsets[feature]
            ]
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise FeatureError(
                f"{folder}: has no feature pages that can be read ({type(e).__name__}: {e}); write them with "
                "attrgraph features MODEL TRANSCODERS --text FILE -o FOLDER."
            ) from e
        self._known = set(self._places)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Place) -> bytes:
        if place not in self._known:
            raise KeyError(place)
        name, offsets = self._files[place[0]]
        path = self._folder / Path(name).name
        try:
            with path.open("rb") as file:
                file.seek(offsets[place[1]])
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                blob = file.read(min(length, _MOST_BYTES))
            unpacked(blob)
        except (OSError, EOFError, ValueError, struct.error) as e:
            raise FeatureError(
                f"{path}: the record of feature {place[1]} is damaged ({e}); write the pages again."
            ) from e
        return blob


def write_neuronpedia(folder: Path, blobs: Mapping[Place, bytes], *, model: str, source_set: str) -> None:
    """Write `neuronpedia/batch-<n>.json`, 256 features of one layer each."""
    (folder / _NEURONPEDIA).mkdir()
    by_layer: dict[int, list[Place]] = {}
    for place in sorted(blobs):
        by_layer.setdefault(place[0], []).append(place)
    batches = [
        (layer, places[start : start + _BATCH])
        for layer, places in by_layer.items()
        for start in range(0, len(places), _BATCH)
    ]
    for number, (layer, places) in enumerate(batches):
        about = {"model_id": model, "layer": layer, "sae_set": source_set, "sae_id_suffix": None}
        features = [_dashboard(unpacked(blobs[place])) for place in places]
        text = json.dumps({**about, "features": features}, ensure_ascii=False, allow_nan=False)
        (folder / _NEURONPEDIA / f"batch-{number}.json").write_text(text, encoding="utf-8")


def _dashboard(record: Mapping[str, Any]) -> dict[str, Any]:
    edges, heights = record["histogram_edges"], record["histogram"]
    (low, high), n_bins = record["logit_range"], len(record["logit_histogram"])
    return {
        "feature_index": record["index"],
        "pos_str": record["top_logits"],
        "pos_values": record["top_logit_values"],
        "neg_str": record["bottom_logits"],
        "neg_values": record["bottom_logit_values"],
        "frac_nonzero": record["activation_frequency"],
        "freq_hist_data_bar_values": [(low + high) / 2 for low, high in pairwise(edges)],
        "freq_hist_data_bar_heights": heights,
        "logits_hist_data_bar_values": [low + (high - low) * (i + 0.5) / n_bins for i in range(n_bins)],
        "logits_hist_data_bar_heights": record["logit_histogram"],
        "n_prompts_total": record["n_documents"],
        "n_tokens_in_prompt": record["n_tokens"] // max(record["n_documents"], 1),
        "activations": [
            {
                "bin_min": min(strengths),
                "bin_max": max(strengths),
                "bin_contains": group["share_of_firings"],
                "tokens": one["tokens"],
                "values": one["tokens_acts_list"],
                "qualifying_token_index": one["train_token_ind"],
            }
            for group in record["examples_quantiles"]
            if (strengths := [each["tokens_acts_list"][each["train_token_ind"]] for each in group["examples"]])
            for one in group["examples"]
        ],
    }


def check_is_there(folder: Path) -> None:
    """Raise FeatureError if the folder holds no pages."""
    for name in (f"{_FEATURES}/{INDEX}", "card.json"):
        if not (folder / name).is_file():
            problem = f"holds no feature pages ({name} is missing)" if folder.is_dir() else "there is no such folder"
            raise FeatureError(
                f"{folder}: {problem}; write pages with attrgraph features MODEL TRANSCODERS --text FILE -o FOLDER "
                "(in Python describe_features)."
            )


def read_card(folder: Path) -> dict[str, Any]:
    """What `card.json` says.

    Raises:
        FeatureError: there is none, or it is damaged.
    """
    try:
        card = read_json(folder / "card.json")
        if not isinstance(card, dict):
            raise ValueError("is no object")
    except (OSError, ValueError) as e:
        raise FeatureError(f"{folder}: is no folder of feature pages (card.json: {e}).") from e
    return card
