"""`attrgraph group`, `diff` and `union`: what they print and write, and what they refuse."""

import csv
import io
import json
from pathlib import Path
from shutil import which

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.graph.comparison import union_nodes
from attrgraph.graph.groups import grouping_score, groups_of

PROMPT = "in the state containing {} the capital is"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pruned graphs of two prompts, one of them in both formats."""
    folder = tmp_path_factory.mktemp("graphs")
    model = ag.load_model("demo")
    for city in ("dallas", "fort worth"):
        graph = ag.trace(model, PROMPT.format(city)).prune()
        graph.to_json(folder / f"{city.split()[0]}.json")
    graph.save(folder / "fort.safetensors")
    return {path.name: str(path) for path in sorted(folder.iterdir())}


def test_groups_are_found_printed_and_written(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ag.load_graph(files["dallas.json"])
    expected = graph.auto_groups("tokens")
    output = str(tmp_path / "grouped.json")
    assert main(["group", files["dallas.json"], "--by", "tokens", "-o", output, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == expected and found["score"] == pytest.approx(grouping_score(graph, expected))
    assert found["files"] == [output] and {node["name"] for node in found["nodes"]} > set(expected)
    assert sum(edge["flow"] for edge in found["edges"] if edge["target"] == "city in texas") > 0
    assert groups_of(ag.load_graph(output)) == expected
    # a file that has groups needs no more
    assert main(["group", output]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 groups, 14 single nodes, ") and "city in texas" in out and err == ""
    assert main(["group", files["dallas.json"], "--by", "vectors", "--n", "4"]) == 0
    assert "nodes  influence  layers" in capsys.readouterr().out
    assert main(["group", files["dallas.json"], "--by", "flow", "--min-score", "0.95", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] >= 0.95


def test_given_groups_are_taken(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"texas": ["1_738_5", "1_815_5"]}))
    picture = tmp_path / "g.dot"
    assert main(["group", files["dallas.json"], "--groups", str(mine), "-o", str(picture)]) == 0
    assert "texas" in picture.read_text() and f"wrote {picture}" in capsys.readouterr().out.replace("\n", "")
    # the first influences what the second is influenced by
    mine.write_text(json.dumps({"around": ["0_772_5", "3_458_8"], "texas": ["1_738_5", "1_815_5"]}))
    assert main(["group", files["dallas.json"], "--groups", str(mine)]) == 1
    assert "in a cycle through the groups: around -> texas -> around" in capsys.readouterr().err
    assert main(["group", files["dallas.json"], "--groups", str(mine), "--allow-cycles"]) == 0


def test_differences_are_printed_as_text_json_and_tables(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [files["dallas.json"], files["fort.safetensors"]]
    expected = ag.diff(*(ag.load_graph(path) for path in both), align="tokens")
    assert main(["diff", *both, "--align", "tokens"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("answers    austin, lincoln\nnodes      12 common, 14 left only, 13 right only") and err == ""
    assert main(["diff", *both, "--align", "tokens", "--json", "--top", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in expected.summary()} == expected.summary()
    assert len(found["changed"]) == 3
    largest = expected.nodes["influence_delta"].abs().idxmax()
    assert found["changed"][0]["node"] == largest
    for name, table in (("nodes", expected.nodes), ("edges", expected.edges)):
        assert main(["diff", *both, "--align", "tokens", "--csv", name]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["status"] for row in rows] == table["status"].tolist()
    picture = tmp_path / "d.dot"
    assert main(["diff", *both, "--align", "tokens", "-o", str(picture)]) == 0
    assert picture.read_text() == expected.to_dot()
    assert main(["diff", files["dallas.json"], files["dallas.json"]]) == 0
    assert "(none changed)" in capsys.readouterr().out


@pytest.mark.skipif(which("dot") is None, reason="needs Graphviz")
def test_differences_are_drawn(files: dict[str, str], tmp_path: Path) -> None:
    picture = tmp_path / "d.svg"
    assert main(["diff", files["dallas.json"], files["fort.json"], "-o", str(picture)]) == 0
    assert "city in nebraska" in picture.read_text()
    assert main(["group", files["dallas.json"], "--by", "tokens", "-o", str(tmp_path / "g.svg")]) == 0
    assert "city in texas" in (tmp_path / "g.svg").read_text()


def test_unions_are_written(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, output = [files["dallas.json"], files["fort.json"]], str(tmp_path / "u.json")
    assert main(["union", *both, "-o", output, "--min-count", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = ag.union([ag.load_graph(path) for path in both], min_count=2)
    again = ag.load_graph(output)
    assert set(again.nodes.index) == set(expected.nodes.index)
    assert union_nodes(again)["count"].sort_index().equals(union_nodes(expected)["count"].sort_index())
    assert {logit["token"] for logit in found["logits"]} == {"austin", "lincoln"}
    assert main(["union", *both, "-o", output]) == 1  # is not overwritten
    assert main(["union", *both, "-o", output, "--force", "--align", "start"]) == 0
    assert "wrote" in capsys.readouterr().out


def test_other_models_are_noted_in_every_form(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, other = ag.load_graph(files["dallas.json"]), str(tmp_path / "other.safetensors")
    graph.replace(metadata={**graph.metadata, "model": {"digest": "sha256:\x1b[31m"}}).save(other)
    both, said = [files["dallas.json"], other], "traced on different models, by digest: "
    output = ["-o", str(tmp_path / "u.json"), "--force"]
    for arguments in (["diff", *both], ["diff", *both, "--json"], ["union", *both, *output]):
        assert main(arguments) == 0
        out, _ = capsys.readouterr()
        assert said in out and "\x1b" not in out
    assert main(["diff", *both, "--csv", "nodes"]) == 0
    assert said in capsys.readouterr().err


@pytest.mark.refusal
def test_bad_input_gives_one_line(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, text = files["dallas.json"], tmp_path / "text.json"
    text.write_text('["a"]')
    for arguments, message in (
        (["group", graph], "has no groups of its own"),
        (["group", graph, "--by", "colour"], "by='colour'"),
        (["group", graph, "--groups", str(text)], 'of the form {"name"'),
        (["group", graph, "--groups", str(tmp_path / "none.json")], "cannot be read as JSON"),
        (["group", graph, "--by", "tokens", "-o", str(tmp_path / "g.graphml")], "groups are written with"),
        (["diff", graph, graph, "--align", "middle"], "align='middle'"),
        (["diff", graph, "nowhere.json"], "no such file"),
        (["diff", graph, graph, "-o", str(tmp_path / "d.json")], "unknown ending '.json'"),
        (["union", graph, "-o", str(tmp_path / "u.json"), "--min-count", "2"], "min_count is 2"),
        (["union", graph, "-o", str(tmp_path / "u.json"), "--align", "tokens"], "expected one of end, start"),
    ):
        assert main(arguments) == 1, arguments
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and message in err, arguments


@pytest.mark.refusal
@pytest.mark.parametrize(
    "arguments",
    [
        ["group", "g.json", "--by", "flow", "--groups", "x.json"],
        ["group", "g.json", "--n", "3"],
        ["diff", "a.json", "b.json", "--csv", "words"],
        ["diff", "a.json", "b.json", "--csv", "nodes", "--json"],
        ["diff", "a.json"],
        ["union", "a.json"],
    ],
)
def test_half_a_question_is_wrong_usage(arguments: list[str]) -> None:
    assert main(arguments) == 2
