"""`attrgraph render`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli.options import Force
from attrgraph.cli.writing import PICTURES, check_outputs
from attrgraph.errors import GraphFileError


def render(
    graph: Annotated[Path, typer.Argument(help="A graph file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write: .svg .png .pdf .dot.")],
    node_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Prune first: share of influence to keep.")
    ] = None,
    edge_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Prune first: share of edge influence to keep.")
    ] = None,
    min_share: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out edges with less of their target's input; 0.02 is 2%.")
    ] = 0.0,
    group: Annotated[
        list[str] | None, typer.Option(help='NAME=ID,ID,...: draw these nodes as one box: "texas=1_815_5,1_1023_5".')
    ] = None,
    caption: Annotated[bool, typer.Option(help="Write below what was asked, what was left out, and scales.")] = True,
    force: Force = False,
) -> None:
    """Draw a graph: tokens at the bottom, layers upward, the answer on top.

    Example: attrgraph render dallas.safetensors -o dallas.svg --node-threshold 0.6 --min-share 0.02
    """
    groups = _groups(group or [])
    if output.suffix not in (*PICTURES, ".dot"):
        raise GraphFileError(
            f"{output}: unknown ending {output.suffix!r}; expected one of {', '.join(PICTURES)}, .dot."
        )
    check_outputs([output], profile="neuronpedia", force=force)
    from attrgraph.graph.load_graph import load_graph
    from attrgraph.viz.draw import draw_graph

    thresholds = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
    asked = {name: value for name, value in thresholds.items() if value is not None}
    loaded = load_graph(graph)
    pruned = loaded.prune(**asked) if asked else loaded
    draw_graph(pruned, output, groups=groups, min_share=min_share, caption=caption, overwrite=force)
    print(output)


def _groups(texts: list[str]) -> dict[str, list[str]]:
    out = dict[str, list[str]]()
    for text in texts:
        name, equals, members = text.partition("=")
        ids = [member.strip() for member in members.split(",") if member.strip()]
        if not equals or not name.strip() or not ids:
            raise typer.BadParameter(f"--group {text!r} names no nodes; write it as NAME=ID,ID.")
        if name.strip() in out:
            raise typer.BadParameter(f"--group {name.strip()!r} is given twice; name all its nodes at once.")
        out[name.strip()] = ids
    return out
