"""Names of features are read from the files that people have, and end up in graphs."""

import gzip
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attrgraph as ag
from attrgraph.demo.shipped import shipped_folder
from attrgraph.errors import TranscoderError

EXPECTED = {(3, 458): "Say Austin", (0, 7): "texas"}


def nested(path: Path) -> Path:
    (path / "labels.json").write_text(json.dumps({"3": {"458": "Say Austin"}, "0": {"7": "texas"}}))
    return path / "labels.json"


def flat(path: Path) -> Path:
    (path / "names.json").write_text(json.dumps({"3/458": "Say Austin", "0_7": "texas"}))
    return path / "names.json"


def table(path: Path) -> Path:
    (path / "names.csv").write_text('layer,feature,label\n3,458,"Say Austin"\n0,7,texas\n')
    return path / "names.csv"


def short_table(path: Path) -> Path:
    (path / "names.csv").write_text("feature,description\n3/458,Say  Austin\n0/7,texas\n0/9,\n")
    return path / "names.csv"


def _records(*, explanations: bool) -> list[dict[str, Any]]:
    records = []
    for (layer, index), name in EXPECTED.items():
        said: dict[str, Any] = {"explanations": [{"description": name}]} if explanations else {"description": name}
        records.append({"modelId": "m", "layer": f"{layer}-transcoder-hp", "index": str(index), **said})
    return records


def neuronpedia_batches(path: Path) -> Path:
    for i, record in enumerate(_records(explanations=False)):
        folder = path / f"{i}-transcoder-hp" / "explanations"
        folder.mkdir(parents=True)
        (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    return path


def neuronpedia_answers(path: Path) -> Path:
    (path / "answers.json").write_text(json.dumps(_records(explanations=True)))
    return path / "answers.json"


def delphi(path: Path) -> Path:
    (path / "layers.3.mlp_latent458.txt").write_text('"Say Austin"')
    (path / "h.0.mlp_feature7.txt").write_text("texas\n")
    return path


def sqlite(path: Path) -> Path:
    database = sqlite3.connect(path / "names.sqlite")
    database.execute("CREATE TABLE features (layer INTEGER, feature_idx INTEGER, explanation TEXT)")
    database.executemany("INSERT INTO features VALUES (?, ?, ?)", [(3, 458, "Say Austin"), (0, 7, "texas")])
    database.execute("CREATE TABLE runs (id INTEGER)")
    database.commit()
    database.close()
    return path / "names.sqlite"


# CLT-Forge: (layer, feature, description, explanation); what nothing explained keeps these words
_FORGED = [
    (3, 458, "Say Austin", "It is active before Austin."),
    (0, 7, "Unknown", "texas"),
    (0, 8, "Unknown", "No explanation generated"),
]
_EXAMPLES = ("top_examples", "top_examples_tks", "top_activating_tokens")


def clt_forge(path: Path) -> Path:
    texts = (*_EXAMPLES, "description", "explanation", "raw_explanation")
    columns = ["layer INTEGER", "feature_id INTEGER", "average_activation REAL", *(f"{name} TEXT" for name in texts)]
    for job, rows in enumerate((_FORGED[:1], _FORGED[1:])):
        database = sqlite3.connect(path / f"job_{job}.db")
        database.execute(f"CREATE TABLE features ({', '.join(columns)}, PRIMARY KEY (layer, feature_id))")
        for layer, feature, description, explanation in rows:
            values = (layer, feature, 0.5, "[]", "[]", "[]", description, explanation, "")
            database.execute("INSERT INTO features VALUES (?,?,?,?,?,?,?,?,?)", values)
        database.commit()
        database.close()
    return path


def clt_forge_parquet(path: Path) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    (path / "parquet").mkdir()
    names = ("layer", "feature_id", "description", "explanation")
    rows = [dict(zip(names, row, strict=True)) | dict.fromkeys(_EXAMPLES, "[]") for row in _FORGED]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path / "parquet" / "job_0.parquet", compression="zstd")
    return path


def clt_forge_json(path: Path) -> Path:
    for layer in (0, 3):
        of = {
            str(feature): {"layer": layer, "feature_index": feature, "description": said, "explanation": more}
            for at, feature, said, more in _FORGED
            if at == layer
        }
        (path / f"features/layer_{layer}").mkdir(parents=True)
        (path / f"features/layer_{layer}/job_0.json").write_text(json.dumps(of))
    return path


def graph_file(path: Path) -> Path:
    nodes = [{"node_id": "3_458_8", "clerp": "Say Austin"}, {"node_id": "0_7_1", "clerp": "texas"}]
    nodes += [{"node_id": "1_2_3", "clerp": "L1 feature 2"}, {"node_id": "E_5_3", "clerp": "Emb: x"}]
    (path / "graph.json").write_text(json.dumps({"nodes": nodes, "links": []}))
    return path / "graph.json"


FORMS = [
    nested,
    flat,
    table,
    short_table,
    neuronpedia_batches,
    neuronpedia_answers,
    delphi,
    sqlite,
    clt_forge,
    clt_forge_parquet,
    clt_forge_json,
    graph_file,
]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_names(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert ag.load_labels(write(tmp_path)) == EXPECTED


def test_feature_files_name_features_by_what_they_promote(tmp_path: Path) -> None:
    parts, offsets = b"", [0, 0]
    for record in ({"index": 1, "top_logits": [" a", "b", "c", "d"]}, {"index": 2, "label": "cities"}):
        packed = gzip.compress(json.dumps(record).encode())
        parts += struct.pack("<I", len(packed)) + packed
        offsets.append(len(parts))
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "layer_3.bin").write_bytes(parts)
    index = {"3": {"filename": "layer_3.bin", "offsets": offsets}}
    (tmp_path / "features" / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    assert ag.load_labels(tmp_path) == {(3, 1): 'promotes " a", "b", "c"', (3, 2): "cities"}


def test_later_files_win_and_names_are_in_graphs(tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text('{"3/458": "Say\\n a capital", "1/1": "x"}')
    both = ag.load_labels(flat(tmp_path), tmp_path / "more.json")
    assert both == {(3, 458): "Say a capital", (0, 7): "texas", (1, 1): "x"}
    model = ag.load_model("demo", labels=[tmp_path / "more.json"])
    mine = ag.load_transcoders(shipped_folder("cross_layer"))
    before = dict(mine.labels)
    ag.load_model("demo", mine, labels=[tmp_path / "more.json"])
    assert mine.labels == before
    graph = ag.trace(model, "in the state containing dallas the capital is")
    assert graph.nodes.loc["3_458_8", "label"] == "Say a capital"
    assert graph.nodes.loc["1_1023_5", "label"] == "city in texas"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", b"[1]"),
        ("x.json", b'{"a/b": "c"}'),
        ("x.json", b'{"nodes": 3}'),
        ("x.json", b'{"1/2": "\\ud83d"}'),
        ("x.json", b"[" * 100_000),
        ("x.jsonl", b"{}\n"),
        ("x.gz", b"no gzip"),
        ("x.csv", b"a,b\n1,2\n"),
        ("x.db", b"no database" * 100),
        ("x.txt", b"names"),
    ],
)
def test_what_holds_no_labels_is_told_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TranscoderError, match=r"holds no labels of features that can be read.*3/458") as found:
        ag.load_labels(tmp_path / name)
    assert "\n" not in str(found.value)
    with pytest.raises(TranscoderError, match="no such file"):
        ag.load_labels(tmp_path / "nowhere.json")
