"""`attrgraph render`."""

from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_text
from attrgraph.cli.writing import check_picture


def render(
    graph: options.GraphFile,
    output: Annotated[Path, options.output("One of .svg .png .pdf .dot.")],
    names: options.NamedGraph,
    node_threshold: Annotated[float | None, options.share("Prune first: share of influence to keep.")] = None,
    edge_threshold: Annotated[float | None, options.share("Prune first: share of edge influence to keep.")] = None,
    min_share: Annotated[float, options.share("Leave out edges that are less of their target's input.")] = 0.0,
    group: Annotated[
        list[str] | None, "NAME=NODE,...", 'Draw these nodes as one box: "texas=1_815_5,1_1023_5".'
    ] = None,
    caption: Annotated[bool, options.flag("Say below what was asked, what was left out, and the scales.")] = True,
    force: options.Force = False,
) -> None:
    """Draw a graph: tokens below, layers upward, the answer on top.

    \b
    Example:
      attrgraph render dallas.safetensors -o dallas.svg --min-share 0.02
    """
    groups = _groups(group or [])
    check_picture(output, force=force)
    thresholds = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
    asked = {name: value for name, value in thresholds.items() if value is not None}
    loaded = ag.load_graph(graph)
    pruned = names.load(graph, loaded.prune(**asked) if asked else loaded)
    ag.draw_graph(pruned, output, groups=groups, min_share=min_share, caption=caption, overwrite=force)
    print_text(str(output))


def _groups(texts: list[str]) -> dict[str, list[str]]:
    out = dict[str, list[str]]()
    for text in texts:
        name, _, members = (part.strip() for part in text.partition("="))
        ids = [member.strip() for member in members.split(",") if member.strip()]
        if not name or not ids:
            raise typer.BadParameter(f"--group {text!r} names no nodes; write it as NAME=ID,ID.")
        if name in out:
            raise typer.BadParameter(f"--group {name!r} is given twice; name all its nodes at once.")
        out[name] = ids
    return out
