"""`attrgraph render`."""

from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.output import print_text
from attrgraph.cli.writing import Saving
from attrgraph.errors import GraphFileError
from attrgraph.files import PICTURE_ENDINGS


def render(
    graph: options.GraphFile,
    output: Annotated[Path, options.option("FILE", "One of .svg .png .pdf .dot.", "-o", "--output")],
    node_threshold: Annotated[
        float | None, options.option("SHARE", "Prune first: share of influence to keep.", min=0, max=1)
    ] = None,
    edge_threshold: Annotated[
        float | None, options.option("SHARE", "Prune first: share of edge influence to keep.", min=0, max=1)
    ] = None,
    min_share: Annotated[
        float, options.option("SHARE", "Leave out edges that are less of their target's input.", min=0, max=1)
    ] = 0.0,
    group: Annotated[
        list[str] | None, options.option("NAME=NODE,...", 'Draw these nodes as one box: "texas=1_815_5,1_1023_5".')
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
    from attrgraph.graph.load_graph import load_graph
    from attrgraph.viz.draw import draw_graph

    thresholds = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
    asked = {name: value for name, value in thresholds.items() if value is not None}
    loaded = load_graph(graph)
    pruned = loaded.prune(**asked) if asked else loaded
    draw_graph(pruned, output, groups=groups, min_share=min_share, caption=caption, overwrite=force)
    print_text(str(output))


def check_picture(path: Path, *, force: bool) -> None:
    """Raise for a picture that could not be written, before any work is done."""
    if path.suffix not in PICTURE_ENDINGS:
        raise GraphFileError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(PICTURE_ENDINGS)}.")
    Saving(force=force).check(path)


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
