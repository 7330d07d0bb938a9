"""`attrgraph convert`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.writing import ENDINGS, check_outputs, write_graph
from attrgraph.files import GRAPH_FORMATS, MAX_JSON_BYTES


def convert(
    graph: Annotated[Path, typer.Argument(help="A graph file: .json of any tool, or .safetensors.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=f"File to write: {' '.join(ENDINGS)}.")],
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    max_bytes: Annotated[
        str,
        typer.Option(help="Largest JSON that is read; reading takes 10 to 17 times its size."),
    ] = f"{MAX_JSON_BYTES >> 20}M",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")] = False,
) -> None:
    """Write a graph in another format, repaired where that is needed; every repair is a line on stderr.

    Example: attrgraph convert dallas.json -o dallas.dot
    """
    check_outputs([output], profile=profile, force=force)
    from attrgraph.memory import parse_bytes

    limit = parse_bytes(max_bytes, name="--max-bytes")
    if output.suffix in GRAPH_FORMATS:
        from attrgraph.graph.convert import convert_graph

        repairs = convert_graph(graph, output, profile, overwrite=force, max_bytes=limit)
    else:
        from attrgraph.graph.load_graph import load_graph

        loaded = load_graph(graph, max_bytes=limit)
        write_graph(loaded, output, profile=profile, force=force)
        repairs = loaded.metadata.get("repairs", []) if graph.suffix == ".json" else []
    for repair in repairs:
        print(f"repaired: {repair}", file=sys.stderr)
    print(output)
