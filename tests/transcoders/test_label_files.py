"""Files with names of features as their tools write them, through Python and through the verbs."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import TranscoderError

DALLAS = "in the state containing dallas the capital is"
EXPECTED = {(3, 458): "say austin", (1, 1023): "texas"}


def neuronpedia_answers(path: Path) -> Path:
    """Of POST /api/features: numbers as text, features that nobody explained."""
    records: list[dict[str, Any]] = [
        {"modelId": "m", "layer": "3-set", "index": "458", "explanations": [{"description": "say austin"}]},
        {
            "modelId": "m",
            "layer": "1-set",
            "index": "1023",
            "explanations": [{"typeName": "x"}, {"description": "texas"}],
        },
        {"modelId": "m", "layer": "1-set", "index": "7", "explanations": []},
    ]
    (path / "answers.json").write_text(json.dumps(records))
    return path / "answers.json"


def rows(path: Path) -> Path:
    records = [{"layer": 3, "feature": 458, "label": "say austin"}, {"layer": 1, "feature": 1023, "label": "texas"}]
    (path / "rows.json").write_text(json.dumps(records))
    return path / "rows.json"


def lines(path: Path) -> Path:
    (path / "rows.jsonl").write_text(
        '{"layer": 3, "feature": 458, "label": "say austin"}\n{"feature": "1/1023", "label": "texas"}\n'
    )
    return path / "rows.jsonl"


def spreadsheet(path: Path) -> Path:
    (path / "names.csv").write_bytes('\ufeffLayer;Feature;Label\r\n3;458;"say\r\naustin"\r\n1;1023;texas\r\n'.encode())
    return path / "names.csv"


def tabs(path: Path) -> Path:
    (path / "names.tsv").write_text("feature\tlabel\n3/458\tsay austin\n1/1023\ttexas\n")
    return path / "names.tsv"


def with_nulls(path: Path) -> Path:
    (path / "names.json").write_text('{"3/458": {"label": "say austin"}, "1/1023": "texas", "0/0": null}')
    return path / "names.json"


def delphi(path: Path) -> Path:
    for folder, texts in (("explanations", ('"say austin"', "texas\n")), ("scores/detection", ("[]", "[]"))):
        (path / folder).mkdir(parents=True)
        for name, text in zip(("model.layers.3.mlp_latent458", "model.layers.1.mlp_latent1023"), texts, strict=True):
            (path / folder / f"{name}.txt").write_text(text)
    return path


def saved_graph(path: Path) -> Path:
    """As a page saves it: a group, and a label that somebody typed; errors and logits are no features."""
    kinds = {
        "3_458_8": "cross layer transcoder",
        "1_1023_5": "cross layer transcoder",
        "0_2_1": "mlp reconstruction error",
    }
    nodes = [
        {"node_id": name, "jsNodeId": name, "layer": name[0], "ctx_idx": 1, "feature_type": kind, "clerp": "old"}
        for name, kind in {**kinds, "5_45_8": "logit"}.items()
    ]
    nodes[0]["feature"], nodes[1]["clerp"] = (3 + 458) * (3 + 458 + 1) // 2 + 458, ""
    params = {
        "supernodes": '[["texas", "1_1023_5", "3_458_8", "5_45_8"]]',
        "clerps": f'[["{nodes[0]["feature"]}", "say austin"]]',
    }
    content = {"metadata": {"schema_version": 1}, "qParams": params, "nodes": nodes, "links": []}
    (path / "saved.json").write_text(json.dumps(content))
    return path / "saved.json"


def our_graph(path: Path) -> Path:
    (path / "names.json").write_text('{"3/458": "say austin", "1/1023": "texas"}')
    graph = ag.trace(ag.load_model("demo"), DALLAS).prune()
    ag.name_features(graph, path / "names.json").save(path / "named.safetensors")
    return path / "named.safetensors"


FORMS = [neuronpedia_answers, rows, lines, spreadsheet, tabs, with_nulls, delphi, saved_graph, our_graph]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_names(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = ag.load_labels(write(tmp_path))
    assert {place: found[place] for place in EXPECTED} == EXPECTED
    assert len(found) == len(EXPECTED) or write is our_graph


def one_feature(path: Path, *, is_damaged: bool = False) -> Path:
    packed = gzip.compress(json.dumps({"index": 105_491, "top_logits": [", ", "b", "c", "d"]}).encode())
    held = packed[:10] + b"x" * (len(packed) - 10) if is_damaged else packed
    (path / "layer_3.bin").write_bytes(struct.pack("<I", len(packed)) + held)
    index = {"3": {"filename": "layer_3.bin", "offsets": [0, 0, 4 + len(packed)]}}
    (path / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    return path


def test_a_token_with_a_comma_is_one_token_and_the_place_in_the_file_is_the_feature(tmp_path: Path) -> None:
    assert ag.load_labels(one_feature(tmp_path)) == {(3, 1): 'promotes ", ", "b", "c"'}


@pytest.mark.refusal
def test_a_damaged_record_is_told_when_it_is_read(tmp_path: Path) -> None:
    one_feature(tmp_path, is_damaged=True)
    with pytest.raises(
        TranscoderError, match=r"layer_3\.bin: its record of feature 1 cannot be read; copy or download"
    ):
        ag.load_labels(tmp_path)[3, 1]


def feature_files(path: Path, names: dict[tuple[int, int], str]) -> Path:
    """Of the demo's features, those without a name in records that are damaged: who checks types reads the first."""
    index = {}
    for layer in range(4):
        records = b""
        offsets = [0]
        for feature in range(2048):
            name = names.get((layer, feature))
            packed = b"no record" if name is None else gzip.compress(json.dumps({"label": name}).encode())
            records += struct.pack("<I", len(packed)) + packed
            offsets.append(len(records))
        (path / f"{layer}.bin").write_bytes(records)
        index[layer] = {"filename": f"{layer}.bin", "offsets": offsets}
    (path / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    return path


def test_of_feature_files_only_what_a_graph_has_is_read_and_later_files_win(tmp_path: Path) -> None:
    plain = ag.trace(ag.load_model("demo"), DALLAS)
    features = plain.nodes[plain.nodes["kind"] == "feature"]
    places = set(zip(features["layer"].tolist(), features["feature"].tolist(), strict=True))
    (tmp_path / "a.json").write_text('{"3/458": "first", "1/1023": "second"}')
    folder = feature_files(tmp_path, dict.fromkeys(places, "from the file") | {(3, 458): "", (0, 0): "x"})
    for files in ([tmp_path / "a.json", folder], [tmp_path / "a.json", folder / "index.json.gz"]):
        graphs = [ag.trace(ag.load_model("demo", labels=files), DALLAS), ag.name_features(plain, *files)]
        for graph in graphs:
            labels = graph.nodes["label"]
            assert labels["3_458_8"] == "first" and labels["1_1023_5"] == "from the file"
            assert set(labels[features.index]) == {"first", "from the file"} and "notes" not in graph.metadata
    found = ag.load_labels(folder, tmp_path / "a.json")
    assert found[1, 1023] == "second" and found[next(iter(places - {(1, 1023)}))] == "from the file"
    assert len(found) == 4 * 2048 and (9, 0) not in found and found.get((0, 2048)) is None


def test_dashboards_name_features_by_what_they_promote(tmp_path: Path) -> None:
    features = [{"feature_index": 458, "pos_str": [" a", "b", "c", "d"]}, {"feature_index": 7, "pos_str": []}]
    (tmp_path / "batch-0.json").write_text(json.dumps({"model_id": "m", "layer": 3, "features": features}))
    assert ag.load_labels(tmp_path / "batch-0.json") == {(3, 458): 'promotes " a", "b", "c"'}


def test_a_folder_of_dashboards_is_of_one_set_and_explanations_go_before_them(tmp_path: Path) -> None:
    def write(file: str, layer: int, feature: int, token: str, model: str = "m") -> None:
        about = {"model_id": model, "layer": layer, "sae_set": "s"}
        features = [{"feature_index": feature, "pos_str": [token]}]
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps({**about, "features": features}))

    write("neuronpedia/batch-0.json", 0, 7, " cat")
    write("neuronpedia/batch-10.json", 3, 1, " dog")
    assert ag.load_labels(tmp_path) == {(0, 7): 'promotes " cat"', (3, 1): 'promotes " dog"'}
    record = {"modelId": "m", "layer": "3-s", "index": "1", "description": "dogs"}
    (tmp_path / "batch-0.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    assert ag.load_labels(tmp_path) == {(0, 7): 'promotes " cat"', (3, 1): "dogs"}
    write("neuronpedia/batch-2.json", 0, 8, " bat", model="other")
    with pytest.raises(TranscoderError, match=r"names of several sets \(m/s, other/s\)"):
        ag.load_labels(tmp_path)


def test_numbers_may_be_as_tables_write_them_where_others_are_missing(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("layer,feature,label\n3.0,458.0,x\n1, 7 ,y\n")
    assert ag.load_labels(tmp_path / "names.csv") == {(3, 458): "x", (1, 7): "y"}


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "x.jsonl",
            '{"layer": "3-a", "index": 1, "description": "x"}\n{"layer": "3-b", "index": 1, "description": "y"}',
            "several sets",
        ),
        (
            "x.jsonl",
            '{"modelId": "a", "layer": "3-s", "index": 1, "description": "x"}\n'
            '{"modelId": "b", "layer": "3-s", "index": 1, "description": "y"}',
            "several sets .a/s, b/s",
        ),
        ("x.json", '{"3/458": ["a", "b"]}', "a name is a list"),
        ("x.jsonl", "[" * 100_000, "nested too deep"),
        (
            "x.json",
            '{"nodes": [{"node_id": "1_2_3", "layer": "1", "clerp": "x", "feature": 1}], "qParams": 3}',
            "none of the forms that are known",
        ),
        ("x.csv", "layer,feature,label\nnan,458,x", "a layer is 'nan'; expected a whole number from 0"),
        ("x.csv", "feature,label\n458,x", "it lacks 'layer'"),
        ("x.json", '{"a": {"1": "x"}}', "a layer is 'a'; expected a whole number"),
        ("x.json", '{"1": {"b": "x"}}', "a feature is 'b'; expected a whole number"),
        ("x.json", '{"1/2": "\\ud800"}', "no text in UTF-8"),
        ("x.json", '{"1/2": ', "no JSON: Expecting value, line 1, column 9"),
        ("x.json", "5", "none of the forms"),
        ("x.json", "[1, 2]", "none of the forms"),
        ("x.db", "x" * 1000, "file is not a database"),
        ("x.db", "", "no table has columns layer, feature and label"),
        ("x.gz", "x", "it is damaged, or not what its ending says"),
        ("index.json.gz", "x", "it is damaged, or not what its ending says"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TranscoderError, match=f"holds no labels of features that can be read.*{said}") as found:
        ag.load_labels(tmp_path / name)
    assert "\n" not in str(found.value) and "Error" not in str(found.value)


def test_names_of_features_that_the_set_lacks_are_told(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"3/458": "say austin", "9/1": "x", "0/2048": "y"}')
    note = "2 names are of features that the transcoders do not have, such as 9/1: is their file for another set?"
    graph = ag.trace(ag.load_model("demo", labels=[tmp_path / "other.json"]), DALLAS)
    assert graph.metadata["notes"] == [note]
    assert graph.nodes.loc["3_458_8", "label"] == "say austin"
    plain = ag.trace(ag.load_model("demo"), DALLAS)
    assert ag.name_features(plain, tmp_path / "other.json").metadata["notes"] == [note]
    (tmp_path / "other.json").write_text('{"3/0": "x"}')
    none = ag.name_features(plain, tmp_path / "other.json")
    assert none.metadata["notes"] == ["none of 1 names is of a feature in this graph"]
    assert "notes" not in plain.metadata and none.nodes.equals(plain.nodes)


@pytest.mark.doors
def test_the_verbs_take_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text('{"3/458": "first", "1/1023": "texas"}')
    Path("b.csv").write_text("feature,label\n3/458,say austin\n")
    names = ["--labels", "a.json", "--labels", "b.csv"]
    assert main(["trace", DALLAS, "-o", "plain.safetensors"]) == 0
    assert main(["prune", "plain.safetensors", "-o", "small.json", *names]) == 0
    assert main(["convert", "plain.safetensors", "-o", "all.json", *names]) == 0
    assert main(["render", "plain.safetensors", "-o", "plain.dot", "--node-threshold", "0.3", *names]) == 0
    for file in ("small.json", "all.json"):
        assert ag.load_graph(file).nodes.loc[["3_458_8", "1_1023_5"], "label"].tolist() == ["say austin", "texas"]
    assert "say austin" in Path("plain.dot").read_text()
    capsys.readouterr()
    assert main(["query", "plain.safetensors", "label == 'say austin'", *names]) == 0
    shown = capsys.readouterr()
    assert "3_458_8" in shown.out and shown.err == ""
    assert main(["query", "plain.safetensors", "layer == 9", "--labels", "nowhere.csv"]) == 1
    assert capsys.readouterr().err == "attrgraph: nowhere.csv: no such file of labels.\n"


@pytest.mark.refusal
def test_a_file_of_records_that_is_cut_short_is_told_on_opening(tmp_path: Path) -> None:
    records = one_feature(tmp_path) / "layer_3.bin"
    records.write_bytes(records.read_bytes()[:-1])
    with pytest.raises(TranscoderError, match=r"layer_3\.bin is shorter than index"):
        ag.load_labels(tmp_path)


def test_a_first_explanation_without_words_hides_no_other(tmp_path: Path) -> None:
    said = [{"description": None}, {"description": "says the capital"}]
    record = {"layer": "3-set", "index": "458", "explanations": said}
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert ag.load_labels(tmp_path / "x.json") == {(3, 458): "says the capital"}
