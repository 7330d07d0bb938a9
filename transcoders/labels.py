"""Names of features, from files that people have: read without running code, and put together in the order given.

`labels.json` ({layer: {feature: name}}) or {"3/458": name}; CSV with `layer`, `feature`, `label`; Neuronpedia's
explanations (`batch-0.jsonl.gz`), answers of its API saved as JSON, and dashboards (`batch-0.json`), which name a
feature by the tokens that it promotes, where nothing explains it; circuit-tracer's feature files
(`index.json.gz` and `layer_3.bin`), whose features are named by the tokens that they promote; delphi's folder of
explanations; tables of SQLite or Parquet with such columns, and CLT-Forge's of features (`features.db`, `job_0.db`,
`job_0.parquet`, `job_0.json`, or its folder); saved graphs: groups, labels of nodes, and those typed in, which win.
"""

import csv
import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from attrgraph.errors import TranscoderError, checked
from attrgraph.files import read_json, read_text
from attrgraph.graph.load_graph import load_graph
from attrgraph.io.flavours import FEATURE_TYPES, feature_index
from attrgraph.io.json_values import integer
from attrgraph.io.json_writing import to_document
from attrgraph.io.params import own_labels, supernodes
from attrgraph.schema import feature_place
from attrgraph.transcoders.feature_files import INDEX, FeatureFiles, Place, promoted
from attrgraph.transcoders.feature_files import NAMES as _NAMES

Labels = Mapping[Place, str]
_Pairs = Iterable[tuple[Place, Any]]
# delphi's names of files: layers.3.mlp_latent458.txt
_DELPHI = re.compile(r"(?:^|\D)(\d+)\D.*?(?:latent|feature)(\d+)\.(?:txt|json)$")
_FEATURES = ("feature", "feature_idx", "feature_id", "feature_index", "index", "latent")
# labels that this package and others make up themselves; CLT-Forge's of features that nothing explained
_MADE_UP = re.compile(r"(?:L\d+ feature \d+|Unknown|No explanation generated|)$")
_OF_JOBS = ("features.db", "job_*.db", "*.parquet", "layer_*/job_*.json")
# as spreadsheets and tables write whole numbers where others are missing: 3.0
_WHOLE = re.compile(r"(\d{1,18})(?:\.0+)?")
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, OSError, RecursionError),
    *(sqlite3.Error, csv.Error, zlib.error),
)
_MOST_BYTES = 2**30


