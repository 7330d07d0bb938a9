"""The help of every verb: whole at 80 columns, with examples that run."""

import inspect
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import draws
import pytest
import typer

import attrgraph as ag
from attrgraph.cli.main import app, main

pytestmark = pytest.mark.doors

VERBS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
DALLAS = "in the state containing dallas the capital is"
# a shell reads a terminal, a server does not end; training and validating take long, and other tests run them
NOT_RUN = ("serve", "shell", "train", "validate")


def examples(verb: str) -> list[str]:
    """The commands after `Example` in a verb's help."""
    _, _, part = inspect.cleandoc(VERBS[verb].help).partition("\b\nExample")
    lines = part.replace("\\\n", "").splitlines()[1:]
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_whole_at_80_columns(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([verb, "--help"] if verb else ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "<bool>" not in shown
    assert [
        line for line in shown.splitlines() if line.endswith("...") and line.startswith("  ") and "train" not in line
    ] == []
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    if verb:
        assert all(f"attrgraph {verb}" in example for example in examples(verb)) and examples(verb)
    else:
        assert set(VERBS) <= set(shown.split())


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graphs that examples name."""
    folder = tmp_path_factory.mktemp("traced")
    model = ag.load_model("demo")
    for city in ("dallas", "chicago"):
        graph = ag.trace(model, DALLAS.replace("dallas", city))
        graph.save(folder / f"{city}.safetensors")
        graph.prune(0.6).to_json(folder / f"{city}.json")
    return folder


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in NOT_RUN])
def test_examples_run(
    verb: str, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if verb != "trace":
        for name in ("dallas.json", "dallas.safetensors", "chicago.json"):
            shutil.copy(traced / name, name)
    if verb not in ("trace", "prune"):
        for name in ("small.json", "theirs.json"):
            shutil.copy("dallas.json", name)
    Path("mine.json").write_text(json.dumps({"texas": ["1_1023_5", "1_815_5"]}))
    Path("questions.jsonl").write_text('{"prompt": "the capital of texas is"}\n')
    sentences = [sentence.prompt for sentence in draws.test_sets(4)["two_hop"][:12]]
    Path("sentences.txt").write_text("\n".join(sentences) + "\n")
    if verb == "feature":
        assert main([*shlex.split("features demo demo --text sentences.txt -o pages --features 3/458")]) == 0
    for example in examples(verb):
        assert shutil.which("dot") or ".svg" not in example or pytest.skip("needs the program dot of Graphviz")
        assert main(shlex.split(example)[1:]) == 0, example


@pytest.mark.parametrize(("verb", "default"), [("trace", "Default: demo."), ("heads", "Default: the graph's;")])
def test_default_model_is_that_of_the_verb(verb: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"demo, a folder, or owner/repo. {default}" in " ".join(capsys.readouterr().out.split())
