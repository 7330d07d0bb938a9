"""`attrgraph prune`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import check_outputs, write_graph


def prune(
    graph: Annotated[Path, typer.Argument(help="A graph file, best an unpruned .safetensors.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the pruned graph.")],
    node_threshold: Annotated[float, typer.Option(min=0, max=1, help="Share of influence to keep.")] = 0.8,
    edge_threshold: Annotated[float, typer.Option(min=0, max=1, help="Share of edge influence to keep.")] = 0.98,
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")] = False,
) -> None:
    """Keep the most influential nodes and edges of a graph.

    Example: attrgraph prune dallas.safetensors -o small.json --node-threshold 0.6
    """
    check_outputs([output], profile=profile, force=force)
    from attrgraph.graph.load_graph import load_graph

    pruned = load_graph(graph).prune(node_threshold, edge_threshold)
    write_graph(pruned, output, profile=profile, force=force)
    print_summary(pruned, as_json=as_json, files=[output])
