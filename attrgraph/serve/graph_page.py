"""The explorer of a graph as a page of the server: it may ask the server, and knows under which name."""

import json
import re
from pathlib import Path

from attrgraph.errors import FeatureError
from attrgraph.serve.security import STRICTER
from attrgraph.serve.shelf import Shelf
from attrgraph.viz import explorer

_EXPLORER = Path(explorer.__file__).parent
# scripts of the explorer that the first page has too
SHARED = [_EXPLORER / "ask.js", _EXPLORER / "html.js"]
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">\n')


def graph_page(shelf: Shelf, name: str, features: Path | None) -> tuple[str, str]:
    """The page, and its policy, which is the offline page's and one thing more.

    Raises:
        GraphFileError: as `Shelf.graph` and `Graph.explore`.
    """
    graph = shelf.graph(name)
    try:
        page = str(graph.explore(features=features))
    except FeatureError:  # the pages are of this model's transcoders, the graph is of others
        page = str(graph.explore())
    found = _POLICY.search(page)
    assert found is not None  # the explorer's template has it
    here = json.dumps({"graph": name}).replace("<", "\\u003c")
    block = f'<script type="application/json" id="server">{here}</script>\n'
    page = page[: found.start()] + page[found.end() :]
    head, end, tail = page.rpartition('<script type="module">')
    return head + block + end + tail, f"{found[1]}; connect-src 'self'; {STRICTER}"
