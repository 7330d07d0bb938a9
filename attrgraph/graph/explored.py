"""What the explorer's page has of a graph."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from attrgraph.errors import FeatureError, GraphFileError
from attrgraph.files import read_json
from attrgraph.graph.parts import before_pruning
from attrgraph.influence.influence import node_influence
from attrgraph.io.feature_records import FeatureFiles, check_is_there, read_card, unpacked
from attrgraph.io.json_writing import to_document
from attrgraph.schema import answer_of, inexact_note, node_label
from attrgraph.viz.text import visible

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

Pages = Mapping[str, Mapping[str, Any]]


def about(graph: "Graph") -> dict[str, Any]:
    """All that a page has of a graph but its edges, as graph.js reads it."""
    before, graph = before_pruning(graph), graph.without_bias()
    # its links are written apart
    document, _ = to_document(replace(graph, adjacency=sparse.csr_array(graph.adjacency.shape)), "neuronpedia")
    columns = ("kind", "layer", "pos", "feature", "token", "label")
    return {name: graph.nodes[name].tolist() for name in columns} | {
        "document": document,
        "target": graph.weights.tolist(),
        "n_layers": graph.n_layers,
        "is_pruned": is_pruned(graph.metadata),
        "influence": _stored_influence(graph),
        "pruned_from": before,
        "extra_links": (graph.metadata.get("extra") or {}).get("links", []),
    }


def _stored_influence(graph: "Graph") -> list[float] | None:
    """What the nodes of a pruned graph influenced before, if it is not what follows from the edges that are left."""
    if not is_pruned(graph.metadata):
        return None
    stored = graph.nodes["influence"].to_numpy()
    left = node_influence(graph.adjacency, graph.nodes["layer"].to_numpy(), graph.weights)
    return None if np.allclose(stored, left, rtol=1e-5, atol=1e-9) else stored.tolist()


def edge_arrays(graph: "Graph") -> bytes:
    """Where rows start, sources, weights: [target, source]."""
    edges = graph.without_bias().adjacency
    arrays = (edges.indptr.astype("<u4"), edges.indices.astype("<u4"), edges.data.astype("<f4"))
    return b"".join(array.tobytes() for array in arrays)


def is_pruned(metadata: dict[str, Any]) -> bool:
    """Whether the graph says that it is a pruned one; other tools' files may say the nodes' threshold only."""
    stated = metadata.get("pruning") or metadata.get("file_metadata") or {}
    thresholds = [stated.get(name) for name in ("node_threshold", "edge_threshold")]
    return any(isinstance(one, int | float) and one < 1 for one in thresholds)


def title(graph: "Graph") -> str:
    """The prompt and its most probable answer, behind a mark if the graph is not exact."""
    prompt = str(graph.metadata.get("prompt") or "".join(graph.prompt_tokens))
    text, probability = answer_of(graph.nodes, graph.metadata)
    mark = f"{note}. " if (note := inexact_note(graph.metadata)) else ""
    answer = visible(text) or '""'
    return f"{mark}{prompt} → {answer} ({probability:.1%})"


def with_pages(graph: "Graph", pages: Pages | str | Path) -> tuple["Graph", dict[str, Any]]:
    """The graph with what its features' pages say of all, and pages by "layer/feature".

    Features without a name get that of their page, and each its `activation_frequency`, a key of its own in JSON. Pages
    of the features that are shown at first are given, if they have one.

    Raises:
        FeatureError: no folder of pages, or pages of other transcoders than the graph's.
    """
    if isinstance(pages, str | Path):
        check_is_there(Path(pages))
        files, card = FeatureFiles(Path(pages)), read_card(Path(pages))
        pages = _Unpacked({f"{layer}/{feature}": (files, (layer, feature)) for layer, feature in files})
    else:
        card = getattr(pages, "card", {})
    check_pages(card, graph.metadata.get("transcoders") or {}, "the graph's")
    shown = graph if is_pruned(graph.metadata) else graph.prune()
    is_shown = graph.nodes.index.isin([*shown.nodes.index, *graph.pinned])
    known, named = set(pages), graph.nodes["label"].tolist()
    extra = graph.metadata.get("extra") or {}
    of_nodes: dict[str, Any] = dict(extra.get("nodes") or {})
    records: dict[str, Any] = {}
    for i, row in enumerate(graph.nodes.itertuples()):
        place = f"{row.layer}/{row.feature}"
        if row.kind != "feature" or place not in known:
            continue
        page = records.get(place) or dict(pages[place])
        if named[i] == node_label("feature", row.layer, row.feature, ""):
            named[i] = page["label"] or named[i]
        if "activation_frequency" in page:
            of_nodes[row.Index] = {**of_nodes.get(row.Index, {}), "activation_frequency": page["activation_frequency"]}
        if is_shown[i]:
            records[place] = page
    metadata = {**graph.metadata, "extra": {**extra, "nodes": of_nodes}}
    return graph.replace(nodes=graph.nodes.assign(label=named), metadata=metadata), records


def check_pages(card: Mapping[str, Any], transcoders: Mapping[str, Any], whose: str) -> None:
    """Raise FeatureError for pages of other transcoders, by digests, where both are known.

    Args:
        card: of the pages.
        transcoders: what is recorded of those that are explored.
        whose: these are.
    """
    theirs, ours = (card.get("transcoders") or {}).get("digest"), transcoders.get("digest")
    if theirs and ours and theirs != ours:
        raise FeatureError(
            f"features: the pages are of transcoders with digest {theirs[:19]}, {whose} are {ours[:19]}; "
            f"describe {whose} with attrgraph features."
        )


class _Unpacked(dict[str, Any]):
    """Records that are read when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        files, place = super().__getitem__(name)
        return unpacked(files[place])


def measured_nodes(graph: "Graph", validation: Any) -> dict[str, dict[str, dict[str, float]]]:
    """By node and mode, what taking the node out was predicted to change of the answer, and what it changed.

    Args:
        graph: whose nodes these are.
        validation: a `Validation`, or its report as JSON.

    Raises:
        GraphFileError: something else, or a validation of other nodes.
    """
    content = read_json(Path(validation)) if isinstance(validation, str | Path) else validation.to_dict()
    try:
        rows = content["tables"]["nodes"]
        found = {str(row["node_id"]): _by_mode(row) for row in rows}
    except (KeyError, TypeError, AttributeError) as e:
        raise GraphFileError(
            f"validation: {validation!s:.60} has no table of nodes; write one: attrgraph validate GRAPH -o FILE.json."
        ) from e
    unknown = [name for name in found if name not in graph.nodes.index]
    if unknown:
        raise GraphFileError(f"validation: is of another graph, which has a node {unknown[0]!r}; validate this one.")
    return found


def _by_mode(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    modes = [name.removeprefix("measured_") for name in row if name.startswith("measured_")]
    found = {mode: {what: row[f"{what}_{mode}"] for what in ("predicted", "measured")} for mode in modes}
    return {mode: pair for mode, pair in found.items() if all(map(_is_number, pair.values()))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
