"""How much of the answer a graph explains, and in how many steps.

Source: Ameisen et al. 2025, "Circuit Tracing", section "Evaluating Attribution Graphs",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.influence.influence import logit_weights, node_influence, node_levels, row_shares, rows_by_level
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS


class Scores(NamedTuple):
    """How much of the answer a graph explains; both are 1 if no error node has any effect."""

    replacement: float  # influence of embeddings over that of embeddings and errors
    completeness: float  # influence-weighted share of nodes' input that does not come from errors


def scores(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> Scores:
    """Replacement and completeness score; 1 if no path comes from an error, nan if there is no influence.

    Args:
        nodes: the table of a graph without a bias node.
        adjacency: its edges.
    """
    layers, kinds, weights = nodes["layer"].to_numpy(), nodes["kind"].to_numpy(), logit_weights(nodes)
    influence = node_influence(adjacency, layers, weights)
    is_error = np.isin(kinds, ERROR_KINDS)
    from_tokens, from_errors = influence[kinds == "embedding"].sum(), influence[is_error].sum()
    flow = influence + weights
    sizes = abs(adjacency).astype(np.float64)
    inputs = sizes @ np.ones(len(kinds))
    error_share = np.divide(sizes @ is_error.astype(np.float64), inputs, out=np.zeros(len(kinds)), where=inputs > 0)
    with np.errstate(invalid="ignore"):
        return Scores(
            float(np.divide(from_tokens, from_tokens + from_errors)),
            float(np.divide(((1 - error_share) * flow).sum(), flow.sum())),
        )


def mean_hops(nodes: pd.DataFrame, adjacency: sparse.csr_array) -> float:
    """The mean number of features on a path from an input (token or error) to the answer.

    A path is drawn from its end: a target by its weight, then again and again a source by its share of |input|, until
    a node without inputs is reached. `influence` is how often a walk comes by a node, in units of weight. Walks that
    end at a feature or a target that reads nothing do not begin at an input, and do not count:

        mean = sum over features f of influence[f] reach[f] / sum over tokens and errors i of influence[i]
        reach[t] = sum over s of share[t, s] reach[s], 1 for tokens and errors, 0 for other nodes without inputs

    with `reach` the probability that a walk from a node ends at a token or an error. If every walk does, this is the
    influence of all features over the sum of the weights.

    Args:
        nodes: the table of a graph without a bias node.
        adjacency: its edges.

    Returns:
        0 if the answer reads inputs only, 1 if there is one feature between; nan if no path from an input leads to a
        target with a weight.
    """
    layers, kinds, weights = nodes["layer"].to_numpy(), nodes["kind"].to_numpy(), logit_weights(nodes)
    influence = node_influence(adjacency, layers, weights)
    is_input = np.isin(kinds, ("embedding", *ERROR_KINDS))
    reach = is_input.astype(np.float64)
    for rows, shares in rows_by_level(row_shares(adjacency), node_levels(adjacency, layers)):
        reach[rows] = shares @ reach
    is_feature = np.isin(kinds, FEATURE_KINDS)
    with np.errstate(invalid="ignore"):
        return float(np.divide(influence[is_feature] @ reach[is_feature], influence[is_input].sum()))
