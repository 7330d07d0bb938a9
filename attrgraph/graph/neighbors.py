"""What reads what: nodes next to, before and after others."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from attrgraph.errors import checked, share, whole_number
from attrgraph.graph.selections import Nodes, Selection, edges_without_bias, mask_of
from attrgraph.influence.influence import node_levels, row_shares

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@checked
def predecessors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that lead to these by one edge, the bias node among them."""
    return Selection(graph, reached(graph.adjacency, mask_of(graph, nodes), hops=1))


@checked
def successors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that these lead to by one edge."""
    return Selection(graph, reached(graph.adjacency.T, mask_of(graph, nodes), hops=1))


@checked
def ancestors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that lead to these by one edge or more; a given node only if it is an ancestor of another given one."""
    return _allreached(graph, graph.adjacency, nodes)


@checked
def descendants(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that these lead to by one edge or more; a given node only if another given one leads to it."""
    return _allreached(graph, graph.adjacency.T, nodes)


@checked
def neighborhood(graph: "Graph", nodes: Nodes, hops: int = 1, *, min_share: float = 0.0) -> Selection:
    """These nodes and all others within `hops` edges, up or down, of at least `min_share` of their target's |input|.

    |input| is the sum of |edges| into the target, the bias node left out, which is never a neighbor.
    """
    hops, min_share = whole_number("hops", hops, least=0), share("min_share", min_share)
    shares = row_shares(edges_without_bias(graph))
    shares.data[shares.data < min_share] = 0
    shares.eliminate_zeros()
    near = mask_of(graph, nodes)
    return Selection(graph, near | reached(shares + shares.T, near, hops))


def _allreached(graph: "Graph", edges: sparse.csr_array | sparse.csc_array, nodes: Nodes) -> Selection:
    # refuses cycles, in which all nodes are their own ancestors
    node_levels(graph.adjacency, graph.nodes["layer"].to_numpy())
    return Selection(graph, reached(edges, mask_of(graph, nodes)))


def reached(edges: sparse.csr_array | sparse.csc_array, rows: np.ndarray, hops: int | None = None) -> np.ndarray:
    """The columns that entries lead to from some of the rows, in one hop or more, but in `hops` at most."""
    edges = sparse.csr_array(edges)
    reached, latest = np.zeros(len(rows), dtype=bool), rows
    for _ in range(len(rows) if hops is None else hops):
        found = np.zeros(len(rows), dtype=bool)
        found[edges[np.flatnonzero(latest)].indices] = True
        latest = found & ~reached
        if not latest.any():
            break
        reached |= latest
    return reached
