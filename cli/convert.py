"""`attrgraph convert`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.writing import check_outputs, write_graph


def convert(
    graph: Annotated[Path, typer.Argument(help="A graph file: .safetensors or .json.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .json .safetensors .dot .svg .png .pdf .graphml.")
    ],
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")] = False,
) -> None:
    """Write a graph in another format, as it is.

    Example: attrgraph convert dallas.json -o dallas.dot
    """
    check_outputs([output], profile=profile, force=force)
    from attrgraph.graph_loading import load_graph

    write_graph(load_graph(graph), output, profile=profile, force=force)
    print(output)
