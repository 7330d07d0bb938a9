"""Which nodes and edges hold most of the influence.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Graph Pruning",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from attrgraph.influence.influence import logit_weights, node_influence, row_shares, scale_rows
from attrgraph.schema import FEATURE_KINDS

# relative difference below which two scores are taken as equal; sums here have up to 1e7 float64 terms
_ROUNDING = 1e-9


class Kept(NamedTuple):
    """What pruning keeps."""

    nodes: Bool[np.ndarray, " n_nodes"]
    adjacency: sparse.csr_array  # of all nodes, with only the kept edges


def smallest_kept(scores: Float[np.ndarray, " n"], threshold: float) -> float:
    """The least score in the smallest set of highest scores that holds `threshold` of their sum.

    Lowered by 1e-9 of its value, so that scores that differ by rounding only are kept or dropped together: both edges
    of a feature with one input and one output have the same score. A share that misses the threshold by rounding only
    holds it."""
    if not len(scores) or scores.sum() <= 0:
        return 0.0
    descending = np.sort(scores[scores > 0])[::-1]
    if threshold >= 1:
        return float(descending[-1])
    share = np.cumsum(descending) / descending.sum()
    last = min(int(np.searchsorted(share, threshold * (1 - _ROUNDING))), len(descending) - 1)
    return float(descending[last]) * (1 - _ROUNDING)


def prune(nodes: pd.DataFrame, adjacency: sparse.csr_array, *, node_threshold: float, edge_threshold: float) -> Kept:
    """Keep the nodes that hold `node_threshold` of influence and then the edges that hold `edge_threshold` of theirs.

    An edge's influence is its share of its target's input times the influence (plus weight) of the target, on the
    kept nodes. Then features without an input or an output, and errors without an output, are dropped until none is
    left. Embeddings and logits always stay.

    Args:
        nodes: the table of a graph without a bias node.
        adjacency: its edges.
        node_threshold, edge_threshold: shares from 0 to 1.
    """
    layers, kinds, weights = nodes["layer"].to_numpy(), nodes["kind"].to_numpy(), logit_weights(nodes)
    influence = node_influence(adjacency, layers, weights)
    always = np.isin(kinds, ("embedding", "logit"))
    stays = (influence >= smallest_kept(influence, node_threshold)) | always

    kept = _restrict(adjacency, stays)
    edge_scores = scale_rows(row_shares(kept), node_influence(kept, layers, weights) + weights).data
    kept.data[edge_scores < smallest_kept(edge_scores, edge_threshold)] = 0
    kept.eliminate_zeros()

    is_feature = np.isin(kinds, FEATURE_KINDS)
    while True:
        has_input = np.diff(kept.indptr) > 0
        has_output = np.bincount(kept.indices, minlength=len(nodes)) > 0
        remaining = stays & (always | (has_output & (has_input | ~is_feature)))
        if (remaining == stays).all():
            return Kept(stays, kept)
        stays = remaining
        kept = _restrict(kept, stays)


def _restrict(adjacency: sparse.csr_array, nodes: Bool[np.ndarray, " n_nodes"]) -> sparse.csr_array:
    """The same matrix with edges from and to other nodes removed."""
    kept = adjacency.copy()
    targets = np.repeat(np.arange(len(nodes)), np.diff(kept.indptr))
    kept.data[~(nodes[targets] & nodes[kept.indices])] = 0
    kept.eliminate_zeros()
    return kept
