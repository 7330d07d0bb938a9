"""What README says to type works."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from attrgraph.cli.main import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert {path.name for path in tmp_path.iterdir()} == {"dallas.json", "dallas.safetensors"}
    assert names["model"].n_layers == 4


def test_shell_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("attrgraph ")]
    assert len(lines) >= 3
    for line in lines:
        if shutil.which("dot") is None:
            line = line.replace(".svg", ".dot")
        assert main(shlex.split(line)[1:]) == 0, line


def test_both_set_up_commands_are_make_targets() -> None:
    targets = re.findall(r"^([a-z]+):", (Path(__file__).parent.parent / "Makefile").read_text(), flags=re.MULTILINE)
    commands = re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)
