"""Names of features, from files that people have: read without running code, and put together in the order given.

`labels.json` ({layer: {feature: name}}) or {"3/458": name}; CSV with `layer`, `feature`, `label`; Neuronpedia's
explanations (`batch-0.jsonl.gz`) and answers of its API saved as JSON; circuit-tracer's feature files
(`index.json.gz` and `layer_3.bin`), whose features are named by the tokens that they promote; delphi's folder of
explanations; tables of SQLite with such columns, as CLT-Forge keeps; labels typed into graphs (`clerp`).
"""

import csv
import gzip
import json
import re
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError
from attrgraph.files import read_json, read_text

Labels = dict[tuple[int, int], str]
# a feature's layer and index: 3/458, 3_458, 3_458_7
_PLACE = re.compile(r"(\d+)[/_](\d+)(?:[@_]\d+)?")
# delphi's names of files: layers.3.mlp_latent458.txt
_DELPHI = re.compile(r"(?:^|\D)(\d+)\D.*?(?:latent|feature)(\d+)\.(?:txt|json)$")
_NAMES = ("label", "description", "explanation", "name", "text")
_FEATURES = ("feature", "feature_idx", "feature_id", "feature_index", "index", "latent")
# labels that this package and others make up themselves
_MADE_UP = re.compile(r"(?:L\d+ feature \d+|)$")
_MOST_BYTES = 2**30
_N_PROMOTED = 3


def load_labels(*paths: str | Path) -> Labels:
    """Names of features by (layer, feature), of files in any of the forms above; a later file's names win.

    Raises:
        TranscoderError: a file is missing, damaged, or in none of the forms.

    Example:
        >>> import attrgraph as ag
        >>> from attrgraph.demo.shipped import shipped_folder
        >>> ag.load_labels(shipped_folder("cross_layer") / "labels.json")[1, 1023]
        'city in texas'
    """
    found: Labels = {}
    for path in map(Path, paths):
        try:
            names = {place: " ".join(str(name).split()) for place, name in _pairs(path)}
            "".join(names.values()).encode()  # half a surrogate pair could be written nowhere
        except FileNotFoundError as e:
            raise TranscoderError(f"{path}: no such file of labels.") from e
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError, OSError, sqlite3.Error) as e:
            raise TranscoderError(
                f"{path}: holds no labels of features that can be read ({type(e).__name__}: {e}); a plain form is "
                'JSON such as {"3/458": "name"}.'
            ) from e
        found |= {place: name for place, name in names.items() if name}
    return found


def _pairs(path: Path) -> Iterable[tuple[tuple[int, int], Any]]:
    if path.is_dir():
        return _of_folder(path)
    readers: Mapping[str, Callable[[Path], Iterable[tuple[tuple[int, int], Any]]]] = {
        ".csv": _of_csv,
        ".jsonl": _of_lines,
        ".gz": _of_lines,
        ".db": _of_sqlite,
        ".sqlite": _of_sqlite,
        ".sqlite3": _of_sqlite,
        ".json": lambda path: _of_json(read_json(path)),
    }
    if path.suffix not in readers:
        raise ValueError(f"unknown ending {path.suffix!r}; expected one of {', '.join(readers)}, or a folder")
    return readers[path.suffix](path)


def _of_folder(folder: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    if (folder / "labels.json").is_file():  # of feature pages, or of transcoders
        yield from _of_json(read_json(folder / "labels.json"))
        return
    index = next(
        (path for path in (folder / "index.json.gz", folder / "features/index.json.gz") if path.is_file()), None
    )
    if index is not None:
        yield from _of_feature_files(index)
        return
    batches = sorted(folder.glob("**/*.jsonl.gz"))
    for batch in batches:
        yield from _of_lines(batch)
    named = [(found, path) for path in sorted(folder.iterdir()) if (found := _DELPHI.search(path.name))]
    for found, path in named:
        text = read_text(path).strip()
        yield (int(found[1]), int(found[2])), json.loads(text) if text.startswith('"') else text
    if not batches and not named:
        raise ValueError("no index.json.gz, no *.jsonl.gz, and no file of a feature such as layers.3.mlp_latent458.txt")


def _of_json(value: Any) -> Iterator[tuple[tuple[int, int], Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _of_json(each)
    elif "nodes" in value:
        for node in value["nodes"]:
            place, label = _PLACE.fullmatch(str(node["node_id"])), node.get("clerp")
            if place and isinstance(label, str) and not _MADE_UP.match(label):
                yield (int(place[1]), int(place[2])), label
    elif "index" in value:
        yield from _of_record(value)
    else:
        for key, name in value.items():
            place = _PLACE.fullmatch(key)
            if place:
                yield (int(place[1]), int(place[2])), name
            else:
                yield from (((int(key), int(feature)), each) for feature, each in name.items())


def _of_record(record: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int], Any]]:
    """A feature of Neuronpedia's: one of its explanations' lines, or an answer of its API."""
    layer = re.match(r"\d+", str(record["layer"]))
    explanations = record.get("explanations") or [record]
    name = next((one[key] for one in explanations for key in _NAMES if one.get(key)), None)
    if layer and name:
        yield (int(layer[0]), int(record["index"])), name


def _of_lines(path: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        n_bytes = 0
        for line in lines:
            n_bytes += len(line)
            if n_bytes > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
            if line.strip():
                yield from _of_record(json.loads(line))


def _of_csv(path: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    yield from _of_rows(csv.DictReader(read_text(path).splitlines()))


def _of_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[int, int], Any]]:
    for row in rows:
        name, feature = (next((key for key in keys if key in row), keys[0]) for keys in (_NAMES, _FEATURES))
        place = _PLACE.fullmatch(str(row[feature]))
        yield (int(place[1]), int(place[2])) if place else (int(row["layer"]), int(row[feature])), row[name] or ""


def _of_sqlite(path: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    """Rows of every table with a layer, a feature and a name."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        database.row_factory = sqlite3.Row
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            quoted = table.replace('"', '""')
            columns = {row["name"] for row in database.execute(f'PRAGMA table_info("{quoted}")')}
            if "layer" in columns and columns & set(_NAMES) and columns & set(_FEATURES):
                yield from _of_rows(dict(row) for row in database.execute(f'SELECT * FROM "{quoted}"'))
    finally:
        database.close()


def _of_feature_files(index: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    """circuit-tracer's: a record is four bytes of length, and JSON compressed by gzip."""
    with gzip.open(index) as file:
        layers = json.loads(file.read(_MOST_BYTES))
    for layer, about in layers.items():
        with (index.parent / Path(about["filename"]).name).open("rb") as records:
            for feature, (begin, end) in enumerate(zip(about["offsets"], about["offsets"][1:], strict=False)):
                if end - begin <= 4:
                    continue
                records.seek(begin)
                (size,) = struct.unpack("<I", records.read(4))
                record = json.loads(gzip.decompress(records.read(min(size, end - begin - 4))))
                name = next((record[key] for key in _NAMES if record.get(key)), None)
                promoted = ", ".join(json.dumps(str(one), ensure_ascii=False) for one in record.get("top_logits", []))
                if name or promoted:
                    short = ", ".join(promoted.split(", ")[:_N_PROMOTED])
                    yield (int(layer), int(record.get("index", feature))), name or f"promotes {short}"
