"""Names under which other tools find features, and the list of graphs that circuit-tracer's page reads."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import GraphFileError
from attrgraph.io.exports import check_output
from attrgraph.transcoders.known_sets import neuronpedia_names


def metadata_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["metadata"]
    return found


def of_set(name: str) -> ag.Graph:
    graph = six_nodes()
    transcoders = {"id": name, "scan": name, "neuronpedia": neuronpedia_names(name)}
    return graph.replace(metadata={**graph.metadata, "model": {"id": "google/gemma-2-2b"}, "transcoders": transcoders})


def test_known_sets_have_neuronpedias_names(tmp_path: Path) -> None:
    of_set("mntss/clt-gemma-2-2b-2.5M").to_json(tmp_path / "g.json")
    found = metadata_of(tmp_path / "g.json")
    assert found["scan"] == "gemma-2-2b"
    assert found["info"]["neuronpedia_source_set"] == found["feature_details"]["neuronpedia_source_set"] == "clt-hp"
    told = "no model of Neuronpedia's is known for these transcoders, scan is 'owner-clt'"
    for how, is_told in (({}, True), ({"scan": "gpt2-small"}, False), ({"profile": "anthropic"}, False)):
        repairs = of_set("owner/clt").to_json(tmp_path / "i.json", **how)
        assert any(line.startswith(told) for line in repairs) == is_told
    of_set("owner/clt").to_json(tmp_path / "h.json")


@pytest.mark.parametrize(
    ("transcoders", "model", "names"),
    [
        ("mwhanna/qwen3-4b-transcoders", "Qwen/Qwen3-4B", ["qwen3-4b", "transcoder-hp"]),
        ("mwhanna/qwen3-4b-transcoders-lowl0", "Qwen/Qwen3-4B", ["qwen3-4b"]),
        ("mwhanna/gemma-scope-2-4b-it/transcoder_all/width_16k_l0_big", "google/gemma-3-4b-it", ["gemma-3-4b-it"]),
        ("mntss/clt-gemma-2-2b-426k", "google/gemma-2-2b", ["gemma-2-2b"]),
        ("owner/clt", "owner/model", []),
    ],
)
def test_only_the_very_set_has_pages_and_its_model_has_a_name(transcoders: str, model: str, names: list[str]) -> None:
    assert list(neuronpedia_names(transcoders, model).values()) == names


def test_names_that_are_given_go_before_all_others_also_in_files_of_other_tools(tmp_path: Path) -> None:
    graph = of_set("mntss/clt-gemma-2-2b-2.5M")
    graph.to_json(tmp_path / "g.json", scan="qwen3-4b", source_set="mine")
    theirs = json.loads((tmp_path / "g.json").read_text())
    del theirs["metadata"]["attrgraph"]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    assert main(["convert", str(tmp_path / "theirs.json"), "-o", str(tmp_path / "h.json"), "--scan", "gpt2-small"]) == 0
    for name, scan in (("g", "qwen3-4b"), ("h", "gpt2-small")):
        found = metadata_of(tmp_path / f"{name}.json")
        assert (found["scan"], found["info"]["neuronpedia_source_set"]) == (scan, "mine")
    ag.load_graph(tmp_path / "h.json").to_json(tmp_path / "i.json", source_set="other")
    assert metadata_of(tmp_path / "i.json")["feature_details"]["neuronpedia_source_set"] == "other"


def test_circuit_tracers_page_finds_features_by_slash_and_graphs_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "graph-metadata.json").write_text('{"graphs": [], "more": 5}')
    of_set("owner/clt").to_json(tmp_path / "first.json", "circuit-tracer")
    of_set("owner/other").to_json(tmp_path / "second.json", "circuit-tracer", scan="owner/sets//clt")
    of_set("owner/new").to_json(tmp_path / "first.json", "circuit-tracer")
    found = json.loads((tmp_path / "graph-metadata.json").read_text())
    listed = found["graphs"]
    assert found["more"] == 5
    assert [(one["slug"], one["scan"]) for one in listed] == [("second", "owner/sets//clt"), ("first", "owner/new")]
    assert listed[1] == metadata_of(tmp_path / "first.json")


def test_the_page_finds_files_of_other_tools_and_is_told_of_names_that_it_cannot_open(tmp_path: Path) -> None:
    of_set("owner/clt").to_json(tmp_path / "g.json")
    theirs = json.loads((tmp_path / "g.json").read_text())
    del theirs["metadata"]["attrgraph"]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    (tmp_path / "page").mkdir()
    for name in ("one", "two", "a b"):
        repairs = ag.load_graph(tmp_path / "theirs.json").to_json(tmp_path / f"page/{name}.json", "circuit-tracer")
        assert [line for line in repairs if "may not find a file named 'a b.json'" in line] == repairs[: name == "a b"]
    listed = json.loads((tmp_path / "page/graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in listed] == ["one", "two", "a b"]
    with pytest.raises(GraphFileError, match="is where circuit-tracer's page has its list of graphs"):
        of_set("owner/clt").to_json(tmp_path / "page/graph-metadata.json", "circuit-tracer")


@pytest.mark.parametrize(
    ("transcoders", "profile", "scan", "by_layer"),
    [
        ({"id": "owner/sets/clt/a", "revision": "0" * 40, "scan": None}, "circuit-tracer", "owner/sets//clt/a", []),
        ({"id": "owner/clt", "revision": "0" * 40, "scan": "other"}, "circuit-tracer", "owner/clt", []),
        ({"id": "x", "scan": ["a/0", "a/1"]}, "circuit-tracer", "custom-a-0-a-1", ["a/0", "a/1"]),
        ({"id": "x", "scan": ["a/0", "a/1"]}, "neuronpedia", "a-0-a-1", ["a/0", "a/1"]),
        ({"id": "x", "scan": "./data/features"}, "circuit-tracer", "./data/features", []),
    ],
)
def test_the_page_is_told_where_features_are_on_the_hub(
    transcoders: dict[str, Any], profile: str, scan: str, by_layer: list[str], tmp_path: Path
) -> None:
    graph = six_nodes()
    graph = graph.replace(metadata={**graph.metadata, "transcoders": transcoders})
    graph.to_json(tmp_path / "g.json", profile)
    found = metadata_of(tmp_path / "g.json")
    assert (found["scan"], found["transcoder_list"]) == (scan, by_layer)
    assert found["feature_details"] == {}  # no source set is made up


def test_a_scan_that_neuronpedia_could_not_have_is_told_to_be_another(tmp_path: Path) -> None:
    graph = of_set("owner/clt")
    assert "scan 'a/b' became 'a-b'" in graph.to_json(tmp_path / "g.json", scan="a/b")
    assert not any("became" in line for line in graph.to_json(tmp_path / "g.json", scan="gpt2-small", overwrite=True))


def test_graphs_that_are_written_at_one_time_are_all_in_the_list(tmp_path: Path) -> None:
    graph = of_set("owner/clt")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: graph.to_json(tmp_path / f"{i}.json", "circuit-tracer"), range(24)))
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert sorted(int(one["slug"]) for one in listed) == list(range(24))


@pytest.mark.refusal
@pytest.mark.parametrize("content", ["[]", '{"graphs": 3}', '{"graphs": [3]}', "{", '{"a": 1}'])
def test_another_list_is_told_before_a_graph_is_traced_or_written(content: str, tmp_path: Path) -> None:
    (tmp_path / "graph-metadata.json").write_text(content)
    said = r"graph-metadata\.json: is no list of graphs; move it away\."
    with pytest.raises(GraphFileError, match=said):
        check_output(tmp_path / "first.json", profile="circuit-tracer", overwrite=True)
    with pytest.raises(GraphFileError, match=said):
        of_set("owner/clt").to_json(tmp_path / "first.json", "circuit-tracer")
    assert [path.name for path in tmp_path.iterdir()] == ["graph-metadata.json"]
    of_set("owner/clt").to_json(tmp_path / "first.json")


@pytest.mark.refusal
def test_save_does_not_write_under_another_formats_name(tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match=r"save writes \.safetensors; for \.json use attrgraph\.export_graph"):
        six_nodes().save(tmp_path / "g.json")


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["b/c", "../x", "a b", "é"])
def test_a_source_set_that_can_be_no_part_of_an_address_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = r"source_set is .*; expected letters, digits, dot, dash, underscore"
    for profile in ("neuronpedia", "circuit-tracer", "anthropic"):
        with pytest.raises(GraphFileError, match=said):
            of_set("owner/clt").to_json(tmp_path / "g.json", profile=profile, source_set=name)
    assert not list(tmp_path.iterdir())
    assert main(["trace", "in texas", "-o", str(tmp_path / "g.json"), "--source-set", name]) == 1
    assert capsys.readouterr().err.count("\n") == 1  # before the model is loaded
    with pytest.raises(GraphFileError, match=said):
        ag.describe_features(ag.load_model("demo"), ["in texas"], ["3/458"], source_set=name)
