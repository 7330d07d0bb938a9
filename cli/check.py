"""`attrgraph check`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def check(
    graphs: Annotated[list[Path], typer.Argument(help="Graph files: .json of any tool, or .safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Say what is wrong with graph files, and which viewers it breaks. Exit 1 if anything is an error.

    Example: attrgraph check theirs.json
    """
    from attrgraph.io.check import check_graph_file

    found = {str(path): check_graph_file(path) for path in graphs}
    if as_json:
        named = [{"file": name, "problems": [asdict(problem) for problem in found[name]]} for name in found]
        print(json.dumps(named, ensure_ascii=False))
    else:
        for name, problems in found.items():
            for problem in problems:
                breaks = f" (breaks: {', '.join(problem.breaks)})" if problem.breaks else ""
                line = f"{name}: {problem.severity} {problem.code}: {problem.message}{breaks}"
                # messages quote the file, which may hold line breaks
                print("".join(character if character.isprintable() else "?" for character in line))
            if not problems:
                print(f"{name}: nothing is wrong")
    if any(problem.severity == "error" for problems in found.values() for problem in problems):
        raise typer.Exit(1)
