"""`attrgraph paths`."""

from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import check_one_form, print_csv, print_json, print_table


def paths(
    graph: options.GraphFile,
    source: Annotated[options.Nodes, "Where paths start. Repeatable. Default: all embeddings and errors."] = None,
    target: Annotated[options.Nodes, "Where paths end. Repeatable. Default: the logits, by probability."] = None,
    k: Annotated[int, "N", "How many paths.", "-k"] = 10,
    by: Annotated[str, "RANKING", "Strongest by share, abs, positive or negative weight."] = "share",
    as_json: options.AsJson = False,
    as_csv: options.AsCsv = False,
) -> None:
    """List the strongest paths through a graph.

    \b
    Example:
      attrgraph paths dallas.json --source E_145_5 -k 5
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    found = ag.load_graph(graph).paths(source or None, target or None, k=k, by=by)
    if as_json:
        listed = found.assign(path=[list(ids) for ids in found["path"]])
        print_json({"by": by, "paths": listed.to_dict("records")})
    elif as_csv:
        print_csv(found.assign(path=[" ".join(ids) for ids in found["path"]]))
    else:
        print_table(found[["share", "coverage", "weight", "labels"]], empty="(no path leads there)")
