"""The graph less some of its nodes, and the scores that follow when only some features are kept."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from scipy import sparse

from attrgraph.errors import AttrGraphError, checked
from attrgraph.graph.parts import part_of, recomputed, with_scores
from attrgraph.graph.selections import Nodes, Selection, mask_of
from attrgraph.influence import scores as whole_graph
from attrgraph.influence.scores import Scores
from attrgraph.io.params import supernodes
from attrgraph.schema import ERROR_KINDS, FEATURE_KINDS, KINDS, node_table, with_names

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

MODES = ("drop", "to_error")
_DROPPED = -1
_ERROR_OF = dict(zip(FEATURE_KINDS, ERROR_KINDS, strict=True))


@checked
def without(graph: "Graph", nodes: Nodes, mode: str = "drop") -> "Graph":
    """The graph without some nodes, its influence and bias shares recomputed; `metadata["without"]` names them.

    Args:
        mode: `drop` leaves out their edges too. `to_error`, for features, as if their transcoder did not have them:
            their edges to others are added to those of the error node of their layer and position, made if absent.
    """
    if mode not in MODES:
        raise AttrGraphError(f"mode={mode!r}; expected one of {', '.join(MODES)}.")
    gone = mask_of(graph, nodes)
    done = {"mode": mode, "nodes": [str(node) for node in graph.nodes.index[gone]]}
    metadata = {**graph.metadata, "without": [*graph.metadata.get("without", []), done]}
    into = np.arange(len(gone))
    if mode == "to_error":
        _check_features(graph, gone)
        graph, gone = _with_errors(graph, gone)
        into = _error_of_each(graph, gone)
    into[gone & (into == np.arange(len(gone)))] = _DROPPED
    folded = replace(graph, adjacency=_fold(graph.adjacency, into).astype(np.float32), metadata=metadata)
    return with_scores(recomputed(part_of(folded, ~gone)))


@checked
def scores(graph: "Graph", pinned: Nodes | None = None) -> Scores:
    """Replacement and completeness score of this graph as it is; see `attrgraph.influence.influence.scores`.

    With `pinned`, of an explanation that keeps these features only, as Neuronpedia scores pinned nodes: every other
    feature counts as an error. What it leads to is added to the edges of the error node of its layer and position,
    with signs, and nothing leads to it. If the graph has no such error node, its edges are left out; pruned graphs
    lack some, and `without(nodes, "to_error").scores()` counts these too.

    Args:
        pinned: features, by id, or labels of supernodes in `metadata["qParams"]`, which stand for their members;
            pinning other nodes changes nothing. An empty list pins none, whereas Neuronpedia then shows the scores
            of the whole graph.

    Source: pinned nodes are scored as in apps/webapp of github.com/hijohnnylin/neuronpedia, score.worker.ts
    """
    if pinned is not None and not isinstance(pinned, Selection):
        pinned = _members(graph, pinned)
    keeps = np.ones(len(graph.nodes), dtype=bool) if pinned is None else mask_of(graph, pinned)
    loose = graph.nodes["kind"].isin(FEATURE_KINDS).to_numpy() & ~keeps
    if loose.any():
        graph = replace(graph, adjacency=_fold(graph.adjacency, _error_of_each(graph, loose)))
    inner = graph.without_bias()
    return whole_graph.scores(inner.nodes, inner.adjacency)


def _members(graph: "Graph", pinned: Any) -> list[str]:
    """Ids, with the label of a supernode replaced by its members; a node with the same id comes first."""
    params = graph.metadata.get("qParams") or {}
    groups = {label: members for label, *members in supernodes(params.get("supernodes"))}
    names = [pinned] if isinstance(pinned, str) else list(pinned)
    return [one for name in names for one in ([name] if name in graph.nodes.index else groups.get(name, [name]))]


def _check_features(graph: "Graph", gone: np.ndarray) -> None:
    wrong = gone & ~graph.nodes["kind"].isin(FEATURE_KINDS).to_numpy()
    if wrong.any():
        node, kind = graph.nodes.index[wrong][0], graph.nodes["kind"][wrong].iloc[0]
        raise AttrGraphError(
            f"only features become errors; got {node!r}, of kind {kind}: select(kind='feature'), or mode='drop'."
        )


def _error_of_each(graph: "Graph", moved: Bool[np.ndarray, " n_nodes"]) -> Int[np.ndarray, " n_nodes"]:
    """The row itself; for a feature that moves, that of the error of its layer and position, or `_DROPPED`."""
    places = [tuple(place) for place in graph.nodes[["kind", "layer", "pos"]].itertuples(index=False)]
    errors = {place: row for row, place in reversed(list(enumerate(places))) if place[0] in ERROR_KINDS}
    into = np.arange(len(places))
    for row in np.flatnonzero(moved):
        kind, layer, pos = places[row]
        into[row] = errors.get((_ERROR_OF[kind], layer, pos), _DROPPED)
    return into


def _fold(adjacency: sparse.csr_array, into: Int[np.ndarray, " n_nodes"]) -> sparse.csr_array:
    """The same edges from other sources; edges that then have the same ends are added. float64.

    What moved is nobody's source any more: that it still reads changes no influence.
    """
    edges = adjacency.tocoo()
    stays = into[edges.col] != _DROPPED
    values, rows, columns = edges.data[stays].astype(np.float64), edges.row[stays], into[edges.col[stays]]
    return sparse.csr_array((values, (rows, columns)), shape=adjacency.shape)


def _with_errors(graph: "Graph", moved: Bool[np.ndarray, " n_nodes"]) -> tuple["Graph", Bool[np.ndarray, " n_after"]]:
    """The graph with an error node, for now without edges, where a feature is to move to one; and who moves in it."""
    absent = moved & (_error_of_each(graph, moved) == _DROPPED)
    if not absent.any():
        return graph, moved
    places = graph.nodes.loc[absent, ["kind", "layer", "pos", "token"]].replace({"kind": _ERROR_OF})
    places = places.drop_duplicates(["kind", "layer", "pos"])
    added = places.assign(
        feature=-1, activation=0.0, probability=0.0, influence=0.0, cumulative_influence=1.0, bias_share=0.0
    )
    added = with_names(added, {}, n_layers=graph.n_layers)
    nodes = node_table(pd.concat([graph.nodes, added[graph.nodes.columns]]))
    # errors stand together, by layer and position; everything else as it stood
    is_error, place = nodes["kind"].isin(ERROR_KINDS).to_numpy(), np.arange(len(nodes))
    layer, pos = (np.where(is_error, nodes[name], 0) for name in ("layer", "pos"))
    order = np.lexsort((place, pos, layer, nodes["kind"].map(KINDS.index)))
    adjacency = graph.adjacency.copy()
    adjacency.resize((len(nodes), len(nodes)))
    adjacency = sparse.csr_array(adjacency[order][:, order])
    moves = np.append(moved, np.zeros(len(added), dtype=bool))[order]
    return graph.replace(nodes=nodes.iloc[order], adjacency=adjacency), moves
