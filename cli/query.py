"""`attrgraph query`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.results import AsCsv, check_one_form, print_csv, print_json, print_table
from attrgraph.cli.writing import check_outputs, write_graph

_SHOWN = ["node_id", "kind", "layer", "pos", "token", "activation", "influence", "label"]


def query(
    graph: Annotated[Path, typer.Argument(help="A graph file: .safetensors or .json.")],
    expression: Annotated[
        str, typer.Argument(help="What holds of the nodes: columns, comparisons, in [..], and, or, not, + - * /.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write these nodes and the edges among them as a graph.")
    ] = None,
    profile: Annotated[str, typer.Option(help="JSON: neuronpedia, circuit-tracer or anthropic.")] = "neuronpedia",
    as_json: options.AsJson = False,
    as_csv: AsCsv = False,
    force: options.Force = False,
) -> None:
    """List the nodes of a graph for which an expression holds.

    Example: attrgraph query dallas.json "kind == 'feature' and layer > 1 and influence > 0.01"
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    if output is not None:
        check_outputs([output], profile=profile, force=force)
    from attrgraph.graph.load_graph import load_graph

    found = load_graph(graph).query(expression)
    nodes = found.nodes.reset_index()
    if output is not None:
        write_graph(found.subgraph(), output, profile=profile, force=force)
    if as_csv:
        print_csv(nodes)
    elif as_json:
        files = [] if output is None else [str(output)]
        print_json({"expression": expression, "nodes": nodes.to_dict("records"), "files": files})
    else:
        print_table(nodes[_SHOWN], empty="(no nodes)")
        if output is not None:
            print(f"wrote {output}")
