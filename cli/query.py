"""`attrgraph query`."""

import re
from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import check_one_form, print_csv, print_files, print_json, print_table
from attrgraph.cli.writing import Saving

_SHOWN = ["node_id", "kind", "layer", "pos", "token", "activation", "influence", "label"]


def query(
    graph: options.GraphFile,
    expression: Annotated[
        str,
        options.argument("EXPRESSION", "Filter over the node columns: comparisons, in [..], and, or, not, + - * /."),
    ],
    saving: Saving,
    names: options.NamedGraph,
    output: Annotated[Path | None, options.output("Write these nodes and the edges among them as a graph.")] = None,
    as_json: options.AsJson = False,
    as_csv: options.AsCsv = False,
) -> None:
    """List the nodes of a graph that meet a condition.

    Columns: node_id, kind, layer, pos, feature, token, activation, probability, influence, cumulative_influence, label.

    \b
    Example:
      attrgraph query dallas.json "kind == 'feature' and influence > 0.01"
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    files = [] if output is None else [output]
    saving.check(*files)
    loaded = names.load(graph)
    found = loaded.query(expression)
    nodes = found.nodes.reset_index()
    if output is not None:
        saving.write(found.subgraph(), output)
    if as_csv:
        print_csv(nodes)
    elif as_json:
        print_json({"expression": expression, "nodes": nodes.to_dict("records"), "files": files})
    else:
        print_table(nodes[_SHOWN], empty=f"(no nodes{_unknown(loaded, expression)})")
        print_files(files)


def _unknown(graph: "ag.Graph", expression: str) -> str:
    """Which quoted text of an expression no node has."""
    known = {text for name in ("token", "label", "kind") for text in graph.nodes[name]} | set(graph.nodes.index)
    texts = [a or b for a, b in re.findall(r"'([^']*)'|\"([^\"]*)\"", expression)]
    return "".join(f"; no node has {text!r}" for text in dict.fromkeys(texts) if text not in known)
