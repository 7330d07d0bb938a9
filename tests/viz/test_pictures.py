"""Pictures of graphs: where boxes stand, what arrows show, what the caption says, and that nothing breaks the text."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from scipy import sparse

import attrgraph as ag
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.influence.influence import with_influence
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import node_table
from attrgraph.viz.text import MOST_CHARACTERS, shorten, visible, wrap

Build = Callable[..., LanguageModel]
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz")
_BOX = re.compile(
    r'^  "((?:[^"\\]|\\.)*)" \[pos="(.*?),(.*?)", width=(.*?), height=(.*?), label="((?:[^"\\]|\\.)*)"(.*)\];$'
)
_ARROW = re.compile(r'^  "(.*?)" -> "(.*?)" \[color="(#\w+)", style=(\w+), penwidth=(.*?), .*pos="e,(\S+) (.*)"\];$')


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    label: str
    look: str


class Arrow(NamedTuple):
    color: str
    style: str
    width: float
    curve: np.ndarray  # [3n + 1, 2]


def boxes_of(dot: str) -> dict[str, Box]:
    """The boxes of DOT text by their keys, in points."""
    found = [match for match in map(_BOX.match, dot.splitlines()) if match]
    return {
        m[1]: Box(float(m[2]), float(m[3]), 72 * float(m[4]), 72 * float(m[5]), m[6], m[7])
        for m in found
        if not m[1].startswith(("row ", "legend ", "caption"))
    }


def arrows_of(dot: str) -> dict[tuple[str, str], Arrow]:
    found = [match for match in map(_ARROW.match, dot.splitlines()) if match]
    return {
        (m[1], m[2]): Arrow(m[3], m[4], float(m[5]), np.array([p.split(",") for p in m[7].split()], dtype=float))
        for m in found
        if not m[1].startswith("legend ")
    }


def caption_in(dot: str) -> str:
    """The caption's words, its line breaks as spaces."""
    (line,) = [line for line in dot.splitlines() if line.startswith('  "caption"')]
    return line.split('label="')[1].removesuffix('"];').replace("\\l", " ")


def small_graph(labels: tuple[str, str] = ("texas", "say a capital")) -> ag.Graph:
    """Three tokens, two features, an error and an answer, with edges that are easy to reckon with."""
    rows = {
        "E_7_0": ("embedding", -1, 0, 7, "the", 0.0, 0.0, 'Emb: "the"'),
        "E_8_1": ("embedding", -1, 1, 8, "dallas", 0.0, 0.0, 'Emb: "dallas"'),
        "E_9_2": ("embedding", -1, 2, 9, "is", 0.0, 0.0, 'Emb: "is"'),
        "0_3_1": ("feature", 0, 1, 3, "dallas", 2.0, 0.0, labels[0]),
        "1_5_2": ("feature", 1, 2, 5, "is", 4.0, 0.0, labels[1]),
        "1_-1_2": ("error", 1, 2, -1, "is", 0.0, 0.0, "L1 error"),
        "3_4_2": ("logit", 2, 2, 4, "austin", 10.0, 0.9, 'Output "austin" (p=0.900)'),
    }
    columns = ["kind", "layer", "pos", "feature", "token", "activation", "probability", "label"]
    nodes = pd.DataFrame.from_dict(rows, orient="index", columns=columns).assign(influence=0.0)
    nodes.index = pd.Index(nodes.index, name="node_id", dtype="str")
    names = list(rows)
    adjacency = np.zeros((7, 7), dtype=np.float32)
    for source, target, weight in (
        ("E_8_1", "0_3_1", 3.0),
        ("E_7_0", "0_3_1", -1.0),
        ("0_3_1", "1_5_2", 4.5),
        ("E_9_2", "1_5_2", 0.5),
        ("1_5_2", "3_4_2", 6.0),
        ("1_-1_2", "3_4_2", -3.0),
        ("E_8_1", "3_4_2", 1.0),
    ):
        adjacency[names.index(target), names.index(source)] = weight
    edges = sparse.csr_array(adjacency)
    table = node_table(with_influence(nodes.assign(cumulative_influence=0.0), edges))
    return ag.Graph(table, edges, ["the", "dallas", "is"], {"n_layers": 2, "prompt": "the dallas is"})


@pytest.fixture
def graph(traced_model: Build, prompt: list[int]) -> ag.Graph:
    return ag.trace(traced_model(), prompt)


# -- places ------------------------------------------------------------------------------------------------------------


