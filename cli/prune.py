"""`attrgraph prune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.summary import print_summary
from attrgraph.cli.writing import Saving
from attrgraph.influence.thresholds import EDGE_THRESHOLD, NODE_THRESHOLD


@dataclass(frozen=True)
class PruneOptions:
    """How much of a graph is kept."""

    node_threshold: Annotated[float, options.share("Nodes that hold this share of influence are kept.")] = (
        NODE_THRESHOLD
    )
    edge_threshold: Annotated[float, options.share("Edges that hold this share of theirs are kept.")] = EDGE_THRESHOLD

    def prune(self, graph: "ag.Graph") -> "ag.Graph":
        """The pruned graph."""
        return graph.prune(self.node_threshold, self.edge_threshold)


def prune(
    graph: options.GraphFile,
    output: Annotated[Path, options.output("Where to write the pruned graph.")],
    pruning: PruneOptions,
    names: options.NamedGraph,
    saving: Saving,
    as_json: options.AsJson = False,
) -> None:
    """Keep the most influential nodes and edges of a graph.

    \b
    Example:
      attrgraph prune dallas.safetensors -o small.json --node-threshold 0.6
    """
    saving.check(output)
    pruned = names.load(graph, pruning.prune(ag.load_graph(graph)))
    saving.write(pruned, output)
    print_summary(pruned, as_json=as_json, files=[output])
