"""The graph between groups of nodes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from attrgraph.errors import AttrGraphError, checked
from attrgraph.graph.groups.flows import Flows, Groups, Membership, flows_of, membership

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@dataclass(frozen=True, eq=False)
class GroupedGraph:
    """A graph whose nodes are groups of another graph's nodes.

    Edges are flows of influence, in units of the logits' weights: of all walks from the answer back to its causes, how
    many go from one group straight to another.

        flow[T, S] = sum over t in T, s in S of share[t, s] (influence[t] + w[t])        for T other than S

    with `share` a source's part of its target's |input|, and `influence` and `w` as in `Graph`, influence from the
    edges as they are. Nothing is lost: what enters a group leaves it again, or begins in it,

        influence[G] = sum over T of flow[T, G],   influence[G] + weight[G] = sum over S of flow[G, S] + begins[G].

    Viewers draw other widths: they average members' shares by how much of its own input each member has from outside,
    whatever its influence, and `draw_graph` adds up edges; neither of these sums to influence.

    Attributes:
        graph: the one that was grouped.
        groups: names of groups and ids of their members; nodes in none are groups of one, under their own ids.
        nodes: one row a group, index `name`. Columns: `kind` ("supernode", or that of a single node), `label`,
            `tokens` (at the members' positions, in order), `n_members`, `first_layer`, `last_layer`, `first_pos`,
            `last_pos`, `influence` (that comes from other groups: without cycles, how many walks pass the group),
            `weight` (of its logits), `inside` (flow between its members), `begins` (what enters members that read
            nothing: of an embedding or error, all of it).
        flow: CSR [target, source], without what flows inside groups.
        adjacency: CSR [target, source], the same with each edge's sign before it is added up: how far causes that
            promote what the group reads outweigh those that suppress it. |adjacency| <= flow.

    Source: supernodes are from Ameisen et al. 2025, "Circuit Tracing", section "Attribution Graphs",
    transformer-circuits.pub/2025/attribution-graphs/methods.html; the weights are defined here.
    """

    graph: "Graph"
    groups: dict[str, list[str]]
    nodes: pd.DataFrame
    flow: sparse.csr_array
    adjacency: sparse.csr_array

    def __repr__(self) -> str:
        n_members = sum(len(members) for members in self.groups.values())
        n_single = len(self.nodes) - len(self.groups)
        return f"GroupedGraph({len(self.groups)} groups of {n_members} nodes, {n_single} single nodes)"

    def edges(self) -> pd.DataFrame:
        """Columns `target`, `source`, `flow` and `weight` (its net sign), the largest flow first."""
        flow, names = self.flow.tocoo(), self.nodes.index.to_numpy()
        order = np.lexsort((flow.col, flow.row, -flow.data))
        rows, columns = flow.row[order], flow.col[order]
        return pd.DataFrame(
            {
                "target": names[rows],
                "source": names[columns],
                "flow": flow.data[order],
                # scipy has no empty selection of entries
                "weight": np.asarray(self.adjacency[rows, columns]).reshape(-1) if len(rows) else np.zeros(0),
            }
        )


@checked
def group(graph: "Graph", groups: Groups, *, allow_cycles: bool = False) -> GroupedGraph:
    """The graph between groups of nodes; see `GroupedGraph`.

    Args:
        graph: pruned or not; its bias node is left out.
        groups: names, and ids of their members; every node in at most one. Other nodes stay as they are.
        allow_cycles: take groups that influence flows out of and back into. Supernodes made by hand are often so,
            since they hold all that mean one thing, in whatever layers. Flows add up all the same, but `influence` then
            counts a walk each time that it enters the group.

    Raises:
        AttrGraphError: a group is empty, names an unknown node or one of another group, mixes logits with other nodes;
            or influence flows in a cycle, which the message names.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in the state containing dallas the capital is").prune()
        >>> grouped = graph.group({"texas": ["1_738_5", "1_815_5", "1_1023_5"]})
        >>> grouped.nodes.loc["texas", "n_members"]
        np.int64(3)
    """
    inner = graph.without_bias()
    members = membership(inner, groups)
    flows = flows_of(inner)
    n_nodes = len(inner.nodes)
    ones = np.ones(n_nodes), (members.group_of, np.arange(n_nodes))
    sums = sparse.csr_array(ones, shape=(len(members.names), n_nodes))
    flow, signed = (sparse.csr_array(sums @ each @ sums.T) for each in (flows.flow, flows.signed))
    inside = flow.diagonal()
    flow, signed = _without_diagonal(flow), _without_diagonal(signed)
    if not allow_cycles:
        _check_acyclic(flow, members.names)
    nodes = _nodes(inner, members, flows)
    nodes["influence"], nodes["inside"] = np.asarray(flow.sum(0)), inside
    ids = inner.nodes.index.to_numpy()
    lists = {
        name: [str(node) for node in ids[members.group_of == i]]
        for i, name in enumerate(members.names[: members.n_named])
    }
    return GroupedGraph(graph, lists, nodes, flow, signed)


def _nodes(graph: "Graph", members: Membership, flows: Flows) -> pd.DataFrame:
    """All columns but those that need the flows between groups, which stand empty."""
    table, group_of = graph.nodes, members.group_of
    firsts = np.unique(group_of, return_index=True)[1]
    by_group = table[["layer", "pos"]].groupby(group_of)
    lowest, highest = by_group.min(), by_group.max()
    in_order = table.assign(group=group_of).sort_values("pos", kind="stable")
    is_named = np.arange(len(members.names)) < members.n_named
    comes_to_ends = np.where(np.diff(flows.flow.indptr) == 0, flows.influence + flows.weights, 0.0)
    nodes = {
        "kind": np.where(is_named, "supernode", table["kind"].to_numpy()[firsts]),
        "label": np.where(is_named, members.names, table["label"].to_numpy()[firsts]),
        "tokens": in_order.drop_duplicates(["group", "pos"]).groupby("group")["token"].agg(" ".join).to_numpy(),
        "n_members": np.bincount(group_of),
        "first_layer": lowest["layer"].to_numpy(),
        "last_layer": highest["layer"].to_numpy(),
        "first_pos": lowest["pos"].to_numpy(),
        "last_pos": highest["pos"].to_numpy(),
        "influence": 0.0,
        "weight": np.bincount(group_of, flows.weights),
        "inside": 0.0,
        "begins": np.bincount(group_of, comes_to_ends),
    }
    index = pd.Index(members.names, name="name", dtype="str")
    return pd.DataFrame(nodes, index=index).astype({"kind": "str", "label": "str", "tokens": "str"})


def _without_diagonal(matrix: sparse.csr_array) -> sparse.csr_array:
    coo = matrix.tocoo()
    kept = (coo.row != coo.col) & (coo.data != 0)
    return sparse.csr_array((coo.data[kept], (coo.row[kept], coo.col[kept])), shape=matrix.shape)


def _check_acyclic(flow: sparse.csr_array, names: list[str]) -> None:
    n_parts, part_of = connected_components(flow, directed=True, connection="strong")
    if n_parts == len(names):
        return
    import networkx as nx

    in_cycle = np.flatnonzero(np.bincount(part_of)[part_of] > 1)
    among = np.flatnonzero(part_of == part_of[in_cycle[0]])
    block = flow[among][:, among].tocoo()
    # edges from source to target; find_cycle starts at the first node
    found = nx.find_cycle(nx.DiGraph(sorted(zip(block.col.tolist(), block.row.tolist(), strict=True))))
    cycle = [names[among[source]] for source, _ in found]
    raise AttrGraphError(
        f"influence flows in a cycle through the groups: {' -> '.join([*cycle, cycle[0]])}. "
        "Divide one of them by layers, or take the cycle as it is with allow_cycles=True (--allow-cycles)."
    )
