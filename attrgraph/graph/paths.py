"""The strongest paths of a graph as a table."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import AttrGraphError, checked, whole_number
from attrgraph.graph.best_paths import Ranked, best_paths, best_signed_paths
from attrgraph.graph.effects import known_responses, responses, weights_of
from attrgraph.graph.selections import Nodes, edges_without_bias, mask_of
from attrgraph.influence.influence import node_influence, node_levels, row_shares
from attrgraph.schema import ERROR_KINDS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

_MOST_PATHS = 1_000_000
RANKINGS = ("share", "abs", "positive", "negative")


@checked
def paths(
    graph: "Graph", source: Nodes | None = None, target: Nodes | None = None, *, k: int = 10, by: str = "share"
) -> pd.DataFrame:
    """The k strongest paths, exactly, however many there are; the bias node starts none.

    Args:
        source: where paths start; by default embeddings and errors.
        target: where they end, each counting 1; by default the logits, each counting its probability.
        k: at most this many paths.
        by: `share`; `abs`, the size of the weight; `positive`, the weights furthest above 0, and `negative`, those
            furthest below, where only paths of that sign are listed.

    Returns:
        A row a path, the best first: `path` (ids, source first), `labels`, `weight` (its term of `effect`, times
        what its target counts; not a number if an activation on it is missing), `share` (product of its edges'
        shares of their targets' |input|, times what its target counts: its term of `influence`) and `coverage`
        (share of this path and those before it in that of all paths from the sources to the targets).

    Raises:
        AttrGraphError: unknown nodes or ranking; other than by share, features on the way whose activation is missing.
    """
    k = whole_number("k, at least one path,", k, least=1)
    if k > _MOST_PATHS:
        raise AttrGraphError(f"k is {k:.3g}; expected at most {_MOST_PATHS:,} paths, which take a minute.")
    if by not in RANKINGS:
        raise AttrGraphError(f"by={by!r}, k={k}; expected one of {', '.join(RANKINGS)}, and at least one path.")
    edges, layers = edges_without_bias(graph), graph.nodes["layer"].to_numpy()
    levels = node_levels(edges, layers)
    shares = row_shares(edges)
    starts, ends = sources_of(graph, source).astype(np.float64), weights_of(graph, target)
    if by == "share":
        found = best_paths(shares, levels, starts=starts, ends=ends, passing=np.ones(len(ends)), k=k)
    elif by == "abs":
        passing = np.abs(known_responses(graph, edges, starts > 0, ends > 0))
        found = best_paths(abs(edges), levels, starts=starts, ends=ends, passing=passing, k=k)
    else:
        passing, is_negative = known_responses(graph, edges, starts > 0, ends > 0), by == "negative"
        found = best_signed_paths(edges, levels, starts=starts, ends=ends, passing=passing, k=k, negative=is_negative)
    total = float(node_influence(edges, layers, ends)[starts > 0].sum())
    return _table(graph, found, edges, shares, ends, total)


def sources_of(graph: "Graph", source: Nodes | None) -> np.ndarray:
    """[n_nodes] where paths start: at the nodes that are named, by default at embeddings and errors."""
    if source is None:
        return np.isin(graph.nodes["kind"].to_numpy(dtype=object), ("embedding", *ERROR_KINDS))
    return mask_of(graph, source)


def _table(
    graph: "Graph",
    found: list[Ranked],
    edges: sparse.csr_array,
    shares: sparse.csr_array,
    ends: np.ndarray,
    total: float,
) -> pd.DataFrame:
    ids, labels = graph.nodes.index.to_numpy(dtype=object), graph.nodes["label"].to_numpy(dtype=object)
    named = np.where(labels == "", ids, labels)
    response = responses(graph)
    every = [rows for _, rows in found]
    weight, share = _products(edges, every, response, ends), _products(shares, every, np.ones(len(ends)), ends)
    return pd.DataFrame(
        {
            "path": pd.Series([tuple(str(ids[row]) for row in rows) for _, rows in found], dtype=object),
            "labels": [" → ".join(str(named[row]) for row in rows) for _, rows in found],
            "weight": weight,
            "share": share,
            "coverage": np.cumsum(share) / total if total > 0 else share,
        }
    )


def _products(
    matrix: sparse.csr_array, paths: list[tuple[int, ...]], passing: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Of each path: of its edges, each with the factor of its target, which is another one for the last."""
    if not paths:
        return np.zeros(0)
    sources, targets = ([row for path in paths for row in path[some]] for some in (slice(-1), slice(1, None)))
    lengths = np.array([len(path) - 1 for path in paths])
    is_last = np.zeros(lengths.sum(), dtype=bool)
    is_last[lengths.cumsum() - 1] = True
    # edge by edge: all edges, or all factors, may have a product that is no number
    terms = np.asarray(matrix[targets, sources]).reshape(-1) * np.where(is_last, ends[targets], passing[targets])
    return np.multiply.reduceat(terms, lengths.cumsum() - lengths)
