"""`attrgraph info`."""

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.summary import print_summary


def info(graph: options.GraphFile, top: options.Top = 10, as_json: options.AsJson = False) -> None:
    """Say what is in a graph file.

    \b
    Example:
      attrgraph info dallas.json
    """
    print_summary(ag.load_graph(graph), as_json=as_json, n_top=top)
