"""`attrgraph render`, and the other verbs that write pictures and exports."""

import shutil
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest

import attrgraph as ag
from attrgraph.cli.main import main

DALLAS = "in the state containing dallas the capital is"
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traced") / "dallas.safetensors"
    ag.trace(ag.load_model("demo"), DALLAS).save(path)
    return path


def test_render_prunes_groups_hides_and_says_so(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.dot"
    group = "cities in texas=1_815_5, 1_1023_5"
    arguments = ["render", str(traced), "-o", str(path), "--node-threshold", "0.6", "--min-share", "0.03"]
    assert main([*arguments, "--group", group]) == 0
    assert capsys.readouterr() == (f"{path}\n", "")
    pruned = ag.load_graph(traced).prune(0.6)
    expected = pruned.to_dot(groups={"cities in texas": ["1_815_5", "1_1023_5"]}, min_share=0.03)
    text = path.read_text(encoding="utf-8")
    assert text == expected
    assert "cities in texas\\n2 nodes" in text and "not drawn, each with less than 3% of it" in text
    assert main([*arguments, "--no-caption", "--force"]) == 0
    assert path.read_text(encoding="utf-8") == pruned.to_dot(min_share=0.03, caption=False)


def test_without_thresholds_the_graph_is_drawn_as_it_is(traced: Path, tmp_path: Path) -> None:
    assert main(["render", str(traced), "-o", str(tmp_path / "whole.dot"), "--min-share", "0.3"]) == 0
    assert "unpruned" in (tmp_path / "whole.dot").read_text(encoding="utf-8")
    assert main(["render", str(traced), "-o", str(tmp_path / "edges.dot"), "--edge-threshold", "0.5"]) == 0
    whole = ag.load_graph(traced)
    assert (tmp_path / "edges.dot").read_text(encoding="utf-8") == whole.prune(edge_threshold=0.5).to_dot()


@needs_dot
def test_every_verb_draws_the_same_picture(traced: Path, tmp_path: Path) -> None:
    thresholds = ["--node-threshold", "0.6"]
    assert main(["trace", DALLAS, "-o", str(tmp_path / "trace.svg"), *thresholds]) == 0
    assert main(["prune", str(traced), "-o", str(tmp_path / "prune.svg"), *thresholds]) == 0
    assert main(["render", str(traced), "-o", str(tmp_path / "render.svg"), *thresholds]) == 0
    assert main(["prune", str(traced), "-o", str(tmp_path / "small.json"), *thresholds]) == 0
    assert main(["convert", str(tmp_path / "small.json"), "-o", str(tmp_path / "convert.svg")]) == 0
    assert len({(tmp_path / f"{verb}.svg").read_bytes() for verb in ("trace", "prune", "render", "convert")}) == 1


def test_the_picture_in_the_documentation_is_the_demos() -> None:
    # its text, since other versions of Graphviz write other bytes
    shown = (Path(__file__).parents[2] / "docs" / "dallas.svg").read_text(encoding="utf-8")
    for words in (
        "Pruned to 15 of 238 nodes and 33 of ",
        "austin (p = 0.991)",
        ">city in texas<",
        "node threshold 0.6",
    ):
        assert words in shown.replace("\xa0", " ").replace("&#160;", " ")


def test_exports_are_written_by_their_endings(traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ag.load_graph(traced).prune(0.6)
    graph.save(tmp_path / "small.safetensors")
    for ending in ("gexf", "graphml", "cyjs", "csv", "parquet"):
        assert main(["convert", str(tmp_path / "small.safetensors"), "-o", str(tmp_path / f"g.{ending}")]) == 0
    assert capsys.readouterr().err == ""
    assert set(nx.read_gexf(tmp_path / "g.gexf")) == set(graph.nodes.index)
    assert len(pd.read_csv(tmp_path / "g.csv")) == graph.adjacency.nnz
    assert list(pd.read_csv(tmp_path / "g.nodes.csv")["node_id"]) == list(graph.nodes.index)
    assert len(pd.read_parquet(tmp_path / "g.parquet")) == graph.adjacency.nnz


def test_replaced_characters_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ag.trace(ag.load_model("demo"), DALLAS).prune(0.5)
    odd = ag.Graph(graph.nodes.assign(label="a\x07b"), graph.adjacency, graph.prompt_tokens, graph.metadata)
    odd.save(tmp_path / "odd.safetensors")
    assert main(["convert", str(tmp_path / "odd.safetensors"), "-o", str(tmp_path / "odd.graphml")]) == 0
    assert f"{len(graph.nodes)} characters replaced that the format cannot hold" in capsys.readouterr().err


def test_prompts_traced_into_tables_can_be_forced_anew(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "the capital of texas is", "id": "one"}\n', encoding="utf-8")
    arguments = ["trace", "--prompts", str(tmp_path / "q.jsonl"), "-o", str(tmp_path / "out"), "--format", ".csv"]
    assert main(arguments) == 0
    assert main([*arguments, "--force"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("one*")} == {"one.csv", "one.nodes.csv"}


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "g.graphml"], 1, "unknown ending '.graphml'; expected one of .dot, .svg, .png, .pdf"),
        (["-o", "g.dot", "--group", "texas"], 2, "names no nodes; write it as"),
        (["-o", "g.dot", "--group", "a=1_815_5", "--group", "a=1_1023_5"], 2, "is given twice"),
        (["-o", "g.dot", "--group", "a=9_9_9"], 1, "group 'a': the graph has none of its nodes (9_9_9)"),
        (["-o", "g.dot", "--min-share", "2"], 2, "--min-share"),
        (["-o", "no/such/folder/g.dot"], 1, "does not exist"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    arguments: list[str],
    code: int,
    message: str,
    traced: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["render", str(traced), *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
def test_two_outputs_that_share_a_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", DALLAS, "-o", "g.csv", "-o", "g.nodes.csv"]) == 1
    assert "g.nodes.csv: is named twice" in capsys.readouterr().err
    (tmp_path / "h.nodes.csv").write_text("mine")
    assert main(["trace", DALLAS, "-o", "h.csv"]) == 1
    assert "h.nodes.csv: exists" in capsys.readouterr().err
