"""What nodes do to others over all paths: influence, which has no sign, and effects, which have one.

Two different things. Influence takes |edges|, divided by the sum of |edges| into their target, the bias node left out:
which share of a target's input goes back to a node. An effect takes edges with their signs, divided by the activation
of the features on the way: by how much the target would change with the whole of the source, if every feature between
responded linearly to what it reads.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from attrgraph.errors import AttrGraphError, ResultError, checked
from attrgraph.graph.neighbors import reached
from attrgraph.graph.selections import Nodes, edges_without_bias, mask_of
from attrgraph.influence.influence import node_influence, node_levels, rows_by_level, scale_rows

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@checked
def influence(graph: "Graph", target: Nodes | None = None, *, signed: bool = False) -> "pd.Series[float]":
    """Every node's influence on targets over all paths, or its signed total effect on them.

    influence = w (B + B^2 + ...), with B = |A| without the bias node, each row divided by its sum: which share of
    the targets' input goes back to a node. It has no sign, and every node's |input| is the denominator.

    With `signed`: effect[s] = sum over paths s, m_1, ..., m_k, t of w[t] A[t, m_k] / a[m_k] ... A[m_1, s], where
    a is the activation: by how much the targets would change with the whole of s if features responded linearly to
    what they read. It is in the targets' units, and the bias node has one too.

    Args:
        target: whose w is 1; by default the logits, with their probabilities for w: then the influence of a graph
            as traced is its column `influence`, and the effect is on the mean logit.

    Raises:
        AttrGraphError: unknown nodes; with `signed`, causes of the target whose activation the file does not have.
        ResultError: an effect is no finite number.
    """
    weights = weights_of(graph, target)
    if signed:
        values = _finite(effects_on(graph, weights).sum(1))
    else:
        values = node_influence(edges_without_bias(graph), graph.nodes["layer"].to_numpy(), weights)
    return pd.Series(values, index=graph.nodes.index, name="effect" if signed else "influence")


@checked
def effect(
    graph: "Graph", source: Nodes, target: Nodes, *, through: Nodes | None = None, avoid: Nodes | None = None
) -> float:
    """The exact signed effect of the source on the target over all paths between them, or over some of these.

    effect = sum over paths s, m_1, ..., m_k, t of A[t, m_k] / a[m_k] ... A[m_1, s], with a the activation: the
    change of what the target reads, in its units (of an activation or a logit), that comes with the whole of the
    source if features respond linearly. Paths have one edge or more. Time grows with edges, not with paths.

    Args:
        source, target: several nodes stand for the sum over all pairs.
        through: only paths that pass at least one of these, their first and last nodes included.
        avoid: only paths that pass none of these, their first and last nodes included.

    Raises:
        AttrGraphError: unknown nodes, or features on the way whose activation the file does not have.
        ResultError: the effect is no finite number.
    """
    sources = mask_of(graph, source)
    is_asked = None if through is None else mask_of(graph, through)
    is_shut = np.zeros(len(sources), dtype=bool) if avoid is None else mask_of(graph, avoid)
    total = effects_on(graph, weights_of(graph, target), sources & ~is_shut, is_asked, is_shut)
    # a path that starts at a node that is asked for passes it
    counted = total.sum(1) if is_asked is None else np.where(is_asked, total.sum(1), total[:, 1])
    return float(_finite(counted[sources & ~is_shut]).sum())


def weights_of(graph: "Graph", target: Nodes | None) -> Float[np.ndarray, " n_nodes"]:
    """What each target counts: 1 if it is named; by default the logits, each its probability."""
    return graph.weights if target is None else mask_of(graph, target).astype(np.float64)


def responses(graph: "Graph") -> Float[np.ndarray, " n_nodes"]:
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


def known_responses(
    graph: "Graph",
    edges: sparse.csr_array,
    starts: Bool[np.ndarray, " n_nodes"],
    ends: Bool[np.ndarray, " n_nodes"],
    through: Bool[np.ndarray, " n_nodes"] | None = None,
) -> Float[np.ndarray, " n_nodes"]:
    """`responses`, and 0 where a missing one does not matter: of what is on no path from a start to an end.

    Args:
        graph: whose responses these are.
        edges: of paths.
        starts, ends: of paths.
        through: only paths that meet one of these count.

    Raises:
        AttrGraphError: the graph does not have the activation of a feature that is on such a path.
    """
    out = responses(graph)
    lacking = np.isnan(out)
    if not lacking.any():
        return out
    after, before = reached(edges.T, starts), reached(edges, ends)
    matters = lacking & after & before
    if through is not None:  # met before the node, in it or after it
        met = through & (after | starts), through & (before | ends)
        matters &= met[0] | reached(edges.T, met[0]) | reached(edges, met[1])
    if matters.any():
        raise AttrGraphError(
            f"{int(matters.sum())} nodes between others have no activation, the first {graph.nodes.index[matters][0]}; "
            "signed effects divide by it. Files of some tools leave it out: trace the prompt again, or rank by share."
        )
    return np.where(lacking, 0.0, out)


def effects_on(
    graph: "Graph",
    weights: Float[np.ndarray, " n_nodes"],
    sources: Bool[np.ndarray, " n_nodes"] | None = None,
    through: Bool[np.ndarray, " n_nodes"] | None = None,
    avoid: Bool[np.ndarray, " n_nodes"] | None = None,
) -> Float[np.ndarray, "n_nodes 2"]:
    """Effect of every node on the weighted targets, over paths of one edge or more that are not shut.

    effect[s] = sum over t of (weights[t] + effect[t] / activation[t]) A[t, s], from the top level down, which is exact:
    a row's sources all lie lower.

    Args:
        weights: what a change of what each node reads counts.
        sources: nodes whose effect is asked for; by default all. What only others need may be missing.
        through: nodes that paths are told apart by.
        avoid: nodes that no path enters.

    Returns:
        Column 0 over the paths that meet none of `through` after their source, column 1 over the others.

    Raises:
        AttrGraphError: the graph does not have the activation of a feature on the way.
    """
    adjacency = graph.adjacency.astype(np.float64)
    levels = node_levels(adjacency, graph.nodes["layer"].to_numpy())
    starts, open_ = np.ones_like(levels, dtype=bool) if sources is None else sources, adjacency
    if avoid is not None:  # no path enters these
        open_ = scale_rows(adjacency, (~avoid).astype(np.float64))
        open_.eliminate_zeros()
    response = known_responses(graph, open_, starts, weights != 0, through)
    total = np.zeros((len(weights), 2))
    with np.errstate(over="ignore", invalid="ignore"):  # who asks for such a number is told
        for at, block in rows_by_level(adjacency, levels, from_top=True):
            passing = total[at] * response[at, None]
            passing[:, 0] += weights[at]
            if through is not None:
                met = through[at]
                passing[met] = np.stack([np.zeros(int(met.sum())), passing[met].sum(1)], 1)
            if avoid is not None:
                passing[avoid[at]] = 0
            total += block.T @ passing
    return total


def _finite(effects: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    wrong = effects[~np.isfinite(effects)]
    if len(wrong):
        raise ResultError(f"an effect is {wrong[0]}: activations on the way are too small to divide by.")
    return effects
