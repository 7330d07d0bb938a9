"""`attrgraph union`."""

from pathlib import Path
from typing import Annotated

from attrgraph.cli import options
from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import Saving


@options.with_groups
def union(
    graphs: Annotated[list[Path], options.argument("GRAPH", "Graph files of one model and its transcoders.")],
    output: Annotated[Path, options.option("FILE", "Where to write the union.", "-o", "--output")],
    saving: Saving,
    min_count: Annotated[int, options.option("N", "Keep nodes that at least this many graphs have.", min=1)] = 1,
    align: Annotated[str, options.option("WAY", "Positions are counted from the end or from the start.")] = "end",
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
    from attrgraph.graph.comparison import union as unite
    from attrgraph.graph.load_graph import load_graph

    united = unite([load_graph(path) for path in graphs], min_count=min_count, align=align)
    saving.write(united, output)
    print_summary(united, as_json=as_json, n_top=top, files=[output])
