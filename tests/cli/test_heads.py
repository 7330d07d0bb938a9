"""`attrgraph heads`: both of its forms, as tables and as JSON, and what it refuses."""

import json
from pathlib import Path

import pytest
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.transcoders import save_transcoders

DALLAS = "in the state containing dallas the capital is"
PLACE = ["--layer", "2", "--head", "0", "--query", "8", "--key", "5"]


@pytest.fixture
def graph_file(tmp_path: Path) -> str:
    path = tmp_path / "g.safetensors"
    ag.trace(ag.load_model("demo"), DALLAS).save(path)
    return str(path)


def test_an_edge_is_split_layer_by_layer(graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ag.load_graph(graph_file)
    target = str(graph.nodes.index[graph.nodes["kind"] == "logit"][0])
    expected = ag.head_loadings(graph, "0_-1_5", target)
    assert main(["heads", graph_file, "0_-1_5", target, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    effects = {(row["layer"], row["via"], row["head"]): row["effect"] for row in found["loadings"]}
    assert effects == expected.set_index(["layer", "via", "head"])["effect"].to_dict()
    for layer in (1, 2, 3):
        rows = [row for row in found["loadings"] if row["layer"] == layer]
        sizes = [abs(row["effect"]) for row in rows]
        assert sizes == sorted(sizes, reverse=True)
        # float32 rounding of terms of size about 1
        assert sum(row["effect"] for row in rows) == pytest.approx(found["edge"], rel=1e-4, abs=1e-6)
    assert main(["heads", graph_file, "0_-1_5", target, "--top", "2"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"edge      0_-1_5 (L0 error) -> {target} (Output") and err == ""
    assert lines[2].split() == ["layer", "via", "effect"] and len(lines) == 3 + 3 * 2


def test_a_score_is_explained_by_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", "--prompt", DALLAS, *PLACE, "--top", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("head      layer 2, head 0: is @8 to dallas @5\nscore ") and err == ""
    for word in ("exactness", "query \\ key", "embedding", "strongest pairs", "E_105_7"):
        assert word in out
    assert len(out.split("strongest pairs\n")[1].splitlines()) == 4
    assert main(["heads", "--prompt", DALLAS, *PLACE, "--top", "0"]) == 0
    assert capsys.readouterr().out.endswith("(none)\n")


def test_a_score_as_json_sums_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["heads", "--prompt", DALLAS, *PLACE, "--transcoders", "demo-per-layer", "--dtype", "float64"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    total = sum(value for row in found["by_kind"].values() for value in row.values())
    # the model's norms compute in float32
    assert total == pytest.approx(found["score"], abs=1e-5) and found["deviation"] < 1e-5
    assert len(found["pairs"]) == 10 and set(found["by_kind"]) == {"feature", "error", "embedding", "bias"}


def test_token_ids_and_folders_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("gpt_neox").hf_model.save_pretrained(tmp_path / "m")
    save_transcoders(make_transcoders(), tmp_path / "t")
    where = ["--model", str(tmp_path / "m"), "--transcoders", str(tmp_path / "t")]
    place = ["--layer", "1", "--head", "3", "--query", "3", "--key", "3"]
    assert main(["heads", "--prompt", "1 5 6 9", "--ids", *where, *place]) == 0
    assert "head 3: <9> @3 to <9> @3" in capsys.readouterr().out
    graph = ag.trace(ag.load_model(tmp_path / "m", tmp_path / "t"), [1, 5, 6, 9])
    graph.save(tmp_path / "g.safetensors")
    nodes = graph.nodes
    feature = str(nodes.index[(nodes["kind"] == "feature") & (nodes["layer"] == 0) & (nodes["pos"] == 3)][0])
    (tmp_path / "m").rename(tmp_path / "moved")
    edge = ["heads", str(tmp_path / "g.safetensors"), "E_9_3", feature]
    assert main(edge) == 1
    assert "the folder of the graph's model is not there" in capsys.readouterr().err
    assert main([*edge, "--model", str(tmp_path / "moved"), *where[2:]]) == 0
    assert "no attention lies between the two" in capsys.readouterr().out


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json", "a", "b"], "nowhere.json: no such file"),
        (["--prompt", DALLAS, *PLACE[:-1], "9"], "key is 9; expected 0 to 8"),
        (["--prompt", DALLAS, *PLACE, "--model", "nowhere"], "name its transcoders with --transcoders"),
        (["--prompt", DALLAS, *PLACE, "--ids"], "is not a list of token ids"),
    ],
)
def test_bad_input_gives_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err


@pytest.mark.refusal
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["g.json", "a"],
        ["g.json", "a", "b", *PLACE],
        ["g.json", "a", "b", "--ids"],
        ["g.json", "a", "b", "--device", "cpu"],
        ["g.json", "a", "b", "--prompt", DALLAS, *PLACE],
        ["--prompt", DALLAS, "--layer", "2"],
    ],
)
def test_half_a_question_is_wrong_usage(arguments: list[str]) -> None:
    assert main(["heads", *arguments]) == 2