def test_tokens_stand_in_reading_order_and_layers_upward(graph: ag.Graph) -> None:
    pruned = graph.prune(0.5, 0.9)
    boxes = boxes_of(pruned.to_dot())
    assert set(boxes) == set(pruned.nodes.index)
    tokens = pruned.nodes[pruned.nodes["kind"] == "embedding"].sort_values("pos").index
    xs = [boxes[name].x for name in tokens]
    assert xs == sorted(xs) and len(set(xs)) == len(graph.prompt_tokens)
    # every node stands above all of lower layers, and no token is right of a node of a later one
    for _, lower in pruned.nodes.groupby("layer"):
        above = pruned.nodes[pruned.nodes["layer"] > lower["layer"].iloc[0]].index
        assert max(boxes[name].y for name in lower.index) < min((boxes[name].y for name in above), default=np.inf)
    inner = pruned.nodes[pruned.nodes["kind"].isin(["feature", "error"])]
    order = [boxes[name].x for name in inner.sort_values("pos").index]
    columns = inner.sort_values("pos")["pos"].to_numpy()
    for pos in range(len(graph.prompt_tokens) - 1):
        left, right = (np.array(order)[mask] for mask in (columns <= pos, columns > pos))
        assert max(left, default=-np.inf) < min(right, default=np.inf)


