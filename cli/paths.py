"""`attrgraph paths`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.results import AsCsv, check_one_form, print_csv, print_json, print_table


def paths(
    graph: Annotated[Path, typer.Argument(help="A graph file: .safetensors or .json.")],
    source: Annotated[
        list[str] | None, typer.Option(help="A node id; may be repeated. Default: all embeddings and errors.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A node id; may be repeated. Default: the logits, by probability.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many paths.")] = 10,
    by: Annotated[
        str, typer.Option(help="share, abs, positive or negative: what the strongest have most of.")
    ] = "share",
    as_json: options.AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the strongest paths through a graph.

    Example: attrgraph paths dallas.json --source E_145_5 -k 5
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    from attrgraph.graph.load_graph import load_graph

    found = load_graph(graph).paths(source or None, target or None, k=k, by=by)
    if as_json:
        listed = found.assign(path=[list(ids) for ids in found["path"]])
        print_json({"by": by, "paths": listed.to_dict("records")})
    elif as_csv:
        print_csv(found.assign(path=[" ".join(ids) for ids in found["path"]]))
    else:
        print_table(found[["share", "coverage", "weight", "labels"]], empty="(no path leads there)")
