"""What a person moves and hides in the picture, and which links stand out."""

import json
from pathlib import Path
from typing import Any

import pytest
from explored import Explored, explored
from six_nodes import A, B, C, T, six_nodes

import attrgraph as ag

pytestmark = pytest.mark.doors


def drag(page: Explored, name: str, dx: float, dy: float) -> None:
    x, y = page.place(name)
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + dx, y + dy, steps=4)
    page.page.mouse.up()


def stands_out(page: Explored) -> list[str]:
    """The other ends of the links of the selected node that stand out."""
    scene = "explorer.canvas.scene"
    ends = page.ask(f"questions.linksOf({scene}, explorer.selected).flatMap(({{source, target}}) => [source, target])")
    names = page.ask("explorer.graph.nodes.map((node) => node.node_id)")
    return sorted({names[i] for i in ends} - {page.ask("explorer.state.choice.node")})


def test_a_node_is_dragged_stays_there_and_is_put_back(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        x, y = page.place(B)
        drag(page, B, 40, -30)
        assert page.place(B) == pytest.approx((x + 40, y - 30), abs=1)
        assert page.heading == []  # it is no click
        page.reload()
        assert page.place(B) != pytest.approx((x, y), abs=5)
        drag(page, B, 10, 10)
        page.press("u")
        page.role("application", "Graph").focus()
        page.page.mouse.dblclick(*page.place(B))
        page.press("f")
        assert page.place(B) == pytest.approx((x, y), abs=1)
        assert page.heading == ["feature 2"] and page.role("textbox", "Label").is_visible()
        page.page.mouse.dblclick(x, y)  # nothing is there to be put back, and it stays selected
        assert page.heading == ["feature 2"]


def test_keys_move_a_node_and_put_it_or_all_back(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(B)
        page.press("Alt+ArrowRight", "Alt+ArrowUp")
        assert page.ask("explorer.state.choice.moved") == {B: [22, -22]}
        assert page.heading == ["feature 2"]
        page.press("u")
        assert page.ask("explorer.state.choice.moved") == {B: [22, 0]}
        page.press("b")
        assert page.ask("explorer.state.choice.moved") == {}
        page.press("u", "Escape", "b")
        assert page.ask("explorer.state.choice.moved") == {}


def test_where_nodes_were_moved_to_is_in_sight_and_bad_places_are_left_out(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.open(f"#moved={json.dumps({B: [-900, 500], C: ['1', 2], T: [1], A: [1e9, 0]})}")
        assert page.ask("explorer.state.choice.moved") == {B: [-900, 500]}
        box = page.role("application", "Graph").bounding_box()
        x, y = page.place(B)
        assert box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"]


def test_features_that_fire_too_often_are_hidden_but_for_pinned_ones(browser: Any, tmp_path: Path) -> None:
    record = {"label": "", "histogram": [], "examples_quantiles": [], "n_tokens": 100, "act_mean": 1.0, "act_max": 1.0}
    logits = {"top_logits": [], "top_logit_values": [], "bottom_logits": [], "bottom_logit_values": []}
    pages = {
        f"{layer}/{feature}": {**record, **logits, "layer": layer, "index": feature, "activation_frequency": share}
        for layer, feature, share in ((0, 1, 0.5), (0, 2, 0.02))
    }
    with explored(browser, six_nodes(), tmp_path, features=pages) as page:
        page.open("#nodes=1&edges=1")
        page.role("slider", "Feature density").fill("0.1")
        assert page.n_nodes == 5
        assert "hidden since they fire on more than 10% of tokens: 1" in page.page.locator("footer").inner_text()
        page.select(C)  # of which nothing is known
        assert [label for label, _ in page.edges("Inputs")] == ["feature 2"]
        saved = page.saved()
        page.select(A)
        page.press("p")
        assert page.n_nodes == 5 and {node["node_id"] for node in page.saved()["nodes"]} == set(six_nodes().nodes.index)
        page.reload()
        assert page.role("slider", "Feature density").input_value() == "0.1" and page.n_nodes == 5
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(saved), encoding="utf-8")
    loaded = ag.load_graph(file)
    assert A not in loaded.nodes.index and loaded.metadata["pruning"]["feature_density"] == 0.1
    assert loaded.metadata["scores"] == pytest.approx(loaded.scores()._asdict())
    with explored(browser, loaded, tmp_path) as page:  # which still knows how often they fire
        page.role("slider", "Feature density").fill("0")
        assert page.n_nodes == len(loaded.nodes) - 1
    with explored(browser, six_nodes(), tmp_path) as page:
        assert page.role("slider", "Feature density").count() == 0


def test_links_that_stand_out_are_chosen_as_other_pages_do(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    with explored(browser, graph, tmp_path) as page:
        page.open(f"#nodes=1&edges=1&pins={json.dumps([A])}")
        page.select(C)
        for expected, saved_as in (
            ([A, B, T], "both"),  # as it came: nobody has chosen
            ([A, B], "input"),
            ([T], "output"),
            ([A], "both"),
        ):
            assert stands_out(page) == sorted(expected)
            assert page.saved()["qParams"]["linkType"] == saved_as
            page.press("l")
    graph = graph.replace(metadata={**graph.metadata, "qParams": {"linkType": "input"}})
    with explored(browser, graph, tmp_path) as page:
        page.press("l", "l", "l")
        assert page.saved()["qParams"]["linkType"] == "either"
