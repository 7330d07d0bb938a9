"""What is wrong with a graph's own table of nodes and its edges, as a native file holds them."""

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.influence.influence import node_levels
from attrgraph.io.json_values import LARGEST_SHARE
from attrgraph.io.problems import US, Findings
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS, GraphParts

_SHARES = ("probability", "cumulative_influence")
_NUMBERS = ("activation", "influence", *_SHARES)
# kinds that have an index of their own: a feature's, or a token's
_INDEXED = (*FEATURE_KINDS, "embedding", "logit")
# kinds that may be at no position
_ANYWHERE = ("bias", "unknown")


def check_parts(parts: GraphParts, findings: Findings) -> None:
    """Findings about values that no graph has, all of them errors. Never raises.

    Args:
        parts: with columns and edges of the right types and lengths.
        findings: to which this adds.
    """
    _check_nodes(parts.nodes, len(parts.prompt_tokens), parts.metadata["n_layers"], findings)
    _check_edges(parts.adjacency, parts.nodes, findings)


def _check_nodes(nodes: pd.DataFrame, n_tokens: int, n_layers: int, findings: Findings) -> None:
    ids, kinds = nodes.index, nodes["kind"]

    def wrong(code: str, where: "pd.Series[bool]", what: str, column: str) -> None:
        if where.any():
            examples = [f"{node} ({value})" for node, value in nodes.loc[where.to_numpy(), column].items()]
            findings.add_each("error", code, examples, what, US)

    findings.add_each("error", "duplicate-node-id", ids[ids.duplicated()].tolist(), "ids of several nodes", US)
    for name in _NUMBERS:
        wrong("number", ~np.isfinite(nodes[name]), f"nodes whose {name} is no finite number", name)
    for name in (*_SHARES, "bias_share"):
        improper = (nodes[name] < 0) | (nodes[name] > LARGEST_SHARE)
        wrong("share", improper, f"nodes whose {name} is not from 0 to 1", name)
    wrong("influence", nodes["influence"] < 0, "nodes with a negative influence", "influence")
    lowest = np.where(kinds.isin((*FEATURE_KINDS, *ERROR_KINDS, "logit")), 0, -1)
    highest = np.where(kinds == "embedding", -1, np.where(kinds == "logit", n_layers, n_layers - 1))
    outside = (nodes["layer"] < lowest) | (nodes["layer"] > highest)
    wrong("layer", outside, f"nodes at a layer that a model of {n_layers} layers has not for them", "layer")
    first = np.where(kinds.isin(_ANYWHERE), -1, 0)
    outside = (nodes["pos"] < first) | (nodes["pos"] >= n_tokens)
    wrong("position", outside, f"nodes at no position of the prompt's {n_tokens}", "pos")
    unnamed = nodes["feature"] < np.where(kinds.isin(_INDEXED), 0, -1)
    wrong("feature-number", unnamed, "nodes with an index below 0", "feature")


def _check_edges(adjacency: sparse.csr_array, nodes: pd.DataFrame, findings: Findings) -> None:
    def wrong(code: str, where: np.ndarray, what: str) -> None:
        found = np.flatnonzero(where)
        if len(found):
            source = nodes.index[adjacency.indices[found[0]]]
            target = nodes.index[np.searchsorted(adjacency.indptr, found[0], side="right") - 1]
            message = f"{len(found)} edges {what}, the first from {source} to {target}"
            findings.add("error", code, message, US)

    wrong("edge", ~np.isfinite(adjacency.data), "whose weight is no finite number")
    is_first = np.zeros(adjacency.nnz + 1, dtype=bool)
    is_first[adjacency.indptr[:-1]] = True  # of the edges into a node
    steps = np.where(is_first[:-1], 1, np.diff(adjacency.indices, prepend=-1))
    wrong("duplicate-edge", steps == 0, "that are there twice")
    wrong("edge-order", steps < 0, "out of order")
    try:
        node_levels(adjacency, nodes["layer"].to_numpy())
    except AttrGraphError as e:
        findings.add("error", "layer-order", str(e).rstrip("."), US)
