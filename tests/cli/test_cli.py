"""The command line, through its door: results on stdout, the rest on stderr, exit codes, and no half-written files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.transcoders import save_transcoders

DALLAS = "in the state containing dallas the capital is"
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz")


def test_demo_answers_austin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", DALLAS]) == 0
    out, err = capsys.readouterr()
    assert "austin" in out.splitlines()[0]
    for word in ("scores", "exactness", "most influential features", "dallas @5"):
        assert word in out
    assert err == ""


def test_a_table_that_nobody_asked_for_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", DALLAS, "--top", "0"]) == 0
    out = capsys.readouterr().out
    assert "most influential" not in out and "none is active" not in out


def test_json_summary_is_all_that_stdout_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.json"
    assert main(["trace", DALLAS, "--json", "-o", str(path), "--top", "3"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["logits"][0]["token"] == "austin"
    assert summary["files"] == [str(path)]
    assert len(summary["features"]) == 3
    assert summary["checks"]["logit_deviation"] < 1e-4
    graph = ag.load_graph(path)
    assert graph.metadata["pruning"] == {"node_threshold": 0.8, "edge_threshold": 0.98}


def test_per_layer_demo_and_word_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", DALLAS.title(), "--transcoders", "demo-per-layer", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logits"][0]["token"] == "austin"


@pytest.mark.parametrize("ending", ["json", "safetensors", "dot", "graphml", pytest.param("svg", marks=needs_dot)])
def test_every_format_is_written(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"g.{ending}"
    assert main(["trace", DALLAS, "-o", str(path), "--node-threshold", "0.5"]) == 0
    assert path.stat().st_size > 1000
    assert f"wrote {path}" in capsys.readouterr().out.replace("\n", "")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_trace_info_prune_convert_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, small, dot = (str(tmp_path / name) for name in ("whole.safetensors", "small.json", "small.dot"))
    assert main(["trace", DALLAS, "-o", whole]) == 0
    assert main(["info", whole, "--json"]) == 0
    assert main(["prune", whole, "-o", small, "--node-threshold", "0.5"]) == 0
    assert main(["convert", small, "-o", dot]) == 0
    assert main(["convert", small, "-o", str(tmp_path / "again.json"), "--profile", "anthropic"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [dot, str(tmp_path / "again.json")]
    assert "bias" in set(ag.load_graph(whole).nodes["kind"])
    pruned = ag.load_graph(whole).prune(0.5)
    assert ag.load_graph(small).nodes.index.equals(pruned.nodes.index)
    assert Path(dot).read_text() == pruned.to_dot()


def test_targets_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", DALLAS, "--target", "austin", "--target", "boston", "--json"]) == 0
    assert [logit["token"] for logit in json.loads(capsys.readouterr().out)["logits"]] == ["austin", "boston"]
    assert main(["trace", DALLAS, "--target", "austin", "--minus", "boston", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logits"][0]["token"] == "austin - boston"


def test_model_folder_without_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("gpt2").hf_model.save_pretrained(tmp_path / "m")
    save_transcoders(make_transcoders(), tmp_path / "t")
    arguments = ["trace", "1 5 6", "--ids", "--model", str(tmp_path / "m"), "--transcoders", str(tmp_path / "t")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == ["<1>", "<5>", "<6>"]


def test_unknown_words_are_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "the capital of atlantis is"]) == 0
    out = capsys.readouterr().out
    assert "<unk>" in out and "unknown to the tokenizer" in out


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace", ""], "the prompt is empty"),
        (["trace", "dallas " * 600], "has 601 tokens, the model's context 512"),
        (["trace", DALLAS, "--model", "nowhere", "--transcoders", "demo"], "nowhere: no such folder"),
        (["trace", DALLAS, "--model", "nowhere"], "name its transcoders with --transcoders"),
        (["trace", DALLAS, "--target", "austin", "--minus", "austin"], "its direction is zero"),
        (["trace", DALLAS, "-o", "g.json", "-o", "g.json"], "is named twice"),
        (["trace", DALLAS, "--transcoders", "./nowhere"], "nowhere: no such folder"),
        (["trace", DALLAS, "--target", "atlantis"], "'atlantis' is not in the model's vocabulary"),
        (["trace", DALLAS, "--minus", "boston"], "--minus needs exactly one --target"),
        (["trace", DALLAS, "--ids"], "is not a list of token ids"),
        (["trace", "1_0 2", "--ids"], "is not a list of token ids"),
        (["trace", "\u0661 2", "--ids"], "is not a list of token ids"),
        (["trace", DALLAS, "-o", "no/such/folder/g.json"], "does not exist"),
        (["trace", DALLAS, "-o", "g.txt"], "unknown ending '.txt'"),
        (["trace", DALLAS, "-o", "g.json", "--profile", "gephi"], "unknown JSON profile 'gephi'"),
        (["trace", DALLAS, "--dtype", "int8"], "dtype is 'int8'"),
        (["info", "nowhere.json"], "nowhere.json: no such file"),
        (["prune", "nowhere.json", "-o", "g.json"], "nowhere.json: no such file"),
        (["convert", "nowhere.safetensors", "-o", "g.json"], "no such file"),
    ],
)
def test_bad_input_gives_one_line_and_no_file(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("attrgraph: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.refusal
def test_existing_output_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.json"
    path.write_text("mine")
    assert main(["trace", DALLAS, "-o", str(path)]) == 1
    assert "exists; choose another name or pass --force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["trace", DALLAS, "-o", str(path), "--force"]) == 0
    assert ag.load_graph(path).n_layers == 4


@pytest.mark.refusal
def test_nan_weights_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("llama").hf_model.save_pretrained(tmp_path / "m")
    save_transcoders(make_transcoders(), tmp_path / "t")
    weights = load_file(tmp_path / "m/model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    arguments = ["trace", "1 5", "--ids", "--model", str(tmp_path / "m"), "--transcoders", str(tmp_path / "t")]
    assert main([*arguments, "-o", str(tmp_path / "g.json")]) == 1
    assert "hold NaN" in capsys.readouterr().err
    assert not (tmp_path / "g.json").exists()


@pytest.mark.refusal
def test_picture_without_graphviz_is_refused_before_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["trace", DALLAS, "-o", str(tmp_path / "g.svg")]) == 1
    assert "apt install graphviz" in capsys.readouterr().err


@pytest.mark.refusal
def test_wrong_usage_is_two_and_traceback_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace"]) == 2
    assert main(["trace", DALLAS, "--node-threshold", "3"]) == 2
    assert main(["tracee", DALLAS]) == 2
    with pytest.raises(ag.AttrGraphError):
        main(["--traceback", "info", "nowhere.json"])


def test_what_stands_before_a_prompt_and_is_skipped_is_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*options: str) -> dict[str, Any]:
        assert main(["trace", "in texas the capital is", "--json", "--top", "0", *options]) == 0
        return dict(json.loads(capsys.readouterr().out))

    usual = asked()
    assert usual["prompt_tokens"][0] == "<bos>" and usual["skipped_positions"] == [{"pos": 0, "why": "BOS, <bos>"}]
    other = asked("--prepend", "none", "--skip-positions", "1,2")
    assert other["prompt_tokens"][0] == "in"
    assert other["skipped_positions"] == [{"pos": 1, "why": "as asked"}, {"pos": 2, "why": "as asked"}]
    assert asked("--skip-positions", "none")["skipped_positions"] == []
    assert asked("--skip-positions", "-1")["skipped_positions"] == [{"pos": 5, "why": "as asked"}]
    assert main(["trace", "in texas the capital is", "--skip-positions", "-7"]) == 1
    assert "a position to skip is -7; expected 0 to 5, or -1" in capsys.readouterr().err
    assert main(["trace", "in texas the capital is", "--skip-positions", "0,x"]) == 1
    assert capsys.readouterr().err.startswith("attrgraph: --skip-positions: '0,x' is not a list of positions")


@pytest.mark.refusal
@pytest.mark.parametrize("command", [["trace"], ["validate"], ["intervene", "--set", "0_1_2=0"]])
def test_a_file_is_no_prompt(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("The capital of Texas is")
    name, *others = command
    assert main([name, "prompts.txt", *others]) == 1
    assert "'prompts.txt' is the name of a file. Give the text itself" in capsys.readouterr().err
    Path("12").write_text("")
    main([name, "12", "--ids", *others])
    assert "name of a file" not in capsys.readouterr().err
