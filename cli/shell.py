"""`attrgraph shell`: many commands in one process, so that torch is imported and a model loaded only once."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from attrgraph.cli import options
from attrgraph.cli.output import tell
from attrgraph.errors import AttrGraphError
from attrgraph.files import read_text

_PROMPT = "attrgraph> "
# expanduser of os.path raises nothing where there is no home
_HISTORY, _MOST_HISTORY = Path(os.path.expanduser("~/.attrgraph_history")), 1000
_LEAVE = ("exit", "quit")


def shell_of(app: typer.Typer, run: Callable[[list[str]], int]) -> Callable[..., None]:
    """The verb `shell` for an app.

    Args:
        app: its verbs are completed.
        run: runs one command and returns its exit code.
    """

    def shell(
        script: Annotated[
            Path | None, options.argument("SCRIPT", "A file with a command a line. Default: the terminal, or a pipe.")
        ] = None,
    ) -> None:
        """Run many commands in one process; models stay loaded.

        Commands are written as for attrgraph, without its name; # begins a comment, exit or Ctrl-D leaves. A command
        that fails does not end the shell; the exit code is that of the first that failed.

        \b
        Examples:
          attrgraph shell
          attrgraph shell commands.txt
        """
        codes = [_run_line(line, run) for line in _lines(script, app)]
        raise typer.Exit(next(filter(None, codes), 0))

    return shell


def _run_line(line: str, run: Callable[[list[str]], int]) -> int:
    try:
        if "\0" in line:
            raise ValueError("no command holds a NUL character")
        words = shlex.split(line, comments=True)
    except ValueError as e:
        tell(f"attrgraph: {line.strip()!r}: {e}.")
        return 2
    words = words[1:] if words[:1] == ["attrgraph"] else words
    if not words:
        return 0
    if words[0] == "shell":
        tell("attrgraph: this is a shell already; type a verb, or exit.")
        return 2
    try:
        code = run(["--help"] if words == ["help"] else words)
    except KeyboardInterrupt:
        tell("attrgraph: interrupted.")
        code = 130
    sys.stdout.flush()
    options.collect_again()
    return code


def _lines(script: Path | None, app: typer.Typer) -> Iterator[str]:
    """Commands from a file, a pipe or a terminal, until its end or `exit`."""
    if script is not None:
        try:
            text = read_text(script)
        except (OSError, ValueError) as e:
            raise AttrGraphError(f"{script}: cannot be read as a file of commands ({e}).") from e
        source: Iterator[str] = iter(text.splitlines())
    else:
        source = _typed(app) if sys.stdin.isatty() else sys.stdin
    for line in source:
        if line.strip() in _LEAVE:
            return
        yield line


def _typed(app: typer.Typer) -> Iterator[str]:
    """Lines from a terminal, with history and completion where Python has readline."""
    readline = _readline(app)
    print("Verbs are those of attrgraph --help; Tab completes, exit or Ctrl-D leaves.", file=sys.stderr)
    try:
        while True:
            try:
                yield input(_PROMPT)
            except KeyboardInterrupt:
                print(file=sys.stderr)
    except EOFError:
        print(file=sys.stderr)
    finally:
        if readline is not None:
            try:
                readline.set_history_length(_MOST_HISTORY)
                readline.write_history_file(_HISTORY)
            except OSError:  # a home that cannot be written to
                tell(f"attrgraph: {_HISTORY} cannot be written; the history is lost.")


def _readline(app: typer.Typer) -> Any:
    try:
        import readline
    except ImportError:  # Windows
        return None
    verbs: dict[str, Any] = dict(getattr(typer.main.get_command(app), "commands", {}))

    def complete(text: str, state: int) -> str | None:
        found = completions(readline.get_line_buffer()[: readline.get_begidx()], text, verbs)
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n=")
    # macOS has libedit, which is set otherwise
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in str(readline.__doc__) else "tab: complete")
    if _HISTORY.is_file():
        readline.read_history_file(_HISTORY)
    return readline


def completions(before: str, text: str, verbs: dict[str, Any]) -> list[str]:
    """What a word may be completed to: a verb, an option of the line's verb, or a file.

    Args:
        before: the line up to the word.
        text: the beginning of the word.
        verbs: typer's commands by name.
    """
    words = [word for word in before.split() if word != "attrgraph"]
    if not words:
        return sorted(f"{name} " for name in [*verbs, *_LEAVE] if name.startswith(text))
    if text.startswith("-"):
        parameters = getattr(verbs.get(words[0]), "params", [])
        names = [name for parameter in parameters for name in [*parameter.opts, *parameter.secondary_opts]]
        return sorted(f"{name} " for name in {*names, "--help"} if name.startswith(text) and name.startswith("-"))
    head, slash, start = text.rpartition("/")
    folder = Path(head + slash or ".").expanduser()
    files = sorted(folder.glob(f"{escape(start)}*"))
    return [f"{head}{slash}{file.name}{'/' if file.is_dir() else ' '}" for file in files]
