"""A graph in numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from attrgraph.influence.influence import node_levels
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS, KINDS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def stats(graph: "Graph") -> dict[str, Any]:
    """The graph in numbers that JSON can hold, the bias node left out.

    `nodes` by kind, `edges`, `density` (edges between layers over pairs of a feature or logit and a node in a lower
    one), `layers`, `positions`, `depth` (edges of the longest path), `paths` (from embeddings and errors to logits:
    exact, often beyond 10^20), `positive_share` (of the sum of |edges|), `in_degree` of features and logits and
    `out_degree` of all but logits (min, median, mean, max), `scores`, `mean_hops`.
    """
    graph = graph.without_bias()
    adjacency, kinds = graph.adjacency, graph.nodes["kind"].to_numpy(dtype=object)
    layers = graph.nodes["layer"].to_numpy()
    levels = node_levels(adjacency, layers)
    can_read = np.isin(kinds, (*FEATURE_KINDS, "logit", "unknown"))
    is_source = kinds != "logit"
    n_lower = np.searchsorted(np.sort(layers[is_source]), layers[can_read])
    n_possible, n_edges = int(n_lower.sum()), int(adjacency.nnz)
    leads_up = layers[adjacency.indices] < np.repeat(layers, np.diff(adjacency.indptr))
    sizes = np.abs(adjacency.data.astype(np.float64))
    in_degree = np.diff(adjacency.indptr)
    out_degree = np.bincount(adjacency.indices, minlength=len(kinds))
    return {
        "nodes": {kind: int((kinds == kind).sum()) for kind in KINDS if (kinds == kind).any()},
        "edges": n_edges,
        "density": int(leads_up.sum()) / n_possible if n_possible else 0.0,
        "layers": graph.n_layers,
        "positions": len(graph.prompt_tokens),
        "depth": _depth(adjacency, levels),
        "paths": _count_paths(adjacency, levels, kinds),
        "positive_share": float(sizes[adjacency.data > 0].sum() / sizes.sum()) if n_edges else float("nan"),
        "in_degree": _summary(in_degree[can_read]),
        "out_degree": _summary(out_degree[is_source]),
        "scores": graph.scores()._asdict(),
        "mean_hops": graph.mean_hops(),
    }


def _count_paths(adjacency: sparse.csr_array, levels: np.ndarray, kinds: np.ndarray) -> int:
    """From embeddings and errors to logits, in integers of any size: real graphs have more than fit in 64 bits."""
    counts = np.array([int(kind in ("embedding", *ERROR_KINDS)) for kind in kinds], dtype=object)
    for at, block in _upward(adjacency, levels):
        counts[at] += np.add.reduceat(counts[block.indices], block.indptr[:-1])
    return int(sum(counts[kinds == "logit"].tolist()))


def _depth(adjacency: sparse.csr_array, levels: np.ndarray) -> int:
    """The number of edges of the longest path."""
    depth = np.zeros(len(levels), dtype=np.int64)
    for at, block in _upward(adjacency, levels):
        depth[at] = np.maximum.reduceat(depth[block.indices], block.indptr[:-1]) + 1
    return int(depth.max(initial=0))


def _upward(adjacency: sparse.csr_array, levels: np.ndarray) -> list[tuple[np.ndarray, sparse.csr_array]]:
    """Rows that have entries, and these, level by level: sources are done before what reads them."""
    reads = np.diff(adjacency.indptr) > 0
    at = [np.flatnonzero(reads & (levels == level)) for level in np.unique(levels[reads])]
    return [(rows, sparse.csr_array(adjacency[rows])) for rows in at]


def _summary(degrees: np.ndarray) -> dict[str, float]:
    if not len(degrees):
        return dict.fromkeys(("min", "median", "mean", "max"), 0.0)
    return {name: float(getattr(np, name)(degrees)) for name in ("min", "median", "mean", "max")}
