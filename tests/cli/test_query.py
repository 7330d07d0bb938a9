"""`attrgraph query`, `paths` and `effect`: as tables, CSV and JSON, what they write, and what they refuse."""

import csv
import io
import json
from pathlib import Path

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.graph.graph import Graph

DALLAS = "in the state containing dallas the capital is"
STRONG = "kind == 'feature' and influence > 0.02"


@pytest.fixture(scope="module")
def traced() -> ag.Graph:
    return ag.trace(ag.load_model("demo"), DALLAS)


@pytest.fixture
def graph_file(traced: ag.Graph, tmp_path: Path) -> str:
    path = tmp_path / "g.safetensors"
    traced.save(path)
    return str(path)


def test_nodes_are_listed_in_three_forms(traced: ag.Graph, graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = traced.query(STRONG)
    assert main(["query", graph_file, STRONG]) == 0
    out, err = capsys.readouterr()
    assert out.split()[:3] == ["node", "id", "kind"] and err == ""
    assert [line.split()[0] for line in out.splitlines()[1:]] == expected.ids
    assert main(["query", graph_file, STRONG, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["node_id"] for row in rows] == expected.ids
    assert [float(row["influence"]) for row in rows] == expected.nodes["influence"].tolist()
    assert main(["query", graph_file, STRONG, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] == expected.nodes.reset_index().to_dict("records") and found["files"] == []


def test_a_query_that_nothing_meets_is_no_error(graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = "layer > 99"
    assert main(["query", graph_file, nothing]) == 0
    assert capsys.readouterr().out == "(no nodes)\n"
    assert main(["query", graph_file, "token == 'nowhere' and kind == 'logit'"]) == 0
    assert capsys.readouterr().out == "(no nodes; no node has 'nowhere')\n"
    assert main(["query", graph_file, nothing, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["query", graph_file, nothing, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == []


def test_the_nodes_are_written_as_a_graph(
    traced: ag.Graph, graph_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, document = tmp_path / "small.safetensors", tmp_path / "small.json"
    assert main(["query", graph_file, STRONG, "-o", str(path)]) == 0
    assert capsys.readouterr().out.replace("\n", "").endswith(f"wrote {path}")
    small, expected = ag.load_graph(path), traced.query(STRONG).subgraph()
    assert small.nodes.equals(expected.nodes) and (small.adjacency != expected.adjacency).nnz == 0
    with_logit = f"{STRONG} or kind == 'logit'"
    assert main(["query", graph_file, with_logit, "-o", str(document), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(document)]
    assert ag.load_graph(document).nodes.index.equals(traced.query(with_logit).nodes.index)
    assert main(["query", graph_file, STRONG, "-o", str(path), "--csv", "--force"]) == 0
    assert "wrote" not in capsys.readouterr().out


def test_paths_are_listed_in_three_forms(traced: ag.Graph, graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = traced.paths(k=3)
    assert main(["paths", graph_file, "-k", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.split()[:4] == ["share", "coverage", "weight", "labels"] and err == ""
    assert "→" in out and 'Output "austin"' in out
    assert main(["paths", graph_file, "-k", "3", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [tuple(row["path"].split()) for row in rows] == expected["path"].tolist()
    assert [float(row["weight"]) for row in rows] == expected["weight"].tolist()
    assert main(["paths", graph_file, "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["paths"]
    assert [tuple(row["path"]) for row in found] == expected["path"].tolist()
    assert [row["coverage"] for row in found] == expected["coverage"].tolist()


def test_paths_between_named_nodes_by_another_rank(
    traced: ag.Graph, graph_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    feature = traced.select(kind="feature", layer=2).nodes["influence"].idxmax()
    ends = ["--source", "0_-1_5", "--source", "0_-1_7", "--target", feature]
    assert main(["paths", graph_file, *ends, "--by", "negative", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["paths"]
    expected = traced.paths(["0_-1_5", "0_-1_7"], feature, by="negative")
    assert [row["weight"] for row in found] == expected["weight"].tolist()
    assert main(["paths", graph_file, "--source", feature, "--target", "0_-1_5"]) == 0
    assert capsys.readouterr().out == "(no path leads there)\n"


def test_weights_that_are_not_known_are_null(
    traced: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = traced.nodes.assign(activation=0.0)
    path = tmp_path / "bare.safetensors"
    ag.Graph(nodes, traced.adjacency, traced.prompt_tokens, traced.metadata).save(path)
    assert main(["paths", str(path), "-k", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["paths"]
    assert [row["weight"] is None for row in found] == [len(row["path"]) > 2 for row in found]
    assert main(["paths", str(path), "--by", "abs"]) == 1
    assert "have no activation" in capsys.readouterr().err


def test_an_effect_is_one_number(traced: ag.Graph, graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (target,) = traced.select(kind="logit")
    assert main(["effect", graph_file, "0_-1_5", target]) == 0
    out, err = capsys.readouterr()
    assert out == f'effect    0_-1_5 (L0 error) -> {target} (Output "austin" (p=0.991)): -0.4123\n' and err == ""
    through, avoid = traced.select(kind="feature", layer=1).ids[:2], traced.select(kind="feature", layer=2).ids[:2]
    limits = [word for node in through for word in ("--through", node)]
    limits += [word for node in avoid for word in ("--avoid", node)]
    assert main(["effect", graph_file, "0_-1_5", target, *limits, "--json"]) == 0
    expected = traced.effect("0_-1_5", target, through=through, avoid=avoid)
    found = json.loads(capsys.readouterr().out)
    assert found == {"source": "0_-1_5", "target": target, "through": through, "avoid": avoid, "effect": expected}
    assert main(["effect", graph_file, "0_-1_5", target, *limits]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"through   {through[0]} (") and lines[2].startswith(f"avoiding  {avoid[0]} (")


@pytest.mark.parametrize("verb", ["query", "paths", "effect"])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"attrgraph {verb}" in capsys.readouterr().out


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "{}", "layer > @x"], "is not an expression"),
        (["query", "{}", "open('x', 'w') == 1"], "a call is not allowed"),
        (["query", "{}", "depth > 1"], "'depth' is no column"),
        (["query", "nowhere.json", "layer > 1"], "nowhere.json: no such file"),
        (["query", "{}", STRONG, "-o", "small.json"], "no reader opens JSON without a logit"),
        (["query", "{}", STRONG, "-o", "small.xyz"], "unknown ending '.xyz'"),
        (["query", "{}", STRONG, "-o", "{}"], "exists"),
        (["paths", "{}", "--by", "length"], "by='length'"),
        (["paths", "{}", "--source", "0_-1_99"], "no node '0_-1_99'; did you mean 0_-1_"),
        (["effect", "{}", "0_-1_5", "nobody"], "no node 'nobody'"),
        (["effect", "{}", "0_-1_5", "0_-1_6", "--through", "nobody"], "no node 'nobody'"),
    ],
)
def test_bad_questions_give_one_line(
    arguments: list[str],
    message: str,
    graph_file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([graph_file if word == "{}" else word for word in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


@pytest.mark.refusal
@pytest.mark.parametrize(
    "arguments",
    [["query", "g.json"], ["query", "g.json", "layer > 1", "--json", "--csv"], ["paths", "g.json", "--json", "--csv"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_what_terminals_and_readers_stumble_over_is_told(
    traced: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "a\rb\x1b[31m"
    nodes = traced.prune(0.5).nodes.copy()
    nodes["token"] = token
    path = tmp_path / "odd.safetensors"
    Graph(nodes, traced.prune(0.5).adjacency, traced.prompt_tokens, traced.metadata).save(path)
    every = "layer > -2"
    assert main(["query", str(path), every, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["token"] for row in rows] == ["a\u240db\u241b[31m"] * len(nodes)
    for command in (["query", str(path), every], ["info", str(path)]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "\x1b[31m" not in out and "\r" not in out and "a\\rb" in out


def test_nothing_that_is_printed_is_a_formula_or_moves_the_cursor(
    traced: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = traced.prune(0.5)
    feature, answer = small.select(kind="feature").ids[0], small.select(kind="logit").ids[0]
    odd = "=HYPERLINK(\x1b[31m\n"
    path, output = str(tmp_path / "odd.safetensors"), str(tmp_path / "odd.json")
    nodes = small.nodes.rename(index={feature: "\x1b[2J"}).assign(label=odd, token=odd)
    Graph(nodes, small.adjacency, [odd] * len(small.prompt_tokens), small.metadata).save(path)
    by_hand = str(tmp_path / "groups.json")
    Path(by_hand).write_text(json.dumps({odd: ["\x1b[2J"]}))
    for verb, *arguments in (
        ["query", "layer > -2", "--csv"],
        ["query", "layer > -2"],
        ["paths", "--csv"],
        ["paths"],
        ["effect", "\x1b[2J", answer],
        ["effect", "\x1b[2K", answer],  # an error that quotes the first
        ["diff", path, "--csv", "edges"],
        ["diff", path, "--csv", "nodes"],
        ["diff", path],
        ["union", path, "-o", output],
        ["group", "--groups", by_hand],
        ["info"],
        ["check", output],
        ["convert", "-o", output, "--force"],
        ["render", "-o", str(tmp_path / "odd.dot"), "--group", "\x1b[3J=x"],
    ):
        code = main([verb, path, *arguments])
        out, err = capsys.readouterr()
        assert code in (0, 1) and out + err and "\x1b" not in out + err and "Traceback" not in err, (verb, out, err)
        if "--csv" in arguments:
            cells = [cell for row in csv.reader(io.StringIO(out, newline="")) for cell in row]
            numbers = [cell for cell in cells if cell.startswith("-")]
            assert all(float(cell) < 0 for cell in numbers) and not any(cell.startswith("=") for cell in cells)


def test_a_graph_without_an_answer_has_valid_json(
    traced: ag.Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "part.safetensors")
    traced.query("kind == 'feature'").subgraph().save(path)

    def no_constants(name: str) -> None:
        raise AssertionError(name)

    for command in (
        ["info", path],
        ["group", path, "--by", "tokens"],
        ["union", path, path, "-o", f"{path}2.safetensors"],
    ):
        assert main([*command, "--json"]) == 0
        json.loads(capsys.readouterr().out, parse_constant=no_constants)
    assert main(["info", path]) == 0
    assert "no answer in this graph" in capsys.readouterr().out
    assert main(["union", path, path, "-o", str(tmp_path / "u.json")]) == 1
    assert "no reader opens JSON without a logit" in capsys.readouterr().err