def test_boxes_never_overlap_and_no_arrow_runs_through_a_box(graph: ag.Graph) -> None:
    dot = graph.prune(0.6, 0.9).to_dot()
    boxes, arrows = boxes_of(dot), arrows_of(dot)
    assert len(boxes) > 30 and len(arrows) > 100
    rectangles = np.array(
        [[b.x - b.width / 2, b.x + b.width / 2, b.y - b.height / 2, b.y + b.height / 2] for b in boxes.values()]
    )
    left, right, low, high = rectangles.T
    apart = (left[:, None] >= right) | (right[:, None] <= left) | (low[:, None] >= high) | (high[:, None] <= low)
    assert (apart | np.eye(len(boxes), dtype=bool)).all()
    t = np.linspace(0, 1, 40)[:, None]
    names = list(boxes)
    for ends, arrow in arrows.items():
        points = [
            (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t**2 * (1 - t) * p[2] + t**3 * p[3]
            for p in (arrow.curve[i : i + 4] for i in range(0, len(arrow.curve) - 1, 3))
        ]
        x, y = np.concatenate(points).T[:, :, None]
        slack = 0.02  # places are written with two digits
        inside = (x > left + slack) & (x < right - slack) & (y > low + slack) & (y < high - slack)
        hit = {names[i] for i in np.flatnonzero(inside.any(0))}
        assert not hit, (ends, hit)


def test_a_part_of_a_graph_still_shows_the_whole_prompt() -> None:
    graph = small_graph()
    kept = graph.nodes["kind"].isin(["feature", "logit"]).to_numpy()
    part = ag.Graph(
        graph.nodes[kept], sparse.csr_array(graph.adjacency[kept][:, kept]), graph.prompt_tokens, graph.metadata
    )
    boxes = boxes_of(part.to_dot())
    assert [boxes[f"token {pos}"].label for pos in range(3)] == ["the\\n0", "dallas\\n1", "is\\n2"]
    assert boxes["token 0"].x < boxes["token 1"].x < boxes["token 2"].x
    assert all("plaintext" in boxes[f"token {pos}"].look for pos in range(3))
    nothing = np.zeros(7, dtype=bool)
    empty = ag.Graph(
        graph.nodes[nothing], sparse.csr_array((0, 0), dtype=np.float32), graph.prompt_tokens, graph.metadata
    )
    assert set(boxes_of(empty.to_dot())) == {"token 0", "token 1", "token 2"}


def test_the_bias_node_is_not_drawn_and_the_caption_says_so(graph: ag.Graph) -> None:
    assert "bias" in set(graph.nodes["kind"])
    dot = graph.to_dot(min_share=0.5)
    assert "B" not in boxes_of(dot)
    assert "unpruned" in caption_in(dot) and "bias node is not drawn" in caption_in(dot)


# -- arrows ------------------------------------------------------------------------------------------------------------


def test_width_is_the_share_of_the_target_and_sign_shows_twice(graph: ag.Graph) -> None:
    pruned = graph.prune(0.5, 0.9)
    arrows = arrows_of(pruned.to_dot())
    assert len(arrows) == pruned.adjacency.nnz
    dense, ids = pruned.adjacency.toarray().astype(np.float64), list(pruned.nodes.index)
    n_negative = 0
    for (source, target), arrow in arrows.items():
        row = dense[ids.index(target)]
        weight = row[ids.index(source)]
        share = abs(weight) / np.abs(row).sum()
        assert arrow.width == pytest.approx(max(0.5, 7.0 * share), abs=0.006)  # written with two digits
        strong, light = ("#0072b2", "#8fc1de") if weight > 0 else ("#d55e00", "#eeb68a")
        assert arrow.color == (strong if share >= 0.05 else light)
        assert arrow.style == ("solid" if weight > 0 else "dashed")
        n_negative += weight < 0
    assert n_negative > 0


def test_small_edges_are_left_out_when_asked_and_counted_in_the_caption(graph: ag.Graph) -> None:
    pruned = graph.prune(0.5, 0.95)
    dense = np.abs(pruned.adjacency.toarray().astype(np.float64))
    shares = dense / np.maximum(dense.sum(1, keepdims=True), 1e-300)
    n_small = int(((shares > 0) & (shares < 0.04)).sum())
    assert 0 < n_small < pruned.adjacency.nnz
    dot = pruned.to_dot(min_share=0.04)
    assert len(arrows_of(dot)) == pruned.adjacency.nnz - n_small
    assert f"{n_small} edges are not drawn, each with less than 4% of it" in caption_in(dot)
    assert "not drawn" not in caption_in(pruned.to_dot())


def test_darkness_is_influence_in_the_drawn_graph() -> None:
    graph = small_graph()
    boxes = boxes_of(graph.to_dot())
    # by hand: the answer reads shares 0.6, 0.3 and 0.1, its weight is 0.9; the feature above reads 0.9 and 0.1
    by_hand = {"1_5_2": 0.54, "1_-1_2": 0.27, "0_3_1": 0.486, "E_8_1": 0.09 + 0.486 * 0.75, "E_7_0": 0.486 * 0.25}
    for name, influence in by_hand.items():
        blue = round(255 - influence / 0.54 * (255 - 80))
        assert f'fillcolor="#{round(255 - influence / 0.54 * 15):02x}' in boxes[name].look
        assert re.search(rf'fillcolor="#....{blue:02x}"', boxes[name].look), name
    assert "influence 0.540" in graph.to_dot()


# -- supernodes --------------------------------------------------------------------------------------------------------


def test_a_group_is_one_box_with_its_name_count_and_summed_edges(graph: ag.Graph) -> None:
    pruned = graph.prune(0.7, 0.95)
    features = list(pruned.nodes.query("kind == 'feature'").index)
    groups = {"some of them": features[:4], "others": [*features[4:7], "9_9_9"]}
    dot = pruned.to_dot(groups=groups)
    boxes, arrows = boxes_of(dot), arrows_of(dot)
    assert not set(features[:7]) & set(boxes)
    assert boxes["group some of them"].label == "some of them\\n4 nodes"
    assert boxes["group others"].label == "others\\n3 of 4 nodes"
    assert "peripheries=2" in boxes["group others"].look
    group_of = {member: f"group {name}" for name, members in groups.items() for member in members}
    coo, ids = pruned.adjacency.tocoo(), list(pruned.nodes.index)
    sums, inputs = dict[tuple[str, str], float](), dict[str, float]()
    for row, column, weight in zip(coo.row, coo.col, coo.data, strict=True):
        source, target = (group_of.get(ids[i], ids[i]) for i in (column, row))
        if source != target:
            sums[source, target] = sums.get((source, target), 0.0) + float(weight)
            inputs[target] = inputs.get(target, 0.0) + abs(float(weight))
    assert set(arrows) == set(sums)
    for (source, target), weight in sums.items():
        arrow = arrows[source, target]
        assert arrow.width == pytest.approx(max(0.5, 7 * abs(weight) / inputs[target]), abs=0.006)
        assert (arrow.style == "solid") == (weight > 0)
    assert "double box" in caption_in(dot)
    # a group stands where its most influential member does
    layer = pruned.nodes["layer"][pruned.influence()[features[:4]].idxmax()]
    others = pruned.nodes[~pruned.nodes.index.isin(features[:7])]
    y = boxes["group some of them"].y
    assert all(boxes[str(name)].y < y for name in others.index[others["layer"] < layer])
    assert all(boxes[str(name)].y > y for name in others.index[others["layer"] > layer])


@pytest.mark.refusal
def test_groups_that_cannot_be_drawn_are_refused() -> None:
    graph = small_graph()
    with pytest.raises(AttrGraphError, match=r"node 0_3_1 is in two groups, 'a' and 'b'"):
        graph.to_dot(groups={"a": ["0_3_1"], "b": ["1_5_2", "0_3_1"]})
    with pytest.raises(AttrGraphError, match=r"group 'a': the graph has none of its nodes \(0_4_1\)"):
        graph.to_dot(groups={"a": ["0_4_1"]})
    with pytest.raises(AttrGraphError, match=r"min_share is 1\.5"):
        graph.to_dot(min_share=1.5)


# -- caption -----------------------------------------------------------------------------------------------------------


def test_caption_states_question_answer_pruning_and_scores(graph: ag.Graph) -> None:
    pruned = graph.prune(0.5, 0.9)
    words = caption_in(pruned.to_dot())
    n_nodes = int((graph.nodes["kind"] != "bias").sum())
    kept = (graph.nodes["kind"] != "bias").to_numpy()
    n_edges = graph.adjacency.toarray()[np.ix_(kept, kept)].astype(bool).sum()
    assert f"Pruned to {len(pruned.nodes)} of {n_nodes} nodes and {pruned.adjacency.nnz} of {n_edges} edges" in words
    assert "(node threshold 0.5, edge threshold 0.9)" in words
    whole, here = graph.scores(), pruned.scores()
    assert f"Replacement {whole.replacement:.3f} (of what is kept: {here.replacement:.3f})" in words
    assert f"completeness {whole.completeness:.3f} ({here.completeness:.3f})" in words
    best = graph.nodes[graph.nodes["kind"] == "logit"].nlargest(1, "probability").iloc[0]
    assert f"→ {best['token']} (p = {best['probability']:.3f})" in words
    assert str(graph.metadata["prompt"]) in words
    assert "share of its target's input, light below 5%" in words
    # pruned again, the counts are still those of the graph as traced
    assert f"of {n_nodes} nodes" in caption_in(pruned.prune(0.3, 0.9).to_dot())


def test_caption_admits_what_a_file_does_not_say() -> None:
    graph = small_graph()
    other = {**graph.metadata, "pruning": {"node_threshold": 0.8, "edge_threshold": 0.85}}
    pruned_before = ag.Graph(graph.nodes, graph.adjacency, graph.prompt_tokens, other)
    words = caption_in(pruned_before.to_dot())
    assert "7 nodes and 7 edges of a graph pruned before (node threshold 0.8, edge threshold 0.85)" in words
    assert "does not say how many there were" in words
    again = caption_in(pruned_before.prune(1.0, 1.0).to_dot())
    assert "7 of 7 nodes" in again and "the graph was pruned before (node threshold 0.8, edge threshold 0.85)" in again
    assert "Prompt: the dallas is → austin (p = 0.900)" in words
    without = graph.to_dot(caption=False)
    assert '"caption"' not in without and "legend" not in without
    assert boxes_of(without) == boxes_of(graph.to_dot())


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_fits_its_box_in_the_widest_usual_font() -> None:
    name = "Mississippi, WASHINGTON and the many words of Wyoming that go on and on"
    box = boxes_of(small_graph((name, "")).to_dot())["0_3_1"]
    lines = box.label.split("\\n")
    assert len(lines) > 2 and lines[-1] == "L0/3"
    shown = " ".join(lines[:-1])
    assert shown.endswith("…") and len(shown) <= MOST_CHARACTERS
    assert name.startswith(shown[:-1])
    assert box.height >= len(lines) * 9 * 1.2
    for line in [*lines, "wwwww", "LLLLLLL", "Ünïcödé"]:
        width = TextPath((0, 0), line, size=9, prop=FontProperties(family="DejaVu Sans")).get_extents().width
        assert width <= (box.width if line in lines else wrap_width(line))


def wrap_width(text: str) -> float:
    """The least width at which the text is one line."""
    return next(width / 10 for width in range(10, 3000) if len(wrap(text, width / 10)) == 1)


def test_words_are_wrapped_and_long_ones_broken() -> None:
    assert wrap("city in texas", 1000.0) == ["city in texas"]
    lines = wrap("city in texas", 40.0)
    assert len(lines) > 1 and " ".join(lines) == "city in texas"
    broken = wrap("x" * 50, 60.0)
    assert len(broken) > 1 and "".join(broken) == "x" * 50
    assert wrap("", 10.0) == [""]
    assert wrap("WW", 1.0) == ["W", "W"]
    assert shorten("a" * 48) == "a" * 48 and shorten("a" * 49) == "a" * 47 + "…"


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert visible(" dallas") == "dallas"
    assert visible("\n") == "\\n" and visible("a\tb\x00") == "a\\tb\\x00"
    assert visible(" ") == "space" and visible("   ") == "3 spaces"
    assert visible("\u202egnp") == "\\u202egnp"  # would turn the line round
    assert visible("\ud800") == "\\ud800"
    assert visible("Zürich 東京 क्ष") == "Zürich 東京 क्ष"


HOSTILE = [
    'a"b\\c',
    "&lt;x> & <b>",
    "\\N\\G\\l",
    "x\x00\x1b[31m",
    "\u202e rtl",
    "]; evil [label=1",
    "東京 😀",
    "-->",
]


@needs_dot
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_labels_are_shown_as_they_are_and_break_nothing(text: str, tmp_path: Path) -> None:
    graph = small_graph((text, "plain"))
    nodes = graph.nodes.assign(token=text)
    hostile = ag.Graph(nodes, graph.adjacency, [text, text, "is"], {**graph.metadata, "prompt": text})
    ag.draw_graph(hostile, tmp_path / "g.svg", groups={text: ["1_5_2"]})
    tree = ElementTree.parse(tmp_path / "g.svg")
    shown = "".join(element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text"))
    # Graphviz draws spaces as no-break ones, and puts each line into an element of its own
    shown = shown.replace("\xa0", "").replace(" ", "")
    expected = visible(text).replace(" ", "")
    assert shown.count(expected) >= 5
    arrows = [e for e in tree.iter("{http://www.w3.org/2000/svg}g") if e.get("class") == "edge"]
    assert len(arrows) == 7 + 5  # the graph's, and the legend's


def test_boxes_stay_distinct_whatever_nodes_are_called() -> None:
    graph = small_graph(("plain", "plain"))
    alike = ["a", " a", "a\n", "a\\n", "caption", "row layer 0", "legend 0", "token 0"]
    ids = [*alike, *graph.nodes.index[len(alike) :]][: len(graph.nodes)]
    text = graph.replace(nodes=graph.nodes.set_axis(pd.Index(ids, name="node_id", dtype="str"))).to_dot()
    keys = [line.split(" [pos=")[0] for line in text.splitlines() if " [pos=" in line]
    assert len(set(keys)) == len(keys) >= len(ids)


@needs_dot
def test_names_of_any_length_are_drawn(tmp_path: Path) -> None:
    graph = small_graph(("plain", "plain"))
    ag.draw_graph(graph, tmp_path / "g.svg", groups={"x" * 10**6: ["1_5_2"]})
    assert ElementTree.parse(tmp_path / "g.svg")


def test_the_same_graph_gives_the_same_text(graph: ag.Graph, tmp_path: Path) -> None:
    pruned = graph.prune(0.5, 0.9)
    text = pruned.to_dot()
    assert text == graph.prune(0.5, 0.9).to_dot()
    pruned.save(tmp_path / "g.safetensors")
    pruned.to_json(tmp_path / "g.json")
    for name in ("g.safetensors", "g.json"):
        assert ag.load_graph(tmp_path / name).to_dot() == text
    ag.draw_graph(pruned, tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text(encoding="utf-8") == text


@needs_dot
@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_picture_is_drawn_without_a_word(
    ending: str, start: bytes, graph: ag.Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ag.draw_graph(graph.prune(0.3, 0.5), tmp_path / f"a.{ending}", min_share=0.01)
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    assert capfd.readouterr() == ("", "")  # Graphviz warns of text that does not fit
    if ending == "svg":
        ag.draw_graph(graph.prune(0.3, 0.5), tmp_path / "b.svg", min_share=0.01)
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_picture_without_graphviz_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraphFileError, match="apt install graphviz"):
        ag.draw_graph(small_graph(), tmp_path / "g.svg")
    ag.draw_graph(small_graph(), tmp_path / "g.dot")
    assert [path.name for path in tmp_path.iterdir()] == ["g.dot"]


@pytest.mark.refusal
def test_pictures_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    graph = small_graph()
    with pytest.raises(GraphFileError, match=r"unknown ending '\.gif'; expected one of \.svg, \.png, \.pdf, \.dot"):
        ag.draw_graph(graph, tmp_path / "g.gif")
    (tmp_path / "g.dot").write_text("mine")
    with pytest.raises(GraphFileError, match="exists"):
        ag.draw_graph(graph, tmp_path / "g.dot", overwrite=False)
    assert (tmp_path / "g.dot").read_text() == "mine"
    ag.draw_graph(graph, tmp_path / "g.dot")
    nodes = pd.concat([graph.nodes.iloc[[0]]] * 501)
    nodes.index = pd.Index([f"E_7_{i}" for i in range(501)], name="node_id", dtype="str")
    many = ag.Graph(
        nodes.assign(pos=np.arange(501)), sparse.csr_array((501, 501), dtype=np.float32), ["the"] * 501, graph.metadata
    )
    with pytest.raises(GraphFileError, match=r"501 nodes are too many to draw \(at most 500\); prune"):
        ag.draw_graph(many, tmp_path / "many.svg")
