"""Two graphs in one page, each in its explorer."""

from pathlib import Path
from typing import TYPE_CHECKING

from attrgraph.errors import checked
from attrgraph.graph.explore import check_page_path, page_of, write_page
from attrgraph.graph.explored import title
from attrgraph.viz.explorer.page import ExplorerPage, two_pages

if TYPE_CHECKING:
    from attrgraph.graph.comparison.diff import Diff


@checked
def explore_both(diff: "Diff", path: str | Path | None = None, *, overwrite: bool = True) -> ExplorerPage:
    """Both graphs side by side as a page to click: a node that is selected in one is selected in the other.

    Args:
        path: where to write it, ending in .html; without one, nothing is written.
        overwrite: False refuses a file that exists.

    Raises:
        GraphFileError: a graph has no answer, or the file has another ending or cannot be written.
    """
    if path is not None:
        check_page_path(path)
    pages = []
    for side, graph, other in ((0, diff.left, diff.right), (1, diff.right, diff.left)):
        ids, influence = other.nodes.index, other.nodes["influence"]
        matches = {
            str(graph.nodes.index[pair[side]]): [str(ids[pair[1 - side]]), float(influence.iloc[pair[1 - side]])]
            for pair in diff.matches.tolist()
        }
        pages.append(page_of(graph, str(path or "page"), {"matches": matches}, {}))
    page = two_pages(" | ".join(map(title, (diff.left, diff.right))), *pages)
    if path is not None:
        write_page(page, path, overwrite=overwrite)
    return page
