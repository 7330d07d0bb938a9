"""The explorer of a graph."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrgraph.errors import AttrGraphError, GraphFileError, checked
from attrgraph.files import write_whole
from attrgraph.graph.explored import Pages, about, edge_arrays, is_pruned, measured_nodes, title, with_pages
from attrgraph.io.json_writing import as_json
from attrgraph.viz.explorer.page import ExplorerPage, explorer_page

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# characters of a page in a notebook, which is saved with it; and the thresholds that are tried until it fits
_MOST_IN_NOTEBOOK, _SMALLER = 1_000_000, (0.6, 0.4, 0.2, 0.1, 0.0)


@checked
def explore(
    graph: "Graph",
    path: str | Path | None = None,
    *,
    features: Pages | str | Path | None = None,
    validation: Any = None,
    overwrite: bool = True,
) -> ExplorerPage:
    """The graph as a page to click: one HTML file that makes no request and needs nothing else.

    It holds the whole graph but for the bias node, prunes it there as `Graph.prune` does, and saves it as graph JSON.

    Args:
        path: where to write it, ending in .html; without one, nothing is written.
        features: pages of features (`FeaturePages`, or their folder); those of the features shown at first go in,
            and features without a name get their label.
        validation: of this graph (`Validation`, or its report as JSON): predicted beside measured effects.
        overwrite: False refuses a file that exists.

    Returns:
        The page: its text, which notebooks show as a frame.

    Raises:
        GraphFileError: the graph has no answer, the validation is of another graph, or the file has another ending or
            cannot be written.
        FeatureError: the folder has no pages of features, or they are of other transcoders.

    Example:
        >>> import attrgraph as ag
        >>> page = ag.trace(ag.load_model("demo"), "in texas the capital is").explore()
        >>> page[:15]
        '<!doctype html>'
    """
    if path is not None:
        check_page_path(path)
    more = {} if validation is None else {"measured": measured_nodes(graph, validation)}
    graph, records = (graph, {}) if features is None else with_pages(graph, features)
    page = page_of(graph, str(path or "page"), more, records)
    if path is not None:
        write_page(page, path, overwrite=overwrite)
    return page


def page_of(graph: "Graph", where: str, more: dict[str, Any], records: dict[str, Any]) -> ExplorerPage:
    """The page of a graph.

    Args:
        graph: with or without its bias node.
        where: the file, for errors.
        more: than what a graph has.
        records: what features mean, by "layer/feature".

    Raises:
        GraphFileError: the graph has no answer.
    """
    if not (graph.nodes["kind"] == "logit").any():
        raise GraphFileError("the graph has no answer (a node of kind logit), and the explorer shows what led to one.")
    return explorer_page(title(graph), as_json(about(graph) | more, where), edge_arrays(graph), as_json(records, where))


def write_page(page: str, path: str | Path, *, overwrite: bool) -> None:
    """Write it whole."""
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"), overwrite=overwrite)


def in_notebook(graph: "Graph") -> str:
    """The explorer of the pruned graph in a frame, of bounded size; of a graph that it cannot show, the counts."""
    try:
        shown = graph if is_pruned(graph.metadata) else graph.prune()
        for threshold in _SMALLER:
            page = explore(shown)
            if len(page) <= _MOST_IN_NOTEBOOK:
                return page._repr_html_()
            shown = graph.prune(threshold)
    except AttrGraphError:
        pass
    return f"<pre>{escape(repr(graph))}</pre>"


def check_page_path(path: str | Path) -> None:
    """Raise GraphFileError for a page that would have another ending."""
    if Path(path).suffix != ".html":
        raise GraphFileError(f"{path}: unknown ending {Path(path).suffix!r}; expected .html.")
