"""What README says to type works."""

import doctest
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from attrgraph.cli.main import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in README.split("```python\n")[1:4]:
        exec(block.split("```")[0], names)
    assert {path.name for path in tmp_path.iterdir()} == {"dallas.json", "dallas.safetensors"}
    assert names["model"].n_layers == 4
    assert names["effect"].top_after[0][0] != "austin"


def test_shell_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = README.split("## On the command line")[1].split("```")[1]
    lines = [line for line in section.splitlines() if line]
    assert len(lines) == 13
    (tmp_path / "questions.jsonl").write_text('{"prompt": "the capital of texas is"}\n', encoding="utf-8")
    for line in lines:
        if shutil.which("dot") is None:
            line = line.replace(".svg", ".dot")
        assert main(shlex.split(line)[1:]) == 0, line


def test_printed_result_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "in the state containing dallas the capital is"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = README.split("```text\n")[1].split("```")[0].splitlines()
    # figures of exactness depend on the machine's rounding
    assert [line for line in printed if "exactness" not in line] == [line for line in shown if "exactness" not in line]


def test_printed_verdict_is_what_the_demo_gets(capsys: pytest.CaptureFixture[str]) -> None:
    shown = README.split("```text\n")[2].split("```")[0]
    command, _, verdict = shown.partition("\n")
    assert main(shlex.split(command)[2:]) == 0
    printed = capsys.readouterr().out
    # correlations depend on the machine's rounding in their last digit, the error of frozen predictions in all of it
    words = [re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", text).split() for text in (printed, verdict)]
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "module",
    [
        "attrgraph.attribution.trace",
        "attrgraph.models.load_model",
        "attrgraph.interventions.intervene",
        "attrgraph.interventions.generate",
        "attrgraph.interventions.swap",
        "attrgraph.attribution.heads",
        "attrgraph.attribution.qk",
        "attrgraph.validation.validate",
    ],
)
def test_docstring_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted >= 2 and result.failed == 0


def test_both_set_up_commands_are_make_targets() -> None:
    targets = re.findall(r"^([a-z]+):", (Path(__file__).parent.parent / "Makefile").read_text(), flags=re.MULTILINE)
    commands = re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)
