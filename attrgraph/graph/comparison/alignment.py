"""Which positions of prompts correspond, and nodes by what they are at such a place."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy import sparse

from attrgraph.errors import AttrGraphError

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

ALIGNMENTS = ("end", "start", "tokens")
# what a node is, whatever graph it is in; `copy` tells nodes apart that are the same in all of these
KEY = ["kind", "layer", "feature", "place", "copy"]

# a position of either prompt, or None where one of them has none
Pair = tuple[int | None, int | None]


def align(left: Sequence[str], right: Sequence[str], how: str) -> list[Pair]:
    """The places of two prompts, in order: the position in each.

    Args:
        left, right: tokens.
        how: `start`: as counted from the start; `end`: from the end; `tokens`: equal tokens in order, as many as
            `difflib` finds, and what stands between them from its end, so that the last token of one name is at the
            place of the last token of another.

    Raises:
        AttrGraphError: an unknown way.
    """
    n, m = len(left), len(right)
    if how not in ALIGNMENTS:
        raise AttrGraphError(f"align={how!r}; expected one of {', '.join(ALIGNMENTS)}.")
    if how != "tokens":
        return _paired(range(n), range(m), from_end=how == "end")
    # the matcher prefers what comes first in its first list: in one order always, so that left and right can change
    if (m, list(right)) < (n, list(left)):
        return [(ours, theirs) for theirs, ours in align(right, left, how)]
    places: list[Pair] = []
    for what, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        places += _paired(range(a, b), range(c, d), from_end=what != "equal")
    return places


def _paired(left: range, right: range, *, from_end: bool) -> list[Pair]:
    step = -1 if from_end else 1
    return list(zip_longest(left[::step], right[::step]))[::step]


def keyed(graph: "Graph", places: Sequence[int], n_places: int) -> pd.DataFrame:
    """The node table with the columns of `KEY`, `at` (the row) and `name`: the id, with the place for the position.

    Logits at the prompt's end stand at the last place, earlier targets where their positions do, and the bias node at
    place -1.

    Args:
        graph: whose nodes these are.
        places: of each of its positions.
        n_places: of all graphs that are compared.
    """
    nodes = graph.nodes.reset_index()
    positions, kinds = nodes["pos"].to_numpy(), nodes["kind"].to_numpy()
    has_place = positions >= 0
    place = np.full(len(nodes), -1, dtype=np.int64)
    place[has_place] = np.asarray(places, dtype=np.int64)[positions[has_place]]
    is_logit = kinds == "logit"
    place[is_logit & (positions >= len(graph.prompt_tokens) - 1)] = n_places - 1
    nodes["place"], nodes["at"] = place, np.arange(len(nodes))
    nodes["copy"] = nodes.groupby(KEY[:-1]).cumcount()
    nodes["name"] = [
        _name(str(node), int(pos), int(at)) for node, pos, at in zip(nodes["node_id"], positions, place, strict=True)
    ]
    return nodes.set_index(KEY)


def placed_edges(
    graph: "Graph", row: Int[np.ndarray, " n_places"]
) -> tuple[sparse.coo_array, Int[np.ndarray, " n_edges"], Int[np.ndarray, " n_edges"]]:
    """A graph's edges, and where their targets and sources stand in a list of nodes; -1 if they are not in it.

    Args:
        graph: whose edges these are.
        row: the row in the graph of each node of the list; -1 if the graph does not have it.
    """
    place = np.full(len(graph.nodes), -1, dtype=np.int64)
    place[row[row >= 0]] = np.flatnonzero(row >= 0)
    edges = graph.adjacency.tocoo()
    return edges, place[edges.row], place[edges.col]


def _name(node: str, pos: int, place: int) -> str:
    head, separator, tail = node.rpartition("_")
    return f"{head}_{place}" if separator and tail == str(pos) else node


def check_comparable(graphs: "Sequence[Graph]") -> None:
    """Raise AttrGraphError for graphs of other numbers of layers, or of other targets with one number.

    Nodes of one are not where those of another are; and a target that is no token has no number of its own.
    """
    first, named = graphs[0], dict[tuple[int, int], str]()
    for graph in graphs:
        # only these count fully: a token is not certain
        certain = graph.nodes[(graph.nodes["kind"] == "logit") & (graph.nodes["probability"] == 1.0)]
        for layer, feature, token in certain[["layer", "feature", "token"]].itertuples(index=False, name=None):
            if named.setdefault((layer, feature), token) != token:
                raise AttrGraphError(
                    f"target {layer}_{feature} is {named[layer, feature]!r} in one graph and {token!r} in another; "
                    "targets that are no tokens can be compared only with the same target."
                )
    for number, graph in enumerate(graphs[1:], start=2):
        if graph.n_layers != first.n_layers:
            raise AttrGraphError(
                f"graph {number} is of {graph.n_layers} layers, the first of {first.n_layers}; "
                "graphs of one model and its transcoders can be compared."
            )
