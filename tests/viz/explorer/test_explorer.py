"""The explorer as a person uses it: by mouse, by keys, with a screen reader."""

import json
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from explored import Explored, explored
from graph_documents import document
from random_graphs import Case
from six_nodes import A, B, C, E, T, graph_of, six_nodes

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.io.check import check_graph_file

pytestmark = pytest.mark.doors

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\u2028\u202eabc $title &amp;"


def named(graph: ag.Graph, **labels: str) -> ag.Graph:
    return graph.replace(nodes=graph.nodes.assign(label=graph.nodes["label"].to_dict() | labels))


def hover_somewhere(page: Explored) -> tuple[float, float]:
    """A place of the picture where the pointer is near a node."""
    box = page.role("application", "Graph").bounding_box()
    for x in range(70, int(box["width"]), 40):
        for y in range(10, int(box["height"]), 25):
            page.page.mouse.move(box["x"] + x, box["y"] + y)
            if page.role("tooltip").is_visible():
                return box["x"] + x, box["y"] + y
    raise AssertionError("no node is found by the pointer")


def test_the_page_may_load_nothing_and_holds_its_own_script_only(tmp_path: Path) -> None:
    page = six_nodes().explore()
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    assert page == six_nodes().explore()
    assert len(repr(page)) < 50 and "srcdoc=" in page._repr_html_()


