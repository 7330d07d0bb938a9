"""Sets of a graph's nodes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError
from attrgraph.graph.parts import part_of, size_of
from attrgraph.schema import canonical_id

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@dataclass(frozen=True, eq=False)
class Selection:
    """Some nodes of one graph, in the graph's order.

    `a | b`, `a & b`, `a - b` and `a ^ b` are union, intersection, difference and symmetric difference, `~a` is every
    other node of the graph. `len(a)`, `id in a` and iteration are over node ids.

    Attributes:
        graph: whose nodes these are; selections of two graphs do not mix, even if the graphs are equal.
        mask: true for each node that is in it.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is")
        >>> late = graph.select(kind="feature", layer=(2, None)) - graph.select(pos=0)
        >>> late.subgraph().nodes["layer"].min() >= 2
        np.True_
    """

    graph: "Graph"
    mask: Bool[np.ndarray, " n_nodes"]

    @property
    def rows(self) -> Int[np.ndarray, " n_selected"]:
        """Where the nodes stand in the graph's table and adjacency."""
        return np.flatnonzero(self.mask)

    @property
    def ids(self) -> list[str]:
        """The nodes' ids."""
        return [str(node) for node in self.graph.nodes.index[self.mask]]

    @property
    def nodes(self) -> pd.DataFrame:
        """The nodes' rows of the graph's table."""
        return self.graph.nodes[self.mask]

    def subgraph(self) -> "Graph":
        """Only these nodes and the edges among them; every number is as in the whole graph, influence too.

        How many nodes and edges the whole graph has is recorded in `metadata["selected_from"]`.
        """
        whole = self.graph.metadata.get("selected_from", size_of(self.graph))
        return part_of(self.graph, self.mask, metadata={**self.graph.metadata, "selected_from": whole})

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, node: object) -> bool:
        return node in self.graph.nodes.index and bool(self.mask[self.graph.nodes.index.get_loc(node)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return self.graph is other.graph and bool((self.mask == other.mask).all())

    def __hash__(self) -> int:
        return hash((id(self.graph), self.mask.tobytes()))

    def __or__(self, other: "Selection") -> "Selection":
        return Selection(self.graph, self.mask | self._mask_of(other))

    def __and__(self, other: "Selection") -> "Selection":
        return Selection(self.graph, self.mask & self._mask_of(other))

    def __sub__(self, other: "Selection") -> "Selection":
        return Selection(self.graph, self.mask & ~self._mask_of(other))

    def __xor__(self, other: "Selection") -> "Selection":
        return Selection(self.graph, self.mask ^ self._mask_of(other))

    def __invert__(self) -> "Selection":
        return Selection(self.graph, ~self.mask)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.nodes["kind"].value_counts(sort=False).items())
        return f"Selection({len(self)} of {len(self.mask)} nodes{': ' if counts else ''}{counts})"

    def _mask_of(self, other: "Selection") -> Bool[np.ndarray, " n_nodes"]:
        if not isinstance(other, Selection):
            raise AttrGraphError(
                f"a selection combines with a selection; got {type(other).__name__}: use graph.select."
            )
        return mask_of(self.graph, other)


# as users name nodes: an id (`3_458_8` or `3/458@8`), several, or a selection
Nodes = str | Iterable[str] | Selection


def mask_of(graph: "Graph", nodes: Nodes) -> Bool[np.ndarray, " n_nodes"]:
    """True for each of the nodes; naming one twice is naming it once.

    Raises:
        AttrGraphError: an id that the graph does not have, or a selection of another graph.
    """
    if isinstance(nodes, Selection):
        if nodes.graph is not graph:
            raise AttrGraphError(
                "the selection is of another graph (pruning and the like make new ones); select again, or pass its ids."
            )
        return nodes.mask
    mask = np.zeros(len(graph.nodes), dtype=bool)
    mask[rows_of(graph, [nodes] if isinstance(nodes, str) else nodes)] = True
    return mask


def rows_of(graph: "Graph", ids: Iterable[str]) -> Int[np.ndarray, " n_ids"]:
    """Where nodes stand in the graph's table and adjacency, in the order in which they are named.

    Raises:
        AttrGraphError: an id that the graph does not have.
    """
    names = [canonical_id(str(name)) for name in ids]
    # as objects: text in which a terminal or a file left half a surrogate pair is no id either
    rows = graph.nodes.index.get_indexer(pd.Index(names, dtype=object))
    if (rows < 0).any():
        wrong = names[int((rows < 0).argmax())]
        close = get_close_matches(str(wrong), [str(node) for node in graph.nodes.index])
        meant = f"did you mean {', '.join(close)}?" if close else "ids are the index of graph.nodes."
        raise AttrGraphError(f"the graph has no node {wrong!r}; {meant}")
    return np.asarray(rows)


def edges_without_bias(graph: "Graph") -> sparse.csr_array:
    """A[target, source] in float64 without edges from the bias node: what shares of input are taken of."""
    edges = graph.adjacency.astype(np.float64)
    from_bias = (graph.nodes["kind"] == "bias").to_numpy()
    edges.data[from_bias[edges.indices]] = 0
    edges.eliminate_zeros()
    return edges
