"""`attrgraph effect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.results import print_json

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def effect(
    graph: Annotated[Path, typer.Argument(help="A graph file: .safetensors or .json.")],
    source: Annotated[str, typer.Argument(help="A node id.")],
    target: Annotated[str, typer.Argument(help="A node id.")],
    through: Annotated[
        list[str] | None, typer.Option(help="Only paths that pass this node; repeated: at least one of these.")
    ] = None,
    avoid: Annotated[list[str] | None, typer.Option(help="Only paths that do not pass this node; may repeat.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what one node does to another over all paths, with its sign.

    Example: attrgraph effect dallas.safetensors E_145_5 5_45_8 --avoid 0_-1_5
    """
    from attrgraph.graph.load_graph import load_graph

    loaded = load_graph(graph)
    value = loaded.effect(source, target, through=through or None, avoid=avoid or None)
    if as_json:
        limits = {"through": through or [], "avoid": avoid or []}
        print_json({"source": source, "target": target, **limits, "effect": value})
        return
    print(f"effect    {_node(loaded, source)} -> {_node(loaded, target)}: {value:+.4g}")
    for name, nodes in (("through", through), ("avoiding", avoid)):
        if nodes:
            print(f"{name:<10}{', '.join(_node(loaded, node) for node in nodes)}")


def _node(graph: "Graph", name: str) -> str:
    label = graph.nodes.loc[name, "label"]
    return f"{name} ({label})" if label else name