def test_the_scripts_have_right_types() -> None:
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("there is no TypeScript to check types with: npm install -g typescript")
    config = Path(ag.__path__[0], "viz", "explorer", "jsconfig.json")
    found = subprocess.run([tsc, "-p", str(config)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_search_finds_ids_labels_and_tokens_and_enter_selects(browser: Any, tmp_path: Path) -> None:
    with explored(browser, named(six_nodes(), **{C: "the <capital>"}), tmp_path) as page:
        assert page.find("capital") == [f"the <capital>\n{C}"]
        page.press("Enter")
        assert page.heading == ["the <capital>"]
        assert C in page.role("region", "Node").inner_text()
        assert page.find("no such thing") == []
        page.press("Escape")
        assert page.find("one")[0].split("\n")[1] in (A, E)
        page.press("Escape")
        assert [line.split("\n")[1] for line in page.find("1/3")] == [C]
        page.press("ArrowDown", "ArrowUp", "Enter")
        assert page.heading == ["the <capital>"]


def test_arrows_follow_the_strongest_edges_and_move_between_columns_and_layers(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.open("#nodes=1")
        page.press("ArrowDown")
        assert page.heading == ["logit 9"]
        page.press("ArrowDown")
        assert page.heading == ["feature 3"]
        page.press("ArrowUp")
        assert page.heading == ["logit 9"]
        page.press("Shift+ArrowDown", "Shift+ArrowDown")
        assert page.heading == ["feature 2"]
        page.press("ArrowLeft")
        assert page.heading == ["feature 1"]
        page.press("?")
        assert page.role("dialog", "Keys").is_visible()
        page.press("Escape")
        assert not page.role("dialog", "Keys").is_visible() and page.heading == ["feature 1"]
        page.press("Escape")
        assert page.heading == []


def test_pins_and_labels_are_undone_and_survive_a_reload(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(B)
        node = page.role("region", "Node")
        node.get_by_role("button", name="Pin", exact=True).click()
        assert page.pinned() == ["feature 2"]
        node.get_by_role("textbox", name="Label").fill("two tokens")
        page.press("Enter")
        assert page.heading == page.pinned() == ["two tokens"]
        page.role("slider", "Node threshold").fill("0.7")
        n_nodes = page.n_nodes
        page.reload()
        assert page.heading == page.pinned() == ["two tokens"] and page.n_nodes == n_nodes
        assert page.role("slider", "Node threshold").input_value() == "0.7"
        page.role("application", "Graph").focus()
        page.press("p")
        assert page.pinned() == []
        page.press("u")
        assert page.pinned() == ["two tokens"]
        page.press("r", "Control+z")
        assert page.pinned() == ["two tokens"]


def test_an_address_that_is_damaged_or_of_another_graph_changes_nothing_else(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        for fragment in (
            "#pins=[1,{}]&nodes=7&edges=x&groups=[[1]]&labels=[]&node=none",
            "#pins={",
            "#%%%",
            '#pins=["x"]',
        ):
            page.open(fragment)
            assert page.n_nodes == len(six_nodes().prune().nodes)
            assert page.pinned() == page.heading == []


def test_the_pointer_shows_selects_and_pins(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        x, y = hover_somewhere(page)
        shown = page.role("tooltip").inner_text().split("\n")[0]
        page.page.mouse.click(x, y)
        assert page.heading == [shown]
        page.page.keyboard.down("Control")
        page.page.mouse.click(x, y)
        page.page.keyboard.up("Control")
        assert page.pinned() == [shown]
        page.page.mouse.click(x, y)
        assert page.heading == []


@pytest.mark.parametrize("flavour", ["circuit-tracer schema 1", "neuronpedia", "anthropic", "eleutherai"])
def test_a_graph_that_is_saved_as_it_came_is_what_python_writes(flavour: str, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(json.dumps(document(flavour)), encoding="utf-8")
    graph = ag.load_graph(tmp_path / "theirs.json")
    extra = {
        "document": {},
        "nodes": {},
        **graph.metadata.get("extra", {}),
        "links": [["E_101_1", "0_7_1", {"key": 1}]],
    }
    graph = graph.replace(metadata={**graph.metadata, "extra": extra})
    graph.to_json(tmp_path / "ours.json")
    with explored(browser, graph, tmp_path) as page:
        assert page.saved() == json.loads((tmp_path / "ours.json").read_text(encoding="utf-8"))


def test_the_focus_stays_where_a_person_was(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(B)
        page.role("button", "Pin").focus()
        page.press("Enter")
        assert page.page.evaluate("document.activeElement.textContent") == "Unpin"
        page.role("list", "Inputs").get_by_role("button").first.focus()
        page.press("Enter")
        assert page.page.evaluate("document.activeElement.tagName") == "H2"


def test_a_pinned_node_is_shown_and_saved_however_little_it_influences(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.role("slider", "Node threshold").fill("0.1")
        kept = six_nodes().prune(0.1)
        assert A not in kept.nodes.index and page.n_nodes == len(kept.nodes)
        page.select(A)
        assert page.edges("Inputs") == [["embedding 7", "+2"]] and page.edges("Outputs") == [["feature 3", "-2"]]
        page.press("p")
        assert page.n_nodes == len(kept.nodes)
        assert {node["node_id"] for node in page.saved()["nodes"]} == {*kept.nodes.index, A}


def test_labels_stay_text(browser: Any, tmp_path: Path) -> None:
    graph = named(six_nodes(), **{C: HOSTILE, T: HOSTILE})
    graph = replace(graph, prompt_tokens=[HOSTILE, "\u202e\u05d0"])
    with explored(browser, graph, tmp_path) as page:
        page.page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.select(C)
        assert page.heading == [HOSTILE]
        page.press("p")
        hover_somewhere(page)
        node = page.role("region", "Node")
        node.get_by_role("textbox", name="Label").fill(HOSTILE + "2")
        page.press("Enter")
        assert page.page.locator("img, main script, aside script").count() == 0


@pytest.mark.parametrize("flavour", ["", "circuit-tracer schema 1", "neuronpedia", "anthropic"])
def test_saved_json_is_what_is_shown_with_pins_groups_and_labels(flavour: str, browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    node = B
    if flavour:
        (tmp_path / "theirs.json").write_text(json.dumps(document(flavour)), encoding="utf-8")
        graph, node = ag.load_graph(tmp_path / "theirs.json"), "2_3_3"
    with explored(browser, graph, tmp_path) as page:
        assert page.pinned() == [
            graph.nodes["label"][name] for name in graph.metadata.get("qParams", {}).get("pinnedIds", [])
        ]
        page.select(node)
        page.press("p")
        page.role("region", "Node").get_by_role("textbox", name="Label").fill("mine")
        page.press("Enter")
        page.role("slider", "Node threshold").fill("0.9")
        content = page.saved()
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert [problem for problem in check_graph_file(file) if problem.severity != "note"] == []
    loaded = ag.load_graph(file)
    pinned = graph.metadata.get("qParams", {}).get("pinnedIds", [])
    kept = graph.prune(0.9)
    assert loaded.metadata["repairs"] == []
    assert set(loaded.nodes.index) == {*kept.nodes.index, *pinned, node}
    assert loaded.nodes["label"][node] == "mine"
    assert loaded.metadata["pruning"] == {"node_threshold": 0.9, "edge_threshold": 0.98}
    assert loaded.pinned == loaded.metadata["qParams"]["pinnedIds"] == [*pinned, node]
    if set(loaded.nodes.index) == set(kept.nodes.index):
        assert (loaded.adjacency != kept.adjacency).nnz == 0
        if not flavour:
            assert loaded.metadata["scores"] == pytest.approx(kept.metadata["scores"])
    if flavour:
        assert loaded.metadata["qParams"]["supernodes"] == graph.metadata["qParams"]["supernodes"]


def test_the_picture_is_moved_and_zoomed_and_the_panels_are_made_wider(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        place = "Object.values(explorer.canvas.place(explorer.graph.place.get('1_3_1')))"
        box = page.role("application", "Graph").bounding_box()
        start = page.ask(place)
        page.page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + 60, box["y"] + 70, steps=3)
        page.page.mouse.up()
        assert page.ask(place) == pytest.approx([start[0] + 20, start[1] + 30])
        page.page.mouse.wheel(0, -400)
        assert page.ask("explorer.canvas.view.sx") == pytest.approx(
            2.718 * page.ask("explorer.canvas.fit() ?? explorer.canvas.view.sx"), rel=1e-3
        )
        assert page.ask(place) == pytest.approx(start)
        assert page.heading == []
        width = page.page.locator("aside").bounding_box()["width"]
        page.role("separator", "Width of the panels").focus()
        page.press("ArrowLeft")
        assert page.page.locator("aside").bounding_box()["width"] == pytest.approx(width + 24, abs=16)


def test_a_renamed_answer_keeps_the_probability_without_which_other_pages_fail(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.select(T)
        page.role("region", "Node").get_by_role("textbox", name="Label").fill("the answer")
        page.press("Enter")
        content = page.saved()
    assert {node["node_id"]: node["clerp"] for node in content["nodes"]}[T] == "the answer (p=1.000)"
    (tmp_path / "saved.json").write_text(json.dumps(content), encoding="utf-8")
    loaded = ag.load_graph(tmp_path / "saved.json")
    assert loaded.nodes["label"][T] == "the answer" and loaded.nodes["token"][T] == six_nodes().nodes["token"][T]
    assert loaded.to_json(tmp_path / "again.json") == six_nodes().to_json(tmp_path / "other.json")[1:]
    assert ag.load_graph(tmp_path / "again.json").nodes["label"][T] == "the answer"
    with explored(browser, loaded, tmp_path) as page:
        page.select(T)
        assert page.heading == ["the answer"]


@pytest.mark.parametrize(("token", "shown"), [(" ", "space"), ("", '""'), ("\n", "\\n")])
def test_an_answer_that_cannot_be_seen_is_named(token: str, shown: str) -> None:
    graph = six_nodes()
    page = graph.replace(nodes=graph.nodes.assign(token=token)).explore()
    assert f"<title>onetwo → {escape(shown)} (100.0%)</title>" in page


def test_a_blank_token_without_a_label_can_be_seen(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    nodes = graph.nodes.assign(token=graph.nodes["token"].replace({"two": " "}), label="")
    with explored(browser, graph.replace(nodes=nodes), tmp_path) as page:
        page.select(B)
        assert page.heading == ['" "']


def test_counts_have_commas_and_what_the_highest_threshold_leaves_out_is_explained(
    browser: Any, tmp_path: Path
) -> None:
    n = 1200
    rows = [("feature", 0, 0, i, 1.0, 0.0) for i in range(n)]
    edges = np.zeros((n + 2, n + 2))
    edges[: n - 1, n] = edges[n + 1, :n] = 1
    graph = graph_of([*rows, ("embedding", -1, 0, 7, 0.0, 0.0), ("logit", 2, 0, 9, 1.0, 1.0)], edges, ["one"])
    with explored(browser, graph, tmp_path) as page:
        page.open("#nodes=1&edges=1")
        text = page.page.locator("footer").inner_text()
        assert page.n_nodes == n + 1 and "are features without an input" in text
        assert page.ask("getComputedStyle(document.querySelector('#status span'), '::after').content") == '","'


def test_the_picture_is_saved_as_svg_and_png(browser: Any, tmp_path: Path) -> None:
    with explored(browser, named(six_nodes(), **{C: HOSTILE + "\x00\x1b"}), tmp_path) as page:
        page.select(C)
        for name in ("SVG", "PNG"):
            with page.page.expect_download() as download:
                page.role("button", f"Save {name}").click()
            (tmp_path / name).write_bytes(Path(download.value.path()).read_bytes())
    picture = ElementTree.fromstring((tmp_path / "SVG").read_text(encoding="utf-8"))
    texts = ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"one", "two", "layer 1", "tokens", "answer"} <= set(texts)
    assert any(text.startswith("<img src=x") for text in texts)
    assert {each.tag.rpartition("}")[2] for each in picture.iter()} == {
        "svg",
        "rect",
        "path",
        "polygon",
        "circle",
        "text",
    }
    assert (tmp_path / "PNG").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_printed_in_the_colours_of_paper_and_whole(browser: Any, tmp_path: Path) -> None:
    graph = Case(60, 4, 3, density=0.6, seed=3).build()
    with explored(browser, graph, tmp_path) as page:
        page.page.emulate_media(color_scheme="dark")
        page.open("#nodes=1&edges=1")
        dark = page.ask("explorer.canvas.palette()")
        drawn = "explorer.canvas.base.draw = (...given) => (globalThis.atOnce = given[3])"
        page.ask(f"({drawn}, dispatchEvent(new Event('beforeprint')))")
        assert page.ask("explorer.canvas.palette().paper") == "#fff" and page.ask("atOnce === Infinity")
        page.ask("dispatchEvent(new Event('afterprint'))")
        assert page.ask("explorer.canvas.palette()") == dark


def test_a_graph_without_an_answer_and_another_ending_are_refused(tmp_path: Path) -> None:
    graph = six_nodes()
    with pytest.raises(GraphFileError, match="no answer"):
        graph.select(kind="feature").subgraph().explore()
    with pytest.raises(GraphFileError, match=r"unknown ending '.svg'; expected .html"):
        graph.explore(tmp_path / "page.svg")
    graph.explore(tmp_path / "page.html")
    with pytest.raises(GraphFileError, match="exists"):
        graph.explore(tmp_path / "page.html", overwrite=False)
