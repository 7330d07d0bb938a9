"""Streams that hold not every character, or nothing at all: no traceback, and nothing wrong on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from six_nodes import six_nodes

from attrgraph.cli.output import print_table
from attrgraph.graph.load_graph import load_graph
from attrgraph.io.exports import export_graph

pytestmark = pytest.mark.doors

ASCII = {"PYTHONIOENCODING": "ascii"}
# what every one of these commands prints has characters that are not ASCII
VERBS = """
info g.json
info g.json --json
query g.json "pos >= 0"
query g.json "pos >= 0" --csv
paths g.json
effect g.json 0_1_0 3_9_1
diff g.json g.json
check g.json
group g.json --by tokens
"""


def run(command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell with `attrgraph` standing for the program."""
    root = str(Path(__file__).parents[2])
    function = f'attrgraph() {{ "{sys.executable}" -m attrgraph.cli.main "$@"; }}; set -o pipefail; '
    full = {**os.environ, "PYTHONPATH": root, **env}
    return subprocess.run(
        ["bash", "-c", function + command], cwd=folder, env=full, capture_output=True, encoding="utf-8", timeout=60
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a graph whose labels and tokens are not ASCII."""
    path = tmp_path_factory.mktemp("streams")
    graph = six_nodes()
    nodes = graph.nodes.assign(label=[f"Zürich → 🐶 {i}" for i in range(6)], token="ü")
    export_graph(graph.replace(nodes=nodes, prompt_tokens=["Zürich", "ü"]), path / "g.json")
    return path


@pytest.mark.parametrize("env", [ASCII, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_characters_that_an_encoding_lacks_are_escaped(env: dict[str, str], folder: Path) -> None:
    (folder / "commands.txt").write_text(VERBS)
    done = run("attrgraph shell commands.txt", folder, **env)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.isascii() and "\\u2192" in done.stdout and "Z\\xfcrich" in done.stdout
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert summary["prompt_tokens"] == ["Zürich", "ü"]


def test_files_are_utf_8_in_every_locale(folder: Path) -> None:
    (folder / "commands.txt").write_text("convert g.json -o a.safetensors\nconvert g.json -o b.dot\n")
    done = run("attrgraph shell commands.txt", folder, **ASCII, LC_ALL="C")
    assert done.stderr == "" and load_graph(folder / "a.safetensors").prompt_tokens == ["Zürich", "ü"]
    assert "Zürich" in (folder / "b.dot").read_text(encoding="utf-8")


@pytest.mark.refusal
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("command", ["--version", "info g.json --json", "shell commands.txt"], ids=lambda c: c)
def test_a_full_disk_is_one_line(command: str, folder: Path) -> None:
    (folder / "commands.txt").write_text("--version\n")
    done = run(f"attrgraph {command} > /dev/full", folder)
    assert done.returncode == 1 and done.stderr == "attrgraph: the output: No space left on device.\n"


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("attrgraph --version >&-", 1, "attrgraph: the output is closed; send it to a file or to /dev/null.\n"),
        ("attrgraph infoo <&- 2>&-", 2, ""),
        ("attrgraph info g.json --json | true", 1, ""),
        ("printf '\\xff\\n' | attrgraph shell > /dev/null 2> /dev/full", 2, ""),
        ("COLUMNS=² LINES=-1 attrgraph query g.json 'pos > 9' > /dev/null", 0, ""),
    ],
)
def test_closed_and_broken_streams_end_quietly(command: str, code: int, told: str, folder: Path) -> None:
    done = run(command, folder)
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.refusal
def test_an_error_is_one_line_whatever_it_quotes(folder: Path) -> None:
    done = run("attrgraph shell $'two\\nlines\\x1b[31m\\xff.json'", folder)
    assert done.stderr.startswith("attrgraph: two\\nlines\\x1b[31m\\udcff.json: cannot be read")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("terminal", [{}, {"FORCE_COLOR": "1", "COLUMNS": "1"}, {"FORCE_COLOR": "1", "COLUMNS": "60"}])
def test_tables_have_no_trailing_blanks_and_need_no_width(
    terminal: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    print_table(pd.DataFrame({"number": [1.5, 2.0], "text": ["short", "a longer one"]}))
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in capsys.readouterr().out.splitlines()]
    assert lines == ["number  text", "   1.5  short", "     2  a longer one"]
