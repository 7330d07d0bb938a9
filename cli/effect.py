"""`attrgraph effect`."""

from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_json, print_text
from attrgraph.cli.summary import name_of


def effect(
    graph: options.GraphFile,
    source: Annotated[str, options.argument("SOURCE", "A node id.")],
    target: Annotated[str, options.argument("TARGET", "A node id.")],
    through: Annotated[options.Nodes, "Only paths through this node; repeated: through one of these at least."] = None,
    avoid: Annotated[options.Nodes, "Only paths that do not pass this node. Repeatable."] = None,
    as_json: options.AsJson = False,
) -> None:
    """Sum what one node does to another over all paths.

    The effect has a sign, and is exact.

    \b
    Example:
      attrgraph effect dallas.safetensors E_145_5 5_45_8 --avoid 0_-1_5
    """
    loaded = ag.load_graph(graph)
    value = loaded.effect(source, target, through=through or None, avoid=avoid or None)
    if as_json:
        limits = {"through": through or [], "avoid": avoid or []}
        print_json({"source": source, "target": target, **limits, "effect": value})
        return
    print_text(f"effect    {name_of(loaded, source)} -> {name_of(loaded, target)}: {value:+.4g}")
    for name, nodes in (("through", through), ("avoiding", avoid)):
        if nodes:
            print_text(f"{name:<10}{', '.join(name_of(loaded, node) for node in nodes)}")
