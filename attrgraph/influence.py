"""Influence of nodes on the logits, the pruning that follows from it, and the two scores.

Everything here takes rows of a graph's adjacency without its bias node: dense or sparse, `[target, source]`.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Graph Pruning" and section "Evaluating Attribution Graphs",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError

# attention features and errors are in other tools' graphs; they take part like those of MLPs
FEATURE_KINDS = ("feature", "attention feature")
ERROR_KINDS = ("error", "attention error")
# the longest path through a graph that has same-layer edges; the deepest models have 126 layers, two steps each
_MAX_LEVELS = 1000
# relative difference below which two scores are taken as equal; sums here have up to 1e7 float64 terms
_ROUNDING = 1e-9


class Scores(NamedTuple):
    """How much of the answer a graph explains; both are 1 if no error node has any effect."""

    replacement: float  # influence of embeddings over that of embeddings and errors
    completeness: float  # influence-weighted share of nodes' input that does not come from errors


class Kept(NamedTuple):
    """What pruning keeps."""

    nodes: Bool[np.ndarray, " n_nodes"]
    adjacency: sparse.csr_array  # of all nodes, with only the kept edges


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


def smallest_kept(scores: Float[np.ndarray, " n"], threshold: float) -> float:
    """The least score in the smallest set of highest scores that holds `threshold` of their sum.

    A hair less, so that scores which differ by rounding only are kept or dropped together: both edges of a feature with
    one input and one output have the same score. A share that misses the threshold by rounding only holds it.
    """
    if not len(scores) or scores.sum() <= 0:
        return 0.0
    descending = np.sort(scores[scores > 0])[::-1]
    if threshold >= 1:
        return float(descending[-1])
    share = np.cumsum(descending) / descending.sum()
    return float(descending[min(int(np.searchsorted(share, threshold * (1 - _ROUNDING))), len(descending) - 1)]) * (
        1 - _ROUNDING
    )


def prune(
    adjacency: sparse.csr_array,
    layers: Int[np.ndarray, " n_nodes"],
    kinds: np.ndarray,
    weights: Float[np.ndarray, " n_nodes"],
    *,
    node_threshold: float,
    edge_threshold: float,
) -> Kept:
    """Keep the nodes that hold `node_threshold` of influence and then the edges that hold `edge_threshold` of theirs.

    An edge's influence is its share of its target's input times the influence (plus weight) of the target, on the
    kept nodes. Then features without an input or an output, and errors without an output, are dropped until none is
    left. Embeddings and logits always stay.
    """
    influence = node_influence(adjacency, layers, weights)
    always = np.isin(kinds, ("embedding", "logit"))
    nodes = (influence >= smallest_kept(influence, node_threshold)) | always

    kept = _restrict(adjacency, nodes)
    shares = row_shares(kept)
    flow = node_influence(kept, layers, weights) + weights
    shares.data *= np.repeat(flow, np.diff(shares.indptr))
    edge_scores = shares.data
    kept.data[edge_scores < smallest_kept(edge_scores, edge_threshold)] = 0
    kept.eliminate_zeros()

    is_feature = np.isin(kinds, FEATURE_KINDS)
    while True:
        has_input = np.diff(kept.indptr) > 0
        has_output = np.bincount(kept.indices, minlength=len(nodes)) > 0
        remaining = nodes & (always | (has_output & (has_input | ~is_feature)))
        if (remaining == nodes).all():
            return Kept(nodes, kept)
        nodes = remaining
        kept = _restrict(kept, nodes)


def scores(
    adjacency: sparse.csr_array,
    layers: Int[np.ndarray, " n_nodes"],
    kinds: np.ndarray,
    weights: Float[np.ndarray, " n_nodes"],
) -> Scores:
    """Replacement and completeness score; 1 if nothing but errors-free paths exist, nan if there is no influence."""
    influence = node_influence(adjacency, layers, weights)
    is_error = np.isin(kinds, ERROR_KINDS)
    from_tokens, from_errors = influence[kinds == "embedding"].sum(), influence[is_error].sum()
    flow = influence + weights
    # only read, so that it can share the places of its entries
    places = adjacency.indices, adjacency.indptr
    sizes = sparse.csr_array((np.abs(adjacency.data, dtype=np.float64), *places), shape=adjacency.shape)
    inputs = sizes @ np.ones(len(kinds))
    error_share = np.divide(sizes @ is_error.astype(np.float64), inputs, out=np.zeros(len(kinds)), where=inputs > 0)
    with np.errstate(invalid="ignore"):
        return Scores(
            float(np.divide(from_tokens, from_tokens + from_errors)),
            float(np.divide(((1 - error_share) * flow).sum(), flow.sum())),
        )


def mean_hops(
    adjacency: sparse.csr_array,
    layers: Int[np.ndarray, " n_nodes"],
    kinds: np.ndarray,
    weights: Float[np.ndarray, " n_nodes"],
) -> float:
    """The mean number of features on a path from an input (token or error) to the answer.

    A path is drawn from its end: a target by its weight, then again and again a source by its share of |input|, until
    a node without inputs is reached. `influence` is how often a walk comes by a node, in units of weight. Walks that
    end at a feature or a target that reads nothing do not begin at an input, and do not count:

        mean = sum over features f of influence[f] reach[f] / sum over tokens and errors i of influence[i]
        reach[t] = sum over s of share[t, s] reach[s], 1 for tokens and errors, 0 for other nodes without inputs

    with `reach` the probability that a walk from a node ends at a token or an error. If every walk does, this is the
    influence of all features over the sum of the weights.

    Returns:
        0 if the answer reads inputs only, 1 if there is one feature between; nan if no path from an input leads to a
        target with a weight.
    """
    influence = node_influence(adjacency, layers, weights)
    is_input = np.isin(kinds, ("embedding", *ERROR_KINDS))
    shares, reach = row_shares(adjacency), is_input.astype(np.float64)
    reads, levels = np.diff(adjacency.indptr) > 0, node_levels(adjacency, layers)
    for level in np.unique(levels[reads]):  # from the bottom up: sources are done before what reads them
        at = np.flatnonzero(reads & (levels == level))
        reach[at] = shares[at] @ reach
    is_feature = np.isin(kinds, FEATURE_KINDS)
    with np.errstate(invalid="ignore"):
        return float(np.divide(influence[is_feature] @ reach[is_feature], influence[is_input].sum()))


def _restrict(adjacency: sparse.csr_array, nodes: Bool[np.ndarray, " n_nodes"]) -> sparse.csr_array:
    """The same matrix with edges from and to other nodes removed."""
    kept = adjacency.copy()
    targets = np.repeat(np.arange(len(nodes)), np.diff(kept.indptr))
    kept.data[~(nodes[targets] & nodes[kept.indices])] = 0
    kept.eliminate_zeros()
    return kept
