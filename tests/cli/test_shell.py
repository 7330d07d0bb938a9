"""Many commands in one process."""

import io
import os
import pty
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from attrgraph.cli import options
from attrgraph.cli.main import app, main
from attrgraph.cli.shell import completions

pytestmark = pytest.mark.doors

DALLAS = '"in the state containing dallas the capital is"'
VERBS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_commands_of_a_file_run_in_order_and_the_first_failure_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        "# a comment, and an empty line",
        "",
        f"attrgraph trace {DALLAS} -o dallas.safetensors --top 0  # with the name of the program, too",
        "info nowhere.json",
        "info dallas.safetensors --json",
        "infoo",
        'query "unfinished',
        "exit",
        "info never.json",
    ]
    Path("commands.txt").write_text("\n".join(lines))
    assert main(["shell", "commands.txt"]) == 1
    out, err = capsys.readouterr()
    assert "wrote dallas.safetensors" in out and '"prompt_tokens"' in out
    assert "nowhere.json: no such file" in err and "'infoo'" in err and "No closing quotation" in err
    assert "never.json" not in err
    assert main(["shell", "no-such-file"]) == 1


def test_commands_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("help\nshell\n"))
    assert main(["shell"]) == 2
    out, err = capsys.readouterr()
    assert "Usage: attrgraph" in out and "this is a shell already" in err


def test_a_model_is_loaded_once_unless_its_files_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options._load.cache_clear()
    assert main(["trace", "in texas the capital is", "--json"]) == 0
    assert main(["estimate", "in texas the capital is", "--json"]) == 0
    assert options._load.cache_info().hits == 1 and options._load.cache_info().misses == 1
    (tmp_path / "config.yaml").write_text("a")
    before = options._stamp(str(tmp_path))
    (tmp_path / "config.yaml").write_text("ab")
    (tmp_path / "lost").symlink_to("nowhere")
    assert before and options._stamp(str(tmp_path)) != before
    assert options._stamp(None) == options._stamp("owner/model") == ()


def test_words_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("graphs").mkdir()
    Path("graphs/dallas.json").write_text("")
    assert completions("", "pa", VERBS) == ["patch ", "paths "]
    assert completions("attrgraph ", "e", VERBS) == ["effect ", "estimate ", "evaluate ", "exit ", "explore "]
    assert completions("trace x ", "--node", VERBS) == ["--node-threshold "]
    assert completions("evaluate a b ", "--no-n", VERBS) == ["--no-neurons "]
    assert completions("info ", "gr", VERBS) == ["graphs/"]
    assert completions("info ", "graphs/d", VERBS) == ["graphs/dallas.json "]
    assert completions("info ", "nowhere/d", VERBS) == []


def test_a_terminal_has_a_prompt_and_keeps_a_history(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["HOME"] = str(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "attrgraph.cli.main", "shell"])
    os.write(terminal, b"info nowhere.json\nexit\n")
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert b"attrgraph> " in shown and b"no such file" in shown
    assert (tmp_path / ".attrgraph_history").read_text().splitlines()[-2:] == ["info nowhere.json", "exit"]
