"""The explorer of a graph."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from attrgraph.errors import GraphFileError, checked
from attrgraph.files import write_whole
from attrgraph.graph.parts import before_pruning
from attrgraph.io.json_writing import as_json, to_document
from attrgraph.viz.explorer.page import ExplorerPage, explorer_page

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@checked
def explore(graph: "Graph", path: str | Path | None = None, *, overwrite: bool = True) -> ExplorerPage:
    """The graph as a page to click: one HTML file that makes no request and needs nothing else.

    It holds the whole graph but for the bias node, prunes it there as `Graph.prune` does, and saves it as graph JSON.

    Args:
        path: where to write it, ending in .html; without one, nothing is written.
        overwrite: False refuses a file that exists.

    Returns:
        The page: its text, which notebooks show as a frame.

    Raises:
        GraphFileError: the graph has no answer, or the file has another ending or cannot be written.

    Example:
        >>> import attrgraph as ag
        >>> page = ag.trace(ag.load_model("demo"), "in texas the capital is").explore()
        >>> page[:15]
        '<!doctype html>'
    """
    if path is not None:
        check_page_path(path)
    if not (graph.nodes["kind"] == "logit").any():
        raise GraphFileError("the graph has no answer (a node of kind logit), and the explorer shows what led to one.")
    page = explorer_page(_title(graph), as_json(_about(graph), str(path or "page")), _edges(graph.without_bias()))
    if path is not None:
        write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"), overwrite=overwrite)
    return page


def _about(graph: "Graph") -> dict[str, Any]:
    """All that the page has of a graph but its edges."""
    before, graph = before_pruning(graph), graph.without_bias()
    # its links are written apart
    document, _ = to_document(replace(graph, adjacency=sparse.csr_array(graph.adjacency.shape)), "neuronpedia")
    return {name: graph.nodes[name].tolist() for name in ("kind", "layer", "pos", "token", "label")} | {
        "document": document,
        "target": graph.weights.tolist(),
        "n_layers": graph.n_layers,
        "is_pruned": _is_pruned(graph.metadata),
        "pruned_from": before,
        "extra_links": (graph.metadata.get("extra") or {}).get("links", []),
    }


def _edges(graph: "Graph") -> bytes:
    edges = graph.adjacency
    return b"".join(
        (
            edges.indptr.astype("<u4").tobytes(),
            edges.indices.astype("<u4").tobytes(),
            edges.data.astype("<f4").tobytes(),
        )
    )


def _is_pruned(metadata: dict[str, Any]) -> bool:
    """Whether the graph says that it is a pruned one; other tools' files may say the nodes' threshold only."""
    stated = metadata.get("pruning") or metadata.get("file_metadata") or {}
    thresholds = [stated.get(name) for name in ("node_threshold", "edge_threshold")]
    return any(isinstance(one, int | float) and one < 1 for one in thresholds)


def _title(graph: "Graph") -> str:
    """The prompt and its most probable answer."""
    prompt = str(graph.metadata.get("prompt") or "".join(graph.prompt_tokens))
    best = graph.nodes.iloc[int(np.argmax(graph.weights))]
    return f"{prompt} → {best['token'].strip()} ({best['probability']:.1%})"


def check_page_path(path: str | Path) -> None:
    """Raise GraphFileError for a page that would have another ending."""
    if Path(path).suffix != ".html":
        raise GraphFileError(f"{path}: unknown ending {Path(path).suffix!r}; expected .html.")
