"""`attrgraph union`."""

from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import Saving


def union(
    graphs: Annotated[list[Path], options.argument("GRAPH", "Graph files of one model and its transcoders.")],
    output: Annotated[Path, options.output("Where to write the union.")],
    saving: Saving,
    min_count: Annotated[int, "N", "Keep nodes that at least this many graphs have.", {"min": 1}] = 1,
    align: options.Align = "end",
    top: options.Top = 10,
    as_json: options.AsJson = False,
) -> None:
    """Put graphs of several prompts into one, with mean weights.

    Prune them first: the union has every edge of each.

    \b
    Example:
      attrgraph union dallas.json chicago.json -o both.json --min-count 2
    """
    saving.check(output)
    united = ag.union([ag.load_graph(path) for path in graphs], min_count=min_count, align=align)
    saving.write(united, output)
    print_summary(united, as_json=as_json, n_top=top, files=[output])
