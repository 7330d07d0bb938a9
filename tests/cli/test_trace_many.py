"""`attrgraph trace --prompts`: a folder of graphs, resumable."""

import json
from pathlib import Path

import pytest

import attrgraph as ag
from attrgraph.cli.main import main
from attrgraph.errors import PromptError
from attrgraph.prompts.prompt_file import read_prompts

DALLAS = "in the state containing dallas the capital is"
LINES = (
    json.dumps({"prompt": DALLAS}),
    "",
    json.dumps({"prompt": [999999], "id": "no-ids"}),
    json.dumps({"prompt": DALLAS, "id": "why-houston", "target": "houston"}),
)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def test_every_line_is_traced_as_if_it_were_alone(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, alone = tmp_path / "graphs", tmp_path / "alone.safetensors"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--json", "--max-feature-nodes", "40"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [(row["id"], row["answer"]) for row in told] == [("00001", "austin"), ("why-houston", "houston")]
    assert "attrgraph: no-ids: " in err and "1 of 3 prompts could not be traced: no-ids." in err
    assert sorted(path.name for path in folder.iterdir()) == [
        ".prompts.json",
        "00001.safetensors",
        "why-houston.safetensors",
    ]
    assert main(["trace", DALLAS, "-o", str(alone), "--max-feature-nodes", "40"]) == 0
    assert (folder / "00001.safetensors").read_bytes() == alone.read_bytes()


def test_what_is_there_is_not_traced_again(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.write_text(LINES[0] + "\n", encoding="utf-8")
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--format", ".json", "--max-feature-nodes", "9"]
    assert main(arguments) == 0
    first = (folder / "00001.json").stat()
    with prompts.open("a", encoding="utf-8") as file:
        file.write(LINES[3] + "\n")
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("00001  skipped: already traced\nwhy-houston  houston (")
    assert (folder / "00001.json").stat().st_mtime_ns == first.st_mtime_ns
    # other settings or another prompt of the same name would mix what does not belong together
    assert main([*arguments[:-1], "8"]) == 1
    assert "max_feature_nodes changed" in capsys.readouterr().err
    prompts.write_text(LINES[0].replace("capital", "state") + "\n", encoding="utf-8")
    assert main(arguments) == 1
    assert "00001 changed" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert (folder / "00001.json").stat().st_mtime_ns != first.st_mtime_ns


def test_a_prompt_that_failed_may_be_corrected(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["trace", "--prompts", str(prompts), "-o", str(tmp_path / "graphs"), "--max-feature-nodes", "5"]
    assert main(arguments) == 1
    prompts.write_text(
        "\n".join([LINES[0], json.dumps({"prompt": "the capital of texas is", "id": "no-ids"}), LINES[3]]),
        encoding="utf-8",
    )
    assert main(arguments) == 0
    assert (tmp_path / "graphs/no-ids.safetensors").exists()


def test_graphs_of_different_make_never_lie_together(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "graphs"
    arguments = ["trace", "--prompts", str(prompts), "-o", str(folder), "--max-feature-nodes"]
    main([*arguments, "5"])
    capsys.readouterr()
    assert main([*arguments, "5", "--dtype", "float64"]) == 1
    assert "dtype changed" in capsys.readouterr().err
    # forced, and stopped before the first graph: no old one is left that a later run could take for new

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("attrgraph.trace", stop)
        assert main([*arguments, "6", "--force"]) != 0
    assert [path.name for path in folder.iterdir()] == [".prompts.json"]


def test_separators_inside_a_prompt_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert [row.prompt for row in read_prompts(path)] == ["a\u2028b"]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a prompt or --prompts"),
        ([DALLAS, "--prompts", "FILE", "-o", "x"], "give either a prompt or --prompts"),
        (["--prompts", "FILE"], "needs one -o, a folder"),
        (["--prompts", "FILE", "-o", "x", "--target", "austin"], "targets and token ids stand in the file"),
        (["--prompts", "FILE", "-o", "x", "--format", ".exe"], "--format: unknown ending '.exe'"),
        (["--prompts", "FILE", "-o", "x", "--profile", "nonsense"], "unknown JSON profile 'nonsense'"),
        (["--prompts", "missing.jsonl", "-o", "x"], "missing.jsonl: cannot be read"),
    ],
)
def test_wrong_calls_are_refused(
    arguments: list[str], message: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"FILE": str(prompts), "x": str(tmp_path / "x")}
    assert main(["trace", *(places.get(argument, argument) for argument in arguments)]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (tmp_path / "x").exists()


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ("{", "line 1: is not JSON"),
        ('["a"]', "line 1: expected an object"),
        ('{"prompt": "a", "tgt": "b"}', "line 1: expected an object"),
        ('{"prompt": 3}', "the prompt is 3"),
        ('{"prompt": "a", "id": "../b"}', r"the id '\.\./b' names a file"),
        ('{"prompt": "a", "id": "b"}\n\n{"prompt": "c", "id": "b"}', "line 3: the id 'b' occurs twice"),
        ('{"prompt": "a", "target": []}', r"the target is \[\]"),
        ('{"prompt": "a", "target": 1.5}', "the target is 1.5"),
    ],
)
def test_unusable_lines_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_prompts(path)


def test_trace_many_is_trace_of_each() -> None:
    model = ag.load_model("demo")
    graphs = ag.trace_many(model, [DALLAS, "paris is"], max_feature_nodes=20)
    first = next(graphs)
    expected = ag.trace(model, DALLAS, max_feature_nodes=20)
    assert first.nodes.equals(expected.nodes) and first.metadata == expected.metadata
    bad = ag.trace_many(model, [DALLAS, ""])
    next(bad)
    with pytest.raises(PromptError, match="prompt 1: the prompt is empty"):
        next(bad)
