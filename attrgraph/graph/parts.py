"""Parts of a graph, and the scores that go with them."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Bool
from numpy import ndarray
from scipy import sparse

from attrgraph.files import plain
from attrgraph.influence.influence import bias_share, with_influence

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def part_of(graph: "Graph", nodes: Bool[ndarray, " n_nodes"], **others: Any) -> "Graph":
    """Only these nodes and the edges among them; every number is as in the whole graph, influence too.

    Args:
        graph: the whole.
        nodes: true for each that stays.
        others: parts of the whole that are to be others: `adjacency`, `metadata`.
    """
    adjacency = others.pop("adjacency", graph.adjacency)
    part = {"nodes": graph.nodes[nodes], "adjacency": sparse.csr_array(adjacency[nodes][:, nodes])}
    return graph.replace(**part, **others)


def with_scores(graph: "Graph") -> "Graph":
    """The same graph with its scores in its metadata; null if it has no influence."""
    return graph.replace(metadata={**graph.metadata, "scores": plain(graph.scores()._asdict())})


def recomputed(graph: "Graph") -> "Graph":
    """The same graph with influence and bias shares as they follow from its edges."""
    graph = graph.replace(nodes=with_influence(graph.nodes, graph.adjacency))
    checks = dict(graph.metadata.get("checks") or {})
    if checks.pop("bias_share", None) is None:
        return graph
    if (graph.nodes["kind"] == "bias").any():
        checks["bias_share"] = bias_share(graph.nodes, graph.adjacency)
    return graph.replace(metadata={**graph.metadata, "checks": checks})


def before_pruning(graph: "Graph") -> dict[str, Any]:
    """What a pruned graph records as `pruned_from`: of what it was pruned first."""
    earlier = {name: graph.metadata[name] for name in ("pruning", "scores") if name in graph.metadata}
    return dict(graph.metadata.get("pruned_from", size_of(graph) | earlier))


def size_of(graph: "Graph") -> dict[str, int]:
    """How many nodes and edges there are, the bias node's left out, as a part of the graph records it."""
    is_bias = (graph.nodes["kind"] == "bias").to_numpy()
    n_edges = graph.adjacency.nnz - int(is_bias[graph.adjacency.indices].sum())
    return {"nodes": int((~is_bias).sum()), "edges": n_edges}
