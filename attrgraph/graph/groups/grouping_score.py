"""What a grouping keeps of the paths through a graph."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from scipy import sparse

from attrgraph.graph.groups.flows import Flows, Groups, flows_of, membership

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def grouping_score(graph: "Graph", groups: Groups) -> float:
    """How much of the flow goes on as the graph of groups says; 1 if paths between groups lose nothing.

    A group forgets by which member a walk came to it. That loses nothing if it makes no difference to where the walk
    leaves the group. With `enters[t]` what enters a member from outside, and `leaves[t, S]` the share of it that next
    enters group S after any steps inside the group (or that begins there, which counts as one more S):

        score = 1 - sum over t of enters[t] D[t] / sum over t of enters[t]
        D[t] = 1/2 sum over S of |leaves[t, S] - mean over members of leaves[., S], weighted by enters|

    D is the total variation distance: the share of a member's flow that the group sends elsewhere than the member does.
    Sums are over all groups with a member that reads something; embeddings and errors alone cannot lose anything.

    Args:
        graph: its bias node is left out.
        groups: as for `group`; those that cycles lead through are taken too.

    Returns:
        1 for groups of one, for members with the same sources by share, and for a chain in one group.

    Raises:
        AttrGraphError: as `group`.

    Source: with 1, the groups are a lumping of the Markov chain of walks, steps inside groups left out; Kemeny and
    Snell 1960, "Finite Markov Chains", section 6.3
    """
    inner = graph.without_bias()
    return score_of(flows_of(inner), membership(inner, groups).group_of)


def score_of(flows: Flows, group_of: Int[np.ndarray, " n_nodes"]) -> float:
    """`grouping_score` of groups numbered from 0, each node in one."""
    n_nodes, n_groups = len(group_of), int(group_of.max(initial=-1)) + 1
    edges = flows.flow.tocoo()
    is_outside = group_of[edges.row] != group_of[edges.col]
    enters = flows.weights + np.bincount(edges.col, edges.data * is_outside, minlength=n_nodes)
    has_reader = np.bincount(group_of, np.diff(flows.flow.indptr), minlength=n_groups) > 0
    total = enters[has_reader[group_of]].sum()
    # alone in its group, a node cannot differ from the others
    several = np.flatnonzero(np.bincount(group_of, minlength=n_groups)[group_of] > 1)
    if not total > 0 or not len(several):
        return 1.0
    shares = flows.shares[several].tocoo()
    is_outside = group_of[several[shares.row]] != group_of[shares.col]
    leaves = _part(shares, is_outside, group_of, (len(several), n_groups))
    inside = _part(shares, ~is_outside, np.arange(n_nodes), (len(several), n_nodes))[:, several]
    step = leaves
    while step.nnz:  # edges have no cycle, so walks inside a group end
        step = sparse.csr_array(inside @ step)
        leaves = leaves + step
    entering = np.bincount(group_of, enters, minlength=n_groups)
    part = np.divide(enters, entering[group_of], out=np.zeros(n_nodes), where=entering[group_of] > 0)[several]
    averages = sparse.csr_array((part, (group_of[several], np.arange(len(several)))), shape=(n_groups, len(several)))
    begins = 1 - np.asarray(leaves.sum(1))
    distance = np.asarray(abs(leaves - (averages @ leaves)[group_of[several]]).sum(1))
    distance = (distance + abs(begins - (averages @ begins)[group_of[several]])) / 2
    return float(1 - enters[several] @ distance / total)


def _part(
    shares: sparse.coo_array, kept: np.ndarray, column_of: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_array:
    """The kept entries, those with one column number added up."""
    return sparse.csr_array((shares.data[kept], (shares.row[kept], column_of[shares.col[kept]])), shape=shape)
