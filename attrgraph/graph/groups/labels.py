"""Labels for features that have none, from the labelled nodes around them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph.groups.flows import flows_of, membership
from attrgraph.schema import FEATURE_KINDS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def propagate_labels(graph: "Graph", known: Mapping[str, str], *, min_share: float = 0.5) -> dict[str, str]:
    """Give features the label that holds most of the flow through them, from node to node as far as it goes.

    held[i, label] = sum over j with this label of flow[i, j] + flow[j, i], over the same sum over all that can have one

    with `flow` as in `GroupedGraph`, between single nodes; features and the nodes in `known` can have a label. In each
    round, every feature without a label takes the one that holds most of its
    flow, if that is `min_share` of it or more; the next round counts these too. It ends when nothing changes. Labels
    that hold the same share are taken in the order of `known`.

    Args:
        graph: its bias node is left out.
        known: labels by node id; nodes of any kind. They stay as they are.
        min_share: above 0, at most 1.

    Returns:
        Labels by node id, in the order of the graph's nodes: those known and those found. Features that too little
        flow connects to a label are not in it.

    Raises:
        AttrGraphError: an unknown node, or `min_share` out of range.
    """
    if not 0 < min_share <= 1:
        raise AttrGraphError(f"min_share is {min_share}; expected a number above 0 and at most 1.")
    inner = graph.without_bias()
    membership(inner, {f"label of {node}": [node] for node in known})
    flow = flows_of(inner).flow
    both = sparse.csr_array(flow + flow.T)
    can_have = np.isin(inner.nodes["kind"].to_numpy(), FEATURE_KINDS)
    labels = list(dict.fromkeys(known.values()))
    label_of = np.full(len(can_have), -1, dtype=np.int64)
    rows = inner.nodes.index.get_indexer(list(known))
    label_of[rows] = [labels.index(label) for label in known.values()]
    total = both @ (can_have | (label_of >= 0)).astype(np.float64)
    while True:
        asks, has = np.flatnonzero(can_have & (total > 0) & (label_of < 0)), np.flatnonzero(label_of >= 0)
        if not len(asks) or not len(has):
            break
        indicators = sparse.csr_array((np.ones(len(has)), (has, label_of[has])), shape=(len(can_have), len(labels)))
        # rounded, so that shares which are equal but for the order of summing are equal
        held = ((both[asks] @ indicators).toarray() / total[asks, None]).round(12)
        best = held.argmax(1)
        takes = held[np.arange(len(asks)), best] >= min_share
        if not takes.any():
            break
        label_of[asks[takes]] = best[takes]
    ids = inner.nodes.index
    return {str(ids[i]): labels[label_of[i]] for i in np.flatnonzero(label_of >= 0)}
