"""Influence of nodes on the logits over all paths, and the shares that it is made of.

Everything here takes rows of a graph's adjacency without its bias node: dense or sparse, `[target, source]`.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Graph Pruning" and section "Evaluating Attribution Graphs",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.schema import node_table

# the longest path through a graph that has same-layer edges; the deepest models have 126 layers, two steps each
_MAX_LEVELS = 1000


def influence_of_rows(
    rows: Any,
    row_nodes: Int[np.ndarray, " n_rows"],
    row_levels: Int[np.ndarray, " n_rows"],
    weights: Float[np.ndarray, " n_nodes"],
) -> Float[np.ndarray, " n_nodes"]:
    """Total influence of every node on the weighted targets, over all paths through the given rows.

    influence = w (B + B^2 + ...), with B = |rows| and every row summing to 1 (a zero row stays zero). Rows are taken
    from the highest level down, so that one pass is exact: a row's sources all have lower levels.

    Args:
        rows: [n_rows, n_nodes] edges into some of the nodes, a numpy array or a scipy CSR array.
        row_nodes: which node each row belongs to.
        row_levels: the layer of each row's node.
        weights: of the targets; 0 elsewhere.
    """
    total = np.zeros(len(weights))
    for level in np.unique(row_levels)[::-1]:
        at = np.flatnonzero(row_levels == level)
        block = abs(rows[at]).astype(np.float64)
        sums = np.asarray(block.sum(1))
        flow = (total + weights)[row_nodes[at]]
        total += np.divide(flow, sums, out=np.zeros_like(flow), where=sums > 0) @ block
    return total


def node_influence(
    adjacency: sparse.csr_array, layers: Int[np.ndarray, " n_nodes"], weights: Float[np.ndarray, " n_nodes"]
) -> Float[np.ndarray, " n_nodes"]:
    """`influence_of_rows` for a whole graph.

    Raises:
        AttrGraphError: an edge leads to a lower layer, or edges within layers make a cycle or too long a path.
    """
    levels = node_levels(adjacency, layers)
    row_nodes = np.flatnonzero(np.diff(adjacency.indptr))
    return influence_of_rows(adjacency[row_nodes], row_nodes, levels[row_nodes], weights)


def node_levels(adjacency: sparse.csr_array, layers: Int[np.ndarray, " n_nodes"]) -> Int[np.ndarray, " n_nodes"]:
    """For each node a number above those of its sources: its layer, if every edge leads to a higher one.

    Else the length of the longest path to it: within a layer, attention features are read by the MLP's.

    Raises:
        AttrGraphError: an edge leads to a lower layer, or edges within layers make a cycle or a path of more than 1000.
    """
    reads = np.flatnonzero(np.diff(adjacency.indptr))
    # stored zeros are no edges
    below = layers[adjacency.indices]
    if not adjacency.data.all():
        below = np.where(adjacency.data != 0, below, layers.min(initial=0) - 1)
    highest = np.maximum.reduceat(below, adjacency.indptr[reads]) if len(reads) else layers[:0]
    if bool((highest < layers[reads]).all()):
        return layers
    if bool((highest > layers[reads]).any()):
        raise AttrGraphError(
            "an edge does not lead from a lower to a higher layer; influence needs a graph in layer order."
        )
    targets, sources = adjacency.nonzero()
    order = np.argsort(sources, kind="stable")
    targets, starts = targets[order], np.searchsorted(sources[order], np.arange(len(layers) + 1))
    waits_for = np.bincount(targets, minlength=len(layers))
    levels = np.zeros(len(layers), dtype=np.int64)
    ready = np.flatnonzero(waits_for == 0)
    n_done = 0
    for level in range(_MAX_LEVELS + 1):
        levels[ready] = level
        n_done += len(ready)
        if not len(ready):
            break
        reached, counts = np.unique(
            np.concatenate([targets[starts[node] : starts[node + 1]] for node in ready]), return_counts=True
        )
        waits_for[reached] -= counts
        ready = reached[waits_for[reached] == 0]
    if n_done < len(layers):
        raise AttrGraphError(
            "an edge does not lead from a lower to a higher layer, and edges within layers make a cycle or a path of "
            f"more than {_MAX_LEVELS}; influence needs a graph without cycles."
        )
    return levels


def without_zeros(adjacency: sparse.csr_array) -> sparse.csr_array:
    """The same edges, and no stored zeros among them."""
    adjacency = adjacency.copy()
    adjacency.eliminate_zeros()
    return adjacency


def row_shares(adjacency: sparse.csr_array) -> sparse.csr_array:
    """|adjacency| with every row summing to 1; a zero row stays zero."""
    shares = abs(adjacency).astype(np.float64)
    sums = np.asarray(shares.sum(1))
    shares.data /= np.repeat(np.where(sums > 0, sums, 1.0), np.diff(shares.indptr))
    return shares


def cumulative_share(influence: Float[np.ndarray, " n_nodes"]) -> Float[np.ndarray, " n_nodes"]:
    """For each node the share of all influence held by it and every node before it, the most influential first."""
    order = np.argsort(-influence, kind="stable")
    shares = np.empty_like(influence)
    total = influence.sum()
    shares[order] = np.cumsum(influence[order]) / total if total > 0 else 1.0
    return shares


def with_influence(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> pd.DataFrame:
    """The node table with `influence` and `cumulative_influence` computed from the edges; the bias node has none."""
    kept = (nodes["kind"] != "bias").to_numpy()
    weights = np.where(nodes["kind"] == "logit", nodes["probability"], 0.0).astype(np.float64)
    values = np.zeros(len(nodes))
    inner = sparse.csr_array(adjacency[kept][:, kept])
    values[kept] = node_influence(inner, nodes["layer"].to_numpy()[kept], weights[kept])
    cumulative = np.ones(len(nodes))
    cumulative[kept] = cumulative_share(values[kept])
    return node_table(nodes.assign(influence=values, cumulative_influence=cumulative))
