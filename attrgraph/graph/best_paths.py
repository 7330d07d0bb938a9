"""The k best of all paths through a graph without cycles, of which there may be more than can ever be listed.

Whoever extends one of the best paths to a node by an edge need not look at its other paths: values multiply, and
factors are not negative. So every node ranks the paths that arrive at it, each an edge and a place in the ranking of
that edge's source; a ranking grows by one path when it is asked for, and asks one source for one more.

Source: Jiménez and Marzal 1999, "Computing the K shortest paths: a new algorithm and an experimental comparison"
(the recursive enumeration algorithm), here for products and without recursion
"""

import heapq
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

# the key of the ranking of whole paths; other keys are nodes, with the ranking of the paths that arrive there
_ANSWER = -1


class Ranked(NamedTuple):
    """A path and what it is ranked by."""

    value: float
    rows: tuple[int, ...]  # from its source to its target


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
    return _Search(edges, levels, starts, ends, passing).first(k)


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
    sign = edges.copy()
    sign.data = np.sign(edges.data) * turns[edges.indices]
    keep, turn = abs(edges), abs(edges)
    keep.data[sign.data < 0] = 0
    turn.data[sign.data > 0] = 0
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


class _Ranking:
    """The paths that arrive at one node, the best first, as far as they have been asked for.

    A path is its value, its last edge, and a place: 0 if it starts at that edge's source, else the place, from 1, of
    the rest of it among those that arrive there.
    """

    def __init__(self, sources: np.ndarray, starting: np.ndarray, onward: np.ndarray, best: np.ndarray) -> None:
        self.sources, self.onward = sources, onward
        self.found: list[tuple[float, int, int]] = []
        self.is_complete = False  # there are no more
        self.is_followed = True  # what comes after the path found last, by the same edge, is among the candidates
        # the first by each edge, in a list since most are never compared again; others as they come
        values = np.concatenate([starting, onward * best[sources]])
        positive = np.flatnonzero(values > 0)
        order = positive[np.argsort(-values[positive], kind="stable")]
        places, edges = np.divmod(order, max(1, len(sources)))
        self._first = list(zip((-values[order]).tolist(), edges.tolist(), places.tolist(), strict=True))[::-1]
        self._later: list[tuple[float, int, int]] = []

    def follow(self, value: float, edge: int, place: int) -> None:
        """Add a candidate."""
        heapq.heappush(self._later, (-value, edge, place))

    def grow(self) -> None:
        """Find the next path among the candidates."""
        if self._later and (not self._first or self._later[0] < self._first[-1]):
            value, edge, place = heapq.heappop(self._later)
        elif self._first:
            value, edge, place = self._first.pop()
        else:
            value, edge, place = 0.0, 0, 0
        if value < 0:
            self.found.append((-value, edge, place))
            self.is_followed = place == 0
        else:
            self.is_complete = True


class _Search:
    """The rankings of a graph's nodes, made when they are asked for the first time."""

    def __init__(
        self, edges: sparse.csr_array, levels: np.ndarray, starts: np.ndarray, ends: np.ndarray, passing: np.ndarray
    ) -> None:
        self._edges, self._starts, self._passing = edges, starts, passing
        self._best = _best_arrivals(edges, levels, starts, passing)
        last = np.flatnonzero((ends > 0) & (self._best > 0))
        self._rankings = {_ANSWER: _Ranking(last, np.zeros(len(last)), ends[last], self._best)}

    def first(self, k: int) -> list[Ranked]:
        """The k best paths."""
        self._ask(_ANSWER, k)
        found = self._rankings[_ANSWER].found[:k]
        return [Ranked(value, self._trace_back(place)) for place, (value, _, _) in enumerate(found, start=1)]

    def _ranking(self, row: int) -> _Ranking:
        if row not in self._rankings:
            here = slice(self._edges.indptr[row], self._edges.indptr[row + 1])
            sources, factors = self._edges.indices[here], self._edges.data[here]
            starting, onward = factors * self._starts[sources], factors * self._passing[sources]
            self._rankings[row] = _Ranking(sources, starting, onward, self._best)
        return self._rankings[row]

    def _ask(self, row: int, n: int) -> None:
        """Find the n best arrivals at a node, or as many as there are, and at other nodes what that takes."""
        asked = [(row, n)]
        while asked:
            row, n = asked[-1]
            ranking = self._ranking(row)
            if ranking.is_complete or len(ranking.found) >= n:
                asked.pop()
            elif ranking.is_followed:
                ranking.grow()
            else:
                _, edge, place = ranking.found[-1]
                source = self._ranking(int(ranking.sources[edge]))
                if len(source.found) > place:
                    ranking.follow(float(ranking.onward[edge]) * source.found[place][0], edge, place + 1)
                    ranking.is_followed = True
                elif source.is_complete:
                    ranking.is_followed = True
                else:
                    asked.append((int(ranking.sources[edge]), place + 1))

    def _trace_back(self, place: int) -> tuple[int, ...]:
        """The rows of a whole path, from its source on."""
        row, path = _ANSWER, list[int]()
        while place:
            self._ask(row, place)
            _, edge, place = self._rankings[row].found[place - 1]
            row = int(self._rankings[row].sources[edge])
            path.append(row)
        return tuple(reversed(path))


def _best_arrivals(
    edges: sparse.csr_array, levels: np.ndarray, starts: np.ndarray, passing: np.ndarray
) -> Float[np.ndarray, " n_nodes"]:
    """The value of the best path to what each node reads; 0 if there is none."""
    best = np.zeros(len(levels))
    reads = np.diff(edges.indptr) > 0
    for level in np.unique(levels[reads]):
        here = np.flatnonzero(reads & (levels == level))
        block = sparse.csr_array(edges[here])
        # as rankings multiply, so that both agree to the last bit
        onward = (block.data * passing[block.indices]) * best[block.indices]
        best[here] = np.maximum.reduceat(np.maximum(block.data * starts[block.indices], onward), block.indptr[:-1])
    return best