class _Joined(Mapping[Place, str]):
    """Names from several sources, the later ones first."""

    def __init__(self, parts: Sequence[Labels]) -> None:
        self._parts = parts

    def __getitem__(self, place: Place) -> str:
        names = (part[place] for part in reversed(self._parts) if place in part)
        if place not in self:
            raise KeyError(place)
        return next(filter(None, names), "")

    def __contains__(self, place: object) -> bool:
        return any(place in part for part in self._parts)

    def __iter__(self) -> Iterator[Place]:
        return iter(dict.fromkeys(chain(*self._parts)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def joined(*sources: Labels) -> Labels:
    """Names from several sources, of which a later one's win: a dictionary, unless files are read as they are asked."""
    if all(isinstance(each, dict) for each in sources):
        return dict(chain.from_iterable(each.items() for each in sources))
    return sources[0] if len(sources) == 1 else _Joined(sources)


@checked
def load_labels(*paths: str | Path) -> Labels:
    """Names of features by (layer, feature), of files in any of the forms above; a later file's names win.

    Of circuit-tracer's feature files each record is read when its feature is asked for.

    Raises:
        TranscoderError: a file is missing, damaged, or in none of the forms.

    Example:
        >>> import attrgraph as ag
        >>> from attrgraph.demo.shipped import shipped_folder
        >>> ag.load_labels(shipped_folder("cross_layer") / "labels.json")[1, 1023]
        'city in texas'
    """
    return joined(*map(_read, map(Path, paths)))


def _read(path: Path) -> Labels:
    """Of one file or folder."""
    try:
        index = next(
            (at for at in (path, path / INDEX, path / "features" / INDEX) if at.name == INDEX and at.is_file()), None
        )
        if index is not None and not (path / "labels.json").is_file():
            return FeatureFiles(index)
        names = {place: _text(name) for place, name in _pairs(path)}
        "".join(names.values()).encode()  # half a surrogate pair could be written nowhere
    except FileNotFoundError as e:
        raise TranscoderError(f"{path}: no such file of labels.") from e
    except _UNREADABLE as e:
        raise TranscoderError(
            f"{path}: holds no labels of features that can be read ({_why(e)}); a plain form is JSON such as "
            '{"3/458": "name"}.'
        ) from e
    return {place: name for place, name in names.items() if name}


def _why(error: Exception) -> str:
    """Why a file cannot be read, in words of files, not of Python."""
    match error:
        case json.JSONDecodeError():
            return f"it is no JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        case UnicodeError():
            return "it holds what is no text in UTF-8"
        case EOFError() | OSError() | zlib.error():
            return getattr(error, "strerror", None) or "it is damaged, or not what its ending says"
        case KeyError():
            return f"it lacks {error}"
        case ValueError() | sqlite3.Error() | csv.Error():
            return str(error)
        case RecursionError():
            return "it is nested too deep"
    return "it is in none of the forms that are known"


def _text(name: Any) -> str:
    """A name in one line; empty for none."""
    if isinstance(name, Mapping):
        name = next((name[key] for key in _NAMES if name.get(key)), name)
    if not isinstance(name, str | int | float | None):
        raise ValueError(f"a name is a {type(name).__name__}, expected text")
    return "" if name is None else " ".join(str(name).split())


def _number(value: Any, what: str) -> int:
    found = _WHOLE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{what} is {value!r:.60}; expected a whole number from 0")
    return int(found[1])


def _pairs(path: Path) -> _Pairs:
    if path.is_dir():
        return _of_folder(path)
    readers: Mapping[str, Callable[[Path], _Pairs]] = {
        ".csv": _of_csv,
        ".tsv": _of_csv,
        ".jsonl": _of_lines,
        ".gz": _of_lines,
        ".db": _of_sqlite,
        ".sqlite": _of_sqlite,
        ".sqlite3": _of_sqlite,
        ".parquet": _of_parquet,
        ".json": lambda path: _of_json(read_json(path)),
        ".safetensors": lambda path: _of_graph(to_document(load_graph(path), "neuronpedia")[0]),
    }
    if path.suffix not in readers:
        raise ValueError(f"its ending is {path.suffix!r}; expected one of {', '.join(readers)}, or a folder of files")
    return readers[path.suffix](path)


def _of_folder(folder: Path) -> Iterator[tuple[Place, Any]]:
    if (folder / "labels.json").is_file():  # of feature pages, or of transcoders
        yield from _of_json(read_json(folder / "labels.json"))
        return
    jobs = next((those for pattern in _OF_JOBS if (those := sorted(folder.glob(f"**/{pattern}")))), [])
    for job in jobs:
        yield from _pairs(job)
    dashboards = sorted(folder.glob("**/batch-*.json"))
    yield from _of_dashboards(map(read_json, dashboards))
    batches = sorted(folder.glob("**/*.jsonl.gz"))
    yield from _of_records(record for batch in batches for record in _lines(batch))
    inner = folder / "explanations"  # of delphi's results, beside its scores
    files = sorted((inner if inner.is_dir() else folder).iterdir())
    named = [(found, path) for path in files if (found := _DELPHI.search(path.name))]
    for found, path in named:
        text = read_text(path).strip()
        yield (int(found[1]), int(found[2])), json.loads(text) if text.startswith('"') else text
    if not (dashboards or batches or named or jobs):
        raise ValueError(
            f"no {INDEX}, no batch-*.json, no *.jsonl.gz, none of {', '.join(_OF_JOBS)}, and no file of a feature such "
            "as layers.3.mlp_latent458.txt"
        )


def _of_json(value: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, list):
        yield from _of_records(value)
    elif "nodes" in value:
        yield from _of_graph(value)
    elif "layer" in value and any(key in value for key in _FEATURES):
        yield from _of_records([value])
    elif "features" in value and "layer" in value:
        yield from _of_dashboards([value])
    elif value and all(isinstance(each, dict) and "feature_index" in each for each in value.values()):
        yield from _of_rows(value.values())
    else:
        for key, name in value.items():
            place = feature_place(key)
            if place:
                yield place, name
            else:
                layer = _number(key, "a layer")
                yield from (((layer, _number(feature, "a feature")), each) for feature, each in name.items())


def _of_dashboards(documents: Iterable[Any]) -> Iterator[tuple[Place, Any]]:
    """Of Neuronpedia's dashboards, which have no explanations."""
    sets = set[str]()
    for document in documents:
        _add_set(sets, document.get("model_id"), document.get("sae_set"))
        layer = _number(document["layer"], "a layer")
        for one in document["features"]:
            yield (layer, _number(one["feature_index"], "a feature")), promoted(one.get("pos_str"))


def _add_set(sets: set[str], model: Any, source_set: Any) -> None:
    """Raise ValueError if records that are put together are of several sets."""
    sets.add("/".join(str(name) for name in (model, source_set) if name))
    if len(sets) > 1:
        raise ValueError(f"names of several sets ({', '.join(sorted(sets))}); give those of one")


def _of_graph(document: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Of a saved graph's features: the labels of their groups, their own, and those that somebody gave last."""
    schema, params = (document.get("metadata") or {}).get("schema_version"), document.get("qParams") or {}
    places, own = dict[str, Place](), list[tuple[Place, str]]()
    for node in document["nodes"]:
        if node.get("feature_type", FEATURE_TYPES["feature"]) != FEATURE_TYPES["feature"]:
            continue
        stated, by_id = integer(node.get("layer")), feature_place(str(node["node_id"]))
        if stated is not None:
            place = stated, feature_index(node, stated, schema)
        elif by_id:
            place = by_id
        else:
            continue
        places |= {str(node.get(name)): place for name in ("feature", "jsNodeId", "node_id")[schema != 1 :]}
        if isinstance(label := node.get("clerp"), str) and not _MADE_UP.match(label):
            own.append((place, label))
    for label, *members in supernodes(params.get("supernodes")):
        yield from ((places[member], label) for member in members if member in places)
    yield from own
    yield from ((places[name], label) for name, label in own_labels(params.get("clerps")) or [] if name in places)


def _of_records(records: Iterable[Any]) -> Iterator[tuple[Place, Any]]:
    """Features of Neuronpedia's, lines of explanations or answers of its API; or rows with a layer."""
    sets = set[str]()
    for record in records:
        layer, _, source_set = str(record.get("layer", "")).partition("-")
        said = (record["explanations"] or []) if "explanations" in record else [record]
        named = [one for one in said if any(one.get(key) for key in _NAMES)]
        if "explanations" in record and not (layer.isdigit() and named):
            continue
        _add_set(sets, record.get("modelId"), source_set)
        yield from _of_rows([{**record, **(named or said)[0], "layer": layer}])


def _lines(path: Path) -> Iterator[Any]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        n_bytes = 0
        for line in lines:
            n_bytes += len(line)
            if n_bytes > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
            if line.strip():
                yield json.loads(line)


def _of_lines(path: Path) -> Iterator[tuple[Place, Any]]:
    yield from _of_records(_lines(path))


def _of_csv(path: Path) -> Iterator[tuple[Place, Any]]:
    text = read_text(path)
    heading = text.partition("\n")[0]
    delimiter = next((mark for mark in "\t;" if mark in heading and "," not in heading), ",")  # as spreadsheets write
    rows = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if not {*rows.fieldnames} & {*_FEATURES} or not {*rows.fieldnames} & {*_NAMES}:
        raise ValueError(f"its columns are {', '.join(rows.fieldnames) or 'none'}; expected layer, feature and label")
    yield from _of_rows(rows)


def _of_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Place, Any]]:
    for row in rows:
        feature: Any = row[next((key for key in _FEATURES if key in row), _FEATURES[0])]
        names = [row[key] or "" for key in _NAMES if key in row]
        place = feature_place(str(feature))
        name = next((name for name in names if not _MADE_UP.match(name)), "") if names else row[_NAMES[0]]
        yield place or (_number(row["layer"], "a layer"), _number(feature, "a feature")), name


def _of_sqlite(path: Path) -> Iterator[tuple[Place, Any]]:
    """Rows of every table with a layer, a feature and a name."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        database.row_factory = sqlite3.Row
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            (quoted := table.replace('"', '""')): _columns(
                row["name"] for row in database.execute(f'PRAGMA table_info("{quoted}")')
            )
            for table in tables
        }
        if not any(columns.values()):
            raise ValueError(f"no table has columns layer, {_FEATURES[0]} and {_NAMES[0]}")
        for table in filter(columns.get, columns):
            rows = database.execute(f'SELECT {", ".join(columns[table])} FROM "{table}"')
            yield from _of_rows(dict(row) for row in rows)
    finally:
        database.close()


def _of_parquet(path: Path) -> Iterator[tuple[Place, Any]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as e:
        raise ValueError("Parquet needs pyarrow; install it with: pip install pyarrow") from e
    table = parquet.ParquetFile(path)
    columns = _columns(table.schema_arrow.names)
    if not columns:
        raise ValueError(f"no columns layer, {_FEATURES[0]} and {_NAMES[0]}; it has {table.schema_arrow.names}")
    for batch in table.iter_batches(columns=columns):
        yield from _of_rows(batch.to_pylist())


def _columns(names: Iterable[str]) -> list[str]:
    """Those of a table that say which features have which names; none if one of the three is lacking."""
    held = set(names)
    found = [[name for name in some if name in held] for some in (("layer",), _FEATURES, _NAMES)]
    return [name for some in found for name in some] if all(found) else []
