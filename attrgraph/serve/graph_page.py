"""The explorer of a graph as a page of the server: it may ask the server, and knows under which name."""

import json
import re
from pathlib import Path
from typing import Any

from attrgraph.errors import FeatureError
from attrgraph.progress import Progress, silent
from attrgraph.serve.security import STRICTER
from attrgraph.serve.shelf import Found, Shelf
from attrgraph.viz import explorer

_EXPLORER = Path(explorer.__file__).parent
# scripts of the explorer that the first page has too
SHARED = [_EXPLORER / "ask.js", _EXPLORER / "html.js"]
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">\n')


def graph_page(
    shelf: Shelf, name: str, found: Found, features: Path | None, progress: Progress = silent
) -> tuple[str, str]:
    """The page, and its policy, which is the offline page's and one thing more.

    Args:
        shelf: what has been measured of the graph is shown, too.
        name: under which the shelf has it.
        found: under this name.
        features: pages of features, which are left out of graphs of other transcoders.

    Raises:
        GraphFileError: as `Shelf.find` and `Graph.explore`.
    """
    progress("read", 0, 1)
    graph = found.load()
    progress("page", 0, 1)
    how: dict[str, Any] = {"validation": shelf.validations.get(graph)}
    try:
        page = str(graph.explore(features=features, **how))
    except FeatureError:  # the pages are of this model's transcoders, the graph is of others
        page = str(graph.explore(**how))
    policy = _POLICY.search(page)
    assert policy is not None  # the explorer's template has it
    here = json.dumps({"graph": name, "version": found.version}).replace("<", "\\u003c")
    block = f'<script type="application/json" id="server">{here}</script>\n'
    page = page[: policy.start()] + page[policy.end() :]
    head, end, tail = page.rpartition('<script type="module">')
    return head + block + end + tail, f"{policy[1]}; connect-src 'self'; {STRICTER}"
