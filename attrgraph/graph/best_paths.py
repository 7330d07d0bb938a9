"""The k best of all paths through a graph without cycles, of which there may be more than can ever be listed.

The search goes from the ends of paths back to their starts, and always extends the part of a path that has the best
completion. Values multiply and factors are not negative, so the best completion follows from the best value with which
a path can arrive at each node, and these values are computed before the search, level by level. Each part is replaced
by two: the next best source of the same node, and the best source of its own first node.

Source: Lawler 1972, "A Procedure for Computing the K Best Solutions", which divides what is left to search like this;
Hart, Nilsson and Raphael 1968, "A Formal Basis for the Heuristic Determination of Minimum Cost Paths" (best completion
first)
"""

import heapq
import math
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from attrgraph.influence.influence import rows_by_level


class Ranked(NamedTuple):
    """A path and what it is ranked by."""

    value: float
    rows: tuple[int, ...]  # from its source to its target


class _Arrival(NamedTuple):
    """One way to arrive at a node."""

    value: float  # of the best path that arrives like this
    is_extended: bool  # whether paths go on behind the source, or start there
    source: int
    factor: float  # by which the value of a path grows, or with which it starts


def best_paths(
    edges: sparse.csr_array,
    levels: Int[np.ndarray, " n_nodes"],
    *,
    starts: Float[np.ndarray, " n_nodes"],
    ends: Float[np.ndarray, " n_nodes"],
    passing: Float[np.ndarray, " n_nodes"],
    k: int,
) -> list[Ranked]:
    """The k paths of one edge or more with the highest values, the best first; those of value 0 are left out.

    value = starts[first] * product of edges * product of passing[nodes between] * ends[last]

    Time grows with edges, and for each path with its length. Ties are broken alike every time.

    Args:
        edges: [target, source], none of them negative.
        levels: of nodes; each edge leads to a higher one, as it does from layer to layer.
        starts, ends: what each node counts as the first and the last of a path; 0 if it cannot be.
        passing: the factor of each node between; none of them negative.
    """
    best = _best_arrivals(edges, levels, starts, passing)
    found: list[Ranked] = []
    # parts of paths by the value of their best completion; of equal ones, the first rows in the order of the graph
    parts: list[tuple[float, tuple[int, ...], bool, tuple[float, ...], list[_Arrival], int]] = []

    @cache
    def arrivals_at(row: int) -> list[_Arrival]:
        here = slice(edges.indptr[row], edges.indptr[row + 1])
        sources, factors = edges.indices[here], edges.data[here]
        return _arrivals(sources, factors * starts[sources], factors * passing[sources], best)

    def add(path: tuple[int, ...], factors: tuple[float, ...], arrivals: list[_Arrival], place: int) -> None:
        if place < len(arrivals):
            value, is_extended, source, factor = arrivals[place]
            whole = math.prod((value, *factors))
            heapq.heappush(parts, (-whole, (*path, source), is_extended, (factor, *factors), arrivals, place))

    last = np.flatnonzero((ends > 0) & (best > 0))
    add((), (), _arrivals(last, np.zeros(len(last)), ends[last], best), 0)
    while parts and parts[0][0] < 0 and len(found) < k:
        value, path, is_extended, factors, arrivals, place = heapq.heappop(parts)
        add(path[:-1], factors[1:], arrivals, place + 1)
        if is_extended:
            add(path, factors, arrivals_at(path[-1]), 0)
        else:
            found.append(Ranked(-value, path[::-1]))
    return found


def best_signed_paths(
    edges: sparse.csr_array,
    levels: Int[np.ndarray, " n_nodes"],
    *,
    starts: Float[np.ndarray, " n_nodes"],
    ends: Float[np.ndarray, " n_nodes"],
    passing: Float[np.ndarray, " n_nodes"],
    k: int,
    negative: bool,
) -> list[Ranked]:
    """`best_paths` among those whose value is positive, or negative; edges and factors may have either sign.

    Every node stands twice: for arrivals that are positive, and for those that are negative. An edge leads from one to
    the other if it and the factor of its source turn the sign.
    """
    n_nodes, turns = len(levels), np.where(passing < 0, -1.0, 1.0)
    signed = edges.copy()
    signed.data *= turns[signed.indices]
    keep, turn = signed.maximum(0), (-signed).maximum(0)
    doubled = sparse.csr_array(sparse.block_array([[keep, turn], [turn, keep]], format="csr"))
    doubled.eliminate_zeros()
    # a source has not turned yet: it starts where its own factor's turn leads to positive
    twice_starts = np.concatenate([np.where(turns > 0, starts, 0.0), np.where(turns < 0, starts, 0.0)])
    none = np.zeros(n_nodes)
    found = best_paths(
        doubled,
        np.tile(levels, 2),
        starts=twice_starts,
        ends=np.concatenate([none, ends] if negative else [ends, none]),
        passing=np.tile(np.abs(passing), 2),
        k=k,
    )
    return [Ranked(-value if negative else value, tuple(row % n_nodes for row in rows)) for value, rows in found]


def _arrivals(sources: np.ndarray, starting: np.ndarray, onward: np.ndarray, best: np.ndarray) -> list[_Arrival]:
    """The ways to arrive at a node, the best first: starting at a source, or coming from behind it."""
    values, factors = np.concatenate([starting, onward * best[sources]]), np.concatenate([starting, onward])
    positive = np.flatnonzero(values > 0)
    order = positive[np.argsort(-values[positive], kind="stable")]
    is_extended, edges = np.divmod(order, max(1, len(sources)))
    columns = values[order], is_extended.astype(bool), sources[edges], factors[order]
    return [_Arrival(*way) for way in zip(*(column.tolist() for column in columns), strict=True)]


def _best_arrivals(
    edges: sparse.csr_array, levels: np.ndarray, starts: np.ndarray, passing: np.ndarray
) -> Float[np.ndarray, " n_nodes"]:
    """The value of the best path to what each node reads; 0 if there is none."""
    best = np.zeros(len(levels))
    for here, block in rows_by_level(edges, levels):
        # in the order in which the search multiplies, so that both agree to the last bit
        onward = (block.data * passing[block.indices]) * best[block.indices]
        best[here] = np.maximum.reduceat(np.maximum(block.data * starts[block.indices], onward), block.indptr[:-1])
    return best
