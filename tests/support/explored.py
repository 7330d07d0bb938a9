"""The explorer in a browser, driven as a person does: by roles, names and keys."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrgraph as ag


class Explored:
    """A page that is open: what it asked the network for, and what it said on the console."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page, self.file = page, file
        self.requests: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        self.open()

    def open(self, fragment: str = "") -> None:
        self.page.goto("about:blank")
        self.requests.clear()
        self.page.goto(self.file.as_uri() + fragment)
        self.page.wait_for_selector("body[data-ready]")

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_selector("body[data-ready]")

    def role(self, role: str, name: str | None = None) -> Any:
        return self.page.get_by_role(role, name=name, exact=True) if name else self.page.get_by_role(role)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def find(self, text: str) -> list[str]:
        """What a search finds; the first is marked."""
        self.press("/")
        self.page.keyboard.insert_text(text)
        return self.role("option").all_inner_texts()

    def select(self, node_id: str) -> None:
        self.find(node_id)
        self.press("Enter")

    @property
    def n_nodes(self) -> int:
        return int(re.findall(r"(\d+) nodes", self.role("status").inner_text())[0])

    @property
    def heading(self) -> list[str]:
        return self.role("region", "Node").get_by_role("heading").all_inner_texts()

    def edges(self, side: str) -> list[list[str]]:
        items = self.role("region", "Node").get_by_role("list", name=side).get_by_role("listitem").all()
        return [item.inner_text().split("\n")[:2] for item in items]

    def pinned(self) -> list[str]:
        items = self.role("list", "Pinned nodes").get_by_role("listitem").all()
        return [item.inner_text().split("\n")[0] for item in items]

    def saved(self) -> dict[str, Any]:
        with self.page.expect_download() as download:
            self.role("button", "Save JSON").click()
        document = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        assert isinstance(document, dict)
        return document

    def place(self, node_id: str) -> tuple[float, float]:
        """Where a node stands in the window."""
        x, y = self.page.evaluate("(id) => Object.values(explorer.canvas.place(explorer.graph.place.get(id)))", node_id)
        box = self.role("application", "Graph").bounding_box()
        return box["x"] + x, box["y"] + y

    def ask(self, expression: str) -> Any:
        """A value of the page's own object `explorer`."""
        return self.page.evaluate(expression)


@contextmanager
def explored(
    browser: Any, graph: ag.Graph, folder: Path, *, has_touch: bool = False, **held: Any
) -> Iterator[Explored]:
    """The graph's page, open; when it is closed, it has made no request and said nothing."""
    file = folder / "page.html"
    graph.explore(file, **held)
    context = browser.new_context(has_touch=has_touch)
    try:
        opened = Explored(context.new_page(), file)
        yield opened
        assert [url for url in opened.requests if not url.startswith(("file:", "blob:", "data:"))] == []
        assert opened.said == []
    finally:
        context.close()
