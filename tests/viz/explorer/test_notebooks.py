"""What a notebook shows of graphs, effects and validations."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from random_graphs import Case
from six_nodes import six_nodes

from attrgraph.interventions.intervene import Effect
from attrgraph.validation.result import Statement, Validation

pytestmark = pytest.mark.doors

HOSTILE = "<script>alert(1)</script>"


def test_a_graph_is_its_pruned_explorer_in_a_frame(browser: Any, tmp_path: Path) -> None:
    graph = Case(60, 4, 3, density=0.6, seed=3).build()
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><body>{graph._repr_html_()}</body>", encoding="utf-8")
    page, said, requests = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(notebook.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert frame.get_by_role("status").inner_text() == f"{len(graph.prune().nodes)} nodes"
    frame.get_by_role("application", name="Graph").press("ArrowDown")
    assert frame.get_by_role("region", name="Node").get_by_role("heading", level=2).inner_text().startswith("logit")
    frame.get_by_role("slider", name="Node threshold").fill("0.5")
    with page.expect_download():
        frame.get_by_role("button", name="Save JSON").click()
    assert said == []
    assert [url for url in requests if not url.startswith(("file:", "about:", "blob:", "data:"))] == []
    page.close()


def test_a_frame_has_a_bounded_size_and_a_graph_without_an_answer_is_text() -> None:
    graph = six_nodes()
    large = graph.replace(nodes=graph.nodes.assign(label=[HOSTILE * 40_000, *graph.nodes["label"][1:]]))
    assert len(large._repr_html_()) < 2_000_000
    assert graph.select(kind="feature").subgraph()._repr_html_() == "<pre>Graph(3 feature; 2 edges)</pre>"


def test_effects_and_validations_are_tables_whose_texts_stay_text() -> None:
    features = pd.DataFrame({"layer": 1, "pos": 2, "feature": range(30), "before": 0.0, "after": range(30)})
    change = torch.zeros(2)
    effect = Effect("free", change, change, change, 0.5, [(HOSTILE, 0.5)], [("b", 0.25)], features)
    validation = Validation(
        [Statement("good", HOSTILE)], {}, {"nodes": features.assign(token=HOSTILE)}, six_nodes(), {}
    )
    for shown in (effect._repr_html_(), validation._repr_html_()):
        assert "<table" in shown and "<script" not in shown and "&lt;script" in shown
    assert "10 more rows are in effect.features" in effect._repr_html_()
