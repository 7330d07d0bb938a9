"""`attrgraph check`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_json


def check(
    graphs: Annotated[list[Path], options.argument("GRAPH", "Graph files: .json of any tool, or .safetensors.")],
    as_json: options.AsJson = False,
) -> None:
    """Say what is wrong with graph files, and for which viewers.

    The exit code is 1 if anything is an error.

    \b
    Example:
      attrgraph check theirs.json
    """
    found = {str(path): ag.check_graph_file(path) for path in graphs}
    if as_json:
        print_json([{"file": name, "problems": [asdict(one) for one in found[name]]} for name in found])
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
