"""Graphs that are small, large or unusual in other ways are shown without a word on the console."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import explored
from six_nodes import graph_of

import attrgraph as ag

pytestmark = pytest.mark.doors


def fan(n: int, kind: str) -> ag.Graph:
    """One answer that reads n nodes of a kind at one position, and a token."""
    rows = [(kind, 0, 0, i, 1.0, 0.0) for i in range(n)]
    rows += [("embedding", -1, 0, 7, 0.0, 0.0), ("logit", 1, 0, 9, 1.0, 1.0)]
    edges = np.zeros((n + 2, n + 2))
    edges[n + 1, : n + 1] = np.arange(1, n + 2)
    edges[:n, n] = float(kind == "feature")
    return graph_of(rows, edges, ["one"], n_layers=1)


GRAPHS = {
    "an answer alone": graph_of([("logit", 1, 0, 9, 1.0, 1.0)], np.zeros((1, 1)), ["one"], n_layers=1),
    "a token and an answer": fan(0, "feature"),
    "errors only": fan(1, "error"),
    "many nodes at one position": fan(300, "feature"),
    "an answer that is never given": graph_of([("logit", 1, 0, 9, 1.0, 0.0)], np.zeros((1, 1)), ["one"], n_layers=1),
    "a long prompt": graph_of(
        [*(("embedding", -1, i, i, 0.0, 0.0) for i in range(400)), ("logit", 1, 399, 9, 1.0, 1.0)],
        np.eye(401, k=0)[:, [*range(1, 401), 0]] * (np.arange(401)[:, None] == 400),
        [f"word{i}" for i in range(400)],
        n_layers=1,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_key_works_in_an_odd_graph(name: str, browser: Any, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    with explored(browser, graph, tmp_path) as page:
        assert page.n_nodes == len(graph.prune().nodes)
        for key in (
            "ArrowDown",
            "p",
            "m",
            "ArrowDown",
            "g",
            "x",
            "l",
            "f",
            "ArrowLeft",
            "Shift+ArrowUp",
            "u",
            "r",
            "Escape",
        ):
            page.press(key)
        page.role("slider", "Node threshold").fill("1")
        assert page.n_nodes == len(graph.prune(1).nodes)
        page.page.set_viewport_size({"width": 390, "height": 800})
        page.page.wait_for_timeout(50)
        assert len(page.saved()["nodes"]) >= page.n_nodes
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
