"""A graph in numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from attrgraph.influence.influence import node_levels, rows_by_level
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
    depth, n_paths = _depth_and_paths(adjacency, node_levels(adjacency, layers), kinds)
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
        "depth": depth,
        "paths": n_paths,
        "positive_share": float(sizes[adjacency.data > 0].sum() / sizes.sum()) if n_edges else float("nan"),
        "in_degree": _summary(in_degree[can_read]),
        "out_degree": _summary(out_degree[is_source]),
        "scores": graph.scores()._asdict(),
        "mean_hops": graph.mean_hops(),
    }


def _depth_and_paths(adjacency: sparse.csr_array, levels: np.ndarray, kinds: np.ndarray) -> tuple[int, int]:
    """The number of edges of the longest path, and the number of paths from embeddings and errors to logits.

    Paths are counted in integers of any size: real graphs have more than fit in 64 bits.
    """
    depth = np.zeros(len(levels), dtype=np.int64)
    n_paths = np.isin(kinds, ("embedding", *ERROR_KINDS)).astype(np.int64).astype(object)
    for at, block in rows_by_level(adjacency, levels):
        begins = block.indptr[:-1]
        depth[at] = np.maximum.reduceat(depth[block.indices], begins) + 1
        n_paths[at] += np.add.reduceat(n_paths[block.indices], begins)
    return int(depth.max(initial=0)), sum(n_paths[kinds == "logit"].tolist())


def _summary(degrees: np.ndarray) -> dict[str, float]:
    of = degrees if len(degrees) else np.zeros(1)
    return {"min": float(of.min()), "median": float(np.median(of)), "mean": float(of.mean()), "max": float(of.max())}
