"""What reads what: nodes next to, before and after others."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph.selections import Nodes, Selection, edges_without_bias, mask_of
from attrgraph.influence.influence import node_levels, row_shares

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def predecessors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that lead to these by one edge, the bias node among them."""
    return Selection(graph, _one_step(graph.adjacency, mask_of(graph, nodes)))


def successors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that these lead to by one edge."""
    return Selection(graph, _one_step(sparse.csr_array(graph.adjacency.T), mask_of(graph, nodes)))


def ancestors(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that lead to these by one edge or more; one of these only if it leads to another."""
    return Selection(graph, _all_steps(graph, graph.adjacency, mask_of(graph, nodes), from_top=True))


def descendants(graph: "Graph", nodes: Nodes) -> Selection:
    """The nodes that these lead to by one edge or more; one of these only if another leads to it."""
    turned = sparse.csr_array(graph.adjacency.T)
    return Selection(graph, _all_steps(graph, turned, mask_of(graph, nodes), from_top=False))


def neighborhood(graph: "Graph", nodes: Nodes, hops: int = 1, *, min_share: float = 0.0) -> Selection:
    """These nodes and all others within `hops` edges, up or down, of at least `min_share` of their target's |input|.

    |input| is the sum of |edges| into the target, the bias node left out, which is never a neighbor.
    """
    if hops < 0 or not 0 <= min_share <= 1:
        raise AttrGraphError(f"hops is {hops} and min_share {min_share}; expected hops >= 0 and a share from 0 to 1.")
    shares = row_shares(edges_without_bias(graph))
    shares.data[shares.data < min_share] = 0
    shares.eliminate_zeros()
    near = mask_of(graph, nodes)
    turned = sparse.csr_array(shares.T)
    for _ in range(hops):
        wider = near | _one_step(shares, near) | _one_step(turned, near)
        if (wider == near).all():
            break
        near = wider
    return Selection(graph, near)


def _one_step(edges: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """The columns of entries in some of the rows."""
    reached = np.zeros(len(rows), dtype=bool)
    reached[edges[np.flatnonzero(rows)].indices] = True
    return reached


def _all_steps(graph: "Graph", edges: sparse.csr_array, rows: np.ndarray, *, from_top: bool) -> np.ndarray:
    """`_one_step` again and again: level by level, so that each edge is looked at once."""
    levels = node_levels(graph.adjacency, graph.nodes["layer"].to_numpy())
    reached = np.zeros(len(rows), dtype=bool)
    upward = np.unique(levels)
    for level in upward[::-1] if from_top else upward:
        reached |= _one_step(edges, (rows | reached) & (levels == level))
    return reached
