"""`attrgraph union`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.options import AsJson, Force
from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import check_outputs, write_graph


def union(
    graphs: Annotated[list[Path], typer.Argument(help="Graph files of one model and its transcoders, best pruned.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the graph of all of them.")],
    min_count: Annotated[int, typer.Option(min=1, help="Keep nodes that are in so many graphs.")] = 1,
    align: Annotated[
        str, typer.Option(help="Which positions correspond: counted from the end, or by position.")
    ] = "end",
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    top: Annotated[int, typer.Option(min=0, help="Features in the summary.")] = 10,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Put graphs of several prompts together: nodes that come again, with mean weights.

    Example: attrgraph union dallas.json chicago.json -o both.json --min-count 2
    """
    check_outputs([output], profile=profile, force=force)
    from attrgraph.graph.comparison import union as unite
    from attrgraph.graph.load_graph import load_graph

    united = unite([load_graph(path) for path in graphs], min_count=min_count, align=align)
    write_graph(united, output, profile=profile, force=force)
    print_summary(united, as_json=as_json, n_top=top, files=[output])
