"""`attrgraph prune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrgraph.cli import options
from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import Saving
from attrgraph.influence.thresholds import EDGE_THRESHOLD, NODE_THRESHOLD

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@dataclass(frozen=True)
class PruneOptions:
    """How much of a graph is kept."""

    node_threshold: Annotated[
        float, options.option("SHARE", "Nodes that hold this share of influence are kept.", min=0, max=1)
    ] = NODE_THRESHOLD
    edge_threshold: Annotated[
        float, options.option("SHARE", "Edges that hold this share of theirs are kept.", min=0, max=1)
    ] = EDGE_THRESHOLD

    def prune(self, graph: "Graph") -> "Graph":
        """The pruned graph."""
        return graph.prune(self.node_threshold, self.edge_threshold)


@options.with_groups
def prune(
    graph: options.GraphFile,
    output: Annotated[Path, options.option("FILE", "Where to write the pruned graph.", "-o", "--output")],
    pruning: PruneOptions,
    saving: Saving,
    as_json: options.AsJson = False,
) -> None:
    """Keep the most influential nodes and edges of a graph.

    \b
    Example:
      attrgraph prune dallas.safetensors -o small.json --node-threshold 0.6
    """
    saving.check(output)
    from attrgraph.graph.load_graph import load_graph

    pruned = pruning.prune(load_graph(graph))
    saving.write(pruned, output)
    print_summary(pruned, as_json=as_json, files=[output])
