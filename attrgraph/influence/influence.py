"""Influence of nodes on the logits over all paths, and the shares that it is made of.

Everything here takes the adjacency of a graph without its bias node: sparse, `[target, source]`.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Graph Pruning" and section "Evaluating Attribution Graphs",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.schema import ERROR_KINDS, node_table

# the longest path through a graph that has same-layer edges; the deepest models have 126 layers, two steps each
_MAX_LEVELS = 1000


def node_influence(
    adjacency: sparse.csr_array, layers: Int[np.ndarray, " n_nodes"], weights: Float[np.ndarray, " n_nodes"]
) -> Float[np.ndarray, " n_nodes"]:
    """Total influence of every node on the weighted targets, over all paths.

    influence = w (B + B^2 + ...), with B = |adjacency| and every row summing to 1 (a zero row stays zero). Rows are
    taken from the highest level down, so that one pass is exact: a row's sources all have lower levels.

    Args:
        adjacency: edges, [target, source].
        layers: of nodes.
        weights: of the targets; 0 elsewhere.

    Raises:
        AttrGraphError: an edge leads to a lower layer, or edges within layers make a cycle or too long a path.
    """
    total = np.zeros(len(weights))
    for rows, edges in rows_by_level(adjacency, node_levels(adjacency, layers), from_top=True):
        sizes = abs(edges).astype(np.float64)
        sums = np.asarray(sizes.sum(1))
        flow = (total + weights)[rows]
        total += np.divide(flow, sums, out=np.zeros_like(flow), where=sums > 0) @ sizes
    return total


def node_levels(adjacency: sparse.csr_array, layers: Int[np.ndarray, " n_nodes"]) -> Int[np.ndarray, " n_nodes"]:
    """For each node a number above those of its sources: its layer, if every edge leads to a higher one.

    Else the length of the longest path to it: within a layer, attention features are read by the MLP's.

    Raises:
        AttrGraphError: an edge leads to a lower layer, or edges within layers make a cycle or a path of more than 1000.
    """
    edges = adjacency if adjacency.data.all() else without_zeros(adjacency)
    reads = np.flatnonzero(np.diff(edges.indptr))
    if not len(reads):
        return layers
    highest = np.maximum.reduceat(layers[edges.indices], edges.indptr[reads])
    if bool((highest < layers[reads]).all()):
        return layers
    if bool((highest > layers[reads]).any()):
        raise AttrGraphError(
            "an edge does not lead from a lower to a higher layer; influence needs a graph in layer order."
        )
    from scipy.sparse.csgraph import connected_components

    levels = np.zeros(len(layers), dtype=np.int64)
    # on a cycle levels would grow for as long as they may
    has_cycle = connected_components(edges, connection="strong", return_labels=False) < len(layers)
    has_cycle = has_cycle or bool(edges.diagonal().any())
    for _ in range(0 if has_cycle else _MAX_LEVELS + 1):
        longer = levels.copy()
        longer[reads] = np.maximum.reduceat(levels[edges.indices], edges.indptr[reads]) + 1
        if (longer == levels).all():
            return levels
        levels = longer
    raise AttrGraphError(
        "an edge does not lead from a lower to a higher layer, and edges within layers make a cycle or a path of "
        f"more than {_MAX_LEVELS}; influence needs a graph without cycles."
    )


def rows_by_level(
    adjacency: sparse.csr_array, levels: Int[np.ndarray, " n_nodes"], *, from_top: bool = False
) -> Iterator[tuple[Int[np.ndarray, " n_rows"], sparse.csr_array]]:
    """The nodes that have edges into them, and these edges, one level at a time.

    From the lowest level up, sources come before what reads them; from the top down, after it.
    """
    reads = np.diff(adjacency.indptr) > 0
    upward = np.unique(levels[reads])
    for level in upward[::-1] if from_top else upward:
        rows = np.flatnonzero(reads & (levels == level))
        yield rows, sparse.csr_array(adjacency[rows])


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


def scale_rows(matrix: sparse.csr_array, factors: Float[np.ndarray, " n_rows"]) -> sparse.csr_array:
    """The matrix with each row times its factor."""
    scaled = matrix.copy()
    scaled.data *= np.repeat(factors, np.diff(matrix.indptr))
    return scaled


def cumulative_share(
    influence: Float[np.ndarray, " n_nodes"], counts: Bool[np.ndarray, " n_nodes"]
) -> Float[np.ndarray, " n_nodes"]:
    """For each node that counts the share of influence held by it and all more influential ones; 1 for the others."""
    counted, shares = np.flatnonzero(counts), np.ones(len(influence))
    order = counted[np.argsort(-influence[counted], kind="stable")]
    total = influence[counted].sum()
    if total > 0:
        shares[order] = np.cumsum(influence[order]) / total
    return shares


def logit_weights(nodes: pd.DataFrame) -> Float[np.ndarray, " n_nodes"]:
    """What each node counts as a target: a logit its probability, any other node 0."""
    return np.where(nodes["kind"] == "logit", nodes["probability"], 0.0).astype(np.float64)


def bias_share(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> float:
    """Of all that the answer comes from, over all paths, the part that comes from the bias node; 0 if from nothing.

    Influence as in `node_influence`, but with the bias node among the sources of every row.
    """
    values = node_influence(adjacency, nodes["layer"].to_numpy(), logit_weights(nodes))
    begins = values * nodes["kind"].isin(("bias", "embedding", *ERROR_KINDS)).to_numpy()
    return float(begins[nodes["kind"] == "bias"].sum() / (begins.sum() or 1.0))


def with_influence(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> pd.DataFrame:
    """The node table with `influence` and `cumulative_influence` computed from the edges; the bias node has none.

    If it is there, `bias_share` is computed too: its part of the sum of |edges| into each node, 0 without edges.
    """
    kept = (nodes["kind"] != "bias").to_numpy()
    if not kept.all():
        sizes = abs(adjacency)
        from_bias, from_all = sizes @ (~kept).astype(np.float64), sizes @ np.ones(len(kept))
        shares = np.divide(from_bias, from_all, out=np.zeros(len(kept)), where=from_all > 0)
        nodes = nodes.assign(bias_share=shares)
    inner, edges = nodes[kept], sparse.csr_array(adjacency[kept][:, kept])
    values = np.zeros(len(nodes))
    values[kept] = node_influence(edges, inner["layer"].to_numpy(), logit_weights(inner))
    return node_table(nodes.assign(influence=values, cumulative_influence=cumulative_share(values, kept)))
