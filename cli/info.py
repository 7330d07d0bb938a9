"""`attrgraph info`."""

from attrgraph.cli import options
from attrgraph.cli.summary import print_summary


def info(graph: options.GraphFile, top: options.Top = 10, as_json: options.AsJson = False) -> None:
    """Say what is in a graph file.

    \b
    Example:
      attrgraph info dallas.json
    """
    from attrgraph.graph.load_graph import load_graph

    print_summary(load_graph(graph), as_json=as_json, n_top=top)
