"""Where influence flows, between groups of nodes."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attrgraph.errors import AttrGraphError, checked
from attrgraph.graph.selections import edges_without_bias
from attrgraph.influence.influence import node_influence, row_shares, scale_rows

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# the column that groups nodes, by the name users give it
LEVELS = {"layer": "layer", "position": "pos", "kind": "kind"}


@checked
def flow(graph: "Graph", level: str = "layer") -> pd.DataFrame:
    """Which share of all influence goes from one group of nodes straight to another.

    share[g, h] = sum over t in g, s in h of (influence[t] + w[t]) B[t, s] / sum over all s of influence[s], with w
    and B as in `influence`. All shares sum to 1; those with one source group to its share of all influence.

    Args:
        level: nodes of one `layer`, `position` or `kind` are a group.

    Returns:
        Columns `target` and `source` (groups) and `share`, the largest first, without pairs that have none.
    """
    if level not in LEVELS:
        raise AttrGraphError(f"level={level!r}; expected one of {', '.join(LEVELS)}.")
    groups, codes = np.unique(graph.nodes[LEVELS[level]].to_numpy(dtype=object), return_inverse=True)
    edges = edges_without_bias(graph)
    reaching = node_influence(edges, graph.nodes["layer"].to_numpy(), graph.weights) + graph.weights
    flows = scale_rows(row_shares(edges), reaching).tocoo()
    pair = codes[flows.row] * len(groups) + codes[flows.col]
    sums = np.bincount(pair, flows.data, minlength=len(groups) ** 2)
    found = np.flatnonzero(sums)
    found = found[np.argsort(-sums[found], kind="stable")]
    target, source = np.divmod(found, len(groups))
    values = sums[found] / sums.sum() if len(found) else sums[found]
    return pd.DataFrame({"target": groups[target], "source": groups[source], "share": values}).infer_objects()
