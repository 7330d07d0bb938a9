"""`attrgraph info`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.summary import print_summary


def info(
    graph: Annotated[Path, typer.Argument(help="A graph file: .safetensors or .json.")],
    top: Annotated[int, typer.Option(min=0, help="Features in the summary.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Say what is in a graph file.

    Example: attrgraph info dallas.json
    """
    from attrgraph.graph.load_graph import load_graph

    print_summary(load_graph(graph), as_json=as_json, n_top=top)
