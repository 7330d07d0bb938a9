"""What nodes do to others over all paths: influence, which has no sign, and effects, which have one.

Two different things. Influence takes |edges|, divided by the sum of |edges| into their target, the bias node left out:
which share of a target's input goes back to a node. An effect takes edges with their signs, divided by the activation
of the features on the way: by how much the target would change with the whole of the source, if every feature between
responded linearly to what it reads.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph import Graph
from attrgraph.influence import node_influence, node_levels
from attrgraph.queries.selections import Nodes, edges_without_bias, mask_of


def influence(graph: Graph, target: Nodes | None, *, signed: bool) -> "pd.Series[float]":
    """Influence, or signed effect, of every node on the targets; see `Graph.influence`.

    Raises:
        AttrGraphError: unknown nodes; with `signed`, a feature on the way whose activation is not known.
    """
    weights = weights_of(graph, target)
    if signed:
        values = effects_on(graph, weights).sum(1)
    else:
        values = node_influence(edges_without_bias(graph), graph.nodes["layer"].to_numpy(), weights)
    return pd.Series(values, index=graph.nodes.index, name="effect" if signed else "influence")


def effect(
    graph: Graph, source: Nodes, target: Nodes, *, through: Nodes | None = None, avoid: Nodes | None = None
) -> float:
    """Signed effect of sources on targets over some or all paths; see `Graph.effect`.

    Raises:
        AttrGraphError: unknown nodes, or a feature on the way whose activation is not known.
    """
    sources = mask_of(graph, source)
    is_asked = None if through is None else mask_of(graph, through)
    is_shut = np.zeros(len(sources), dtype=bool) if avoid is None else mask_of(graph, avoid)
    total = effects_on(graph, weights_of(graph, target), is_asked, is_shut)
    # a path that starts at a node that is asked for passes it
    counted = total.sum(1) if is_asked is None else np.where(is_asked, total.sum(1), total[:, 1])
    return float(counted[sources & ~is_shut].sum())


def weights_of(graph: Graph, target: Nodes | None) -> Float[np.ndarray, " n_nodes"]:
    """What each target counts: 1 if it is named; by default the logits, each its probability."""
    return graph.weights if target is None else mask_of(graph, target).astype(np.float64)


def responses(graph: Graph) -> Float[np.ndarray, " n_nodes"]:
    """1 / activation of what reads and is read, features: their relative change when what they read changes by one.

    Not a number where the graph does not have the activation; 0 of all other nodes, which are never between two others.
    """
    activation: np.ndarray = graph.nodes["activation"].to_numpy()
    reads = np.diff(graph.adjacency.indptr) > 0
    is_between = reads & (np.bincount(graph.adjacency.indices, minlength=len(reads)) > 0)
    # of a smaller one the inverse is no number
    is_known = np.isfinite(activation) & (np.abs(activation) >= np.finfo(np.float64).tiny)
    out: np.ndarray = np.where(is_between, np.nan, 0.0)
    np.divide(1.0, activation, out=out, where=is_between & is_known)
    return out


def known_responses(graph: Graph) -> Float[np.ndarray, " n_nodes"]:
    """`responses`, all of which are numbers.

    Raises:
        AttrGraphError: the graph does not have a feature's activation.
    """
    out = responses(graph)
    lacking = np.isnan(out)
    if lacking.any():
        raise AttrGraphError(
            f"{int(lacking.sum())} nodes between others have no activation, the first {graph.nodes.index[lacking][0]}; "
            "signed effects divide by it. Files of some tools leave it out: trace the prompt again, or rank by share."
        )
    return out


def effects_on(
    graph: Graph,
    weights: Float[np.ndarray, " n_nodes"],
    through: Bool[np.ndarray, " n_nodes"] | None = None,
    avoid: Bool[np.ndarray, " n_nodes"] | None = None,
) -> Float[np.ndarray, "n_nodes 2"]:
    """Effect of every node on the weighted targets, over paths of one edge or more that are not shut.

    effect[s] = sum over t of (weights[t] + effect[t] / activation[t]) A[t, s], from the top level down, which is exact:
    a row's sources all lie lower.

    Args:
        weights: what a change of what each node reads counts.
        through: nodes that paths are told apart by.
        avoid: nodes that no path enters.

    Returns:
        Column 0 over the paths that meet none of `through` after their source, column 1 over the others.

    Raises:
        AttrGraphError: the graph does not have a feature's activation.
    """
    adjacency = graph.adjacency.astype(np.float64)
    levels = node_levels(adjacency, graph.nodes["layer"].to_numpy())
    response = known_responses(graph)
    total = np.zeros((len(weights), 2))
    reads = np.diff(adjacency.indptr) > 0
    for level in np.unique(levels[reads])[::-1]:
        at = np.flatnonzero(reads & (levels == level))
        passing = total[at] * response[at, None]
        passing[:, 0] += weights[at]
        if through is not None:
            met = through[at]
            passing[met] = np.stack([np.zeros(int(met.sum())), passing[met].sum(1)], 1)
        if avoid is not None:
            passing[avoid[at]] = 0
        total += sparse.csr_array(adjacency[at]).T @ passing
    return total
