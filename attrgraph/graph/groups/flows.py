"""How much influence goes along each edge, and which group each node is in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph.selections import rows_of
from attrgraph.influence.influence import node_influence, node_levels, row_shares, scale_rows
from attrgraph.io.safe_text import SURROGATE
from attrgraph.schema import BIAS_ID

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# groups as users give them: names, and the ids of their members
Groups = Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Flows:
    """Where influence goes in a graph without a bias node. Matrices are CSR, [target, source].

    Think of walks that start at the logits, each with its weight, and go from a target to one of its sources by the
    source's share of |input|, until they reach a node that reads nothing. `influence` is how often they come by a node
    after their start, and `flow` how often they go along an edge:

        flow[t, s] = shares[t, s] (influence[t] + weights[t])

    So what flows out of a source's readers is its influence, sum over t of flow[t, s] = influence[s], and what enters
    a target flows on to its sources, sum over s of flow[t, s] = influence[t] + weights[t], unless it reads nothing.
    """

    shares: sparse.csr_array  # |A|, each row divided by its sum
    flow: sparse.csr_array
    signed: sparse.csr_array  # flow with the signs of the edges
    influence: Float[np.ndarray, " n_nodes"]
    weights: Float[np.ndarray, " n_nodes"]
    levels: Int[np.ndarray, " n_nodes"]  # each above those of its sources


def flows_of(graph: "Graph") -> Flows:
    """The flows of a graph without a bias node, from its edges as they are.

    Raises:
        AttrGraphError: an edge leads down, or edges make a cycle.
    """
    edges = sparse.csr_array(graph.adjacency.astype(np.float64))
    layers, weights = graph.nodes["layer"].to_numpy(), graph.weights
    influence = node_influence(edges, layers, weights)
    levels = node_levels(edges, layers)
    shares = row_shares(edges)
    flow = scale_rows(shares, influence + weights)
    signed = flow.copy()
    signed.data *= np.sign(edges.data)
    return Flows(shares, flow, signed, influence, weights, levels)


@dataclass(frozen=True)
class Membership:
    """Which group each node is in. Groups that have a name come first, then every other node as a group of its own."""

    names: list[str]
    group_of: Int[np.ndarray, " n_nodes"]
    n_named: int


def membership(graph: "Graph", groups: Groups) -> Membership:
    """The group of every node of a graph without a bias node.

    Raises:
        AttrGraphError: a group is empty, names a node that does not exist or that is in another group, mixes logits
            with other nodes, or has the id of a node outside for its name.
    """
    ids, kinds = [str(name) for name in graph.nodes.index], graph.nodes["kind"].to_numpy()
    group_of = np.full(len(ids), -1, dtype=np.int64)
    names = list(groups)
    for name in names:
        if not isinstance(name, str) or SURROGATE.search(name):
            raise AttrGraphError(f"group {name!r:.60}: expected text for its name, without half a surrogate pair.")
    for number, (name, given) in enumerate(groups.items()):
        members = _members(name, given)
        if BIAS_ID in members:
            raise AttrGraphError(f"group {name!r}: the bias node has no influence and can be in no group.")
        rows = rows_of(graph, members)
        for member, row in zip(members, rows, strict=True):
            if group_of[row] >= 0:
                other = names[group_of[row]]
                where = "twice in it" if other == name else f"in group {other!r} too"
                raise AttrGraphError(f"group {name!r}: node {member!r} is {where}; a node can be in one group once.")
            group_of[row] = number
        are_logits = kinds[rows] == "logit"
        if are_logits.any() and not are_logits.all():
            raise AttrGraphError(f"group {name!r} mixes logits with other nodes; logits go into groups of their own.")
    single = np.flatnonzero(group_of < 0)
    group_of[single] = len(names) + np.arange(len(single))
    outside = [ids[i] for i in single]
    for name in sorted(set(names) & set(outside)):
        raise AttrGraphError(f"group {name!r} is named like a node that is not in it; give it another name.")
    return Membership(names + outside, group_of, len(names))


def _members(name: str, given: Iterable[str]) -> list[str]:
    if isinstance(given, str):
        raise AttrGraphError(f"group {name!r} is the text {given!r}; expected a list of node ids.")
    members = [str(member) for member in given]
    if not members:
        raise AttrGraphError(f"group {name!r} is empty; name at least one node, or leave it out.")
    return members
