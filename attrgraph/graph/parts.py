"""Parts of a graph, and the scores that go with them."""

from typing import TYPE_CHECKING

from jaxtyping import Bool
from numpy import ndarray
from scipy import sparse

from attrgraph.files import plain

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def part_of(graph: "Graph", nodes: Bool[ndarray, " n_nodes"]) -> "Graph":
    """Only these nodes and the edges among them; every number is as in the whole graph, influence too."""
    adjacency = sparse.csr_array(graph.adjacency[nodes][:, nodes])
    return graph.replace(nodes=graph.nodes[nodes], adjacency=adjacency)


def with_scores(graph: "Graph") -> "Graph":
    """The same graph with its scores in its metadata; null if it has no influence."""
    return graph.replace(metadata={**graph.metadata, "scores": plain(graph.scores()._asdict())})


def size_of(graph: "Graph") -> dict[str, int]:
    """How many nodes and edges there are, the bias node's left out, as a part of the graph records it."""
    inner = graph.without_bias()
    return {"nodes": len(inner.nodes), "edges": int(inner.adjacency.nnz)}
