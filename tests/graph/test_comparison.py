"""Two graphs against one another, many in one, and the graph of a difference: by hand, by laws, on the demo."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from six_nodes import A, B, C, E, F, Parts, T, graph_of, random_parts, six_nodes

import attrgraph as ag
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.graph.comparison import union_edges, union_nodes
from attrgraph.graph.comparison.alignment import align
from attrgraph.graph.comparison.union import wilson_interval
from attrgraph.graph.origin import check_traced_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.viz.diff_dot import draw_diff

Build = Callable[..., LanguageModel]
PROMPT = "in the state containing {} the capital is"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return ag.load_model("demo")


@pytest.fixture(scope="module")
def graphs(model: LanguageModel) -> list[ag.Graph]:
    """Of dallas, chicago, and a city of two words."""
    return [ag.trace(model, PROMPT.format(city)) for city in ("dallas", "chicago", "fort worth")]


def changed_six_nodes() -> ag.Graph:
    """`six_nodes` with one more token in front, c gone, another feature d, and another answer."""
    rows = [
        ("feature", 0, 1, 1, 3.0, 0.0),  # a, from 2
        ("feature", 0, 2, 2, 4.0, 0.0),  # b
        ("feature", 1, 2, 4, 1.0, 0.0),  # d
        ("embedding", -1, 1, 7, 0.0, 0.0),  # e
        ("embedding", -1, 2, 8, 0.0, 0.0),  # f
        ("logit", 2, 2, 10, 5.0, 0.5),  # another answer
        ("embedding", -1, 0, 6, 0.0, 0.0),
    ]
    edges = np.zeros((7, 7))
    edges[0, 3] = 3
    edges[1, [3, 4]] = 1, -2
    edges[2, [0, 1, 6]] = 1, 1, 2
    edges[5, 2] = 4
    return graph_of(rows, edges, ["zero", "one", "two"])


def test_differences_by_hand() -> None:
    found = ag.diff(six_nodes(), changed_six_nodes())
    status = found.nodes["status"]
    common = ["E_7_1", "E_8_2", "0_1_1", "0_2_2"]  # the ids of the longer prompt's places
    assert {name for name in status.index if status[name] == "common"} == set(common)
    assert {name for name in status.index if status[name] == "left"} == {"1_3_2", "3_9_2"}
    assert {name for name in status.index if status[name] == "right"} == {"E_6_0", "1_4_2", "3_10_2"}
    a = found.nodes.loc["0_1_1"]
    assert (a["activation_left"], a["activation_right"], a["activation_delta"]) == (2.0, 3.0, 1.0)
    # d reads a, b and the first token by 1/4, 1/4, 1/2, and the answer has weight 1/2
    assert a["influence_left"] == pytest.approx(2 / 5) and a["influence_right"] == pytest.approx(1 / 8)
    c = found.nodes.loc["1_3_2"]
    assert np.isnan(c["influence_right"]) and c["influence_delta"] == pytest.approx(-4 / 5)
    assert found.places["left_pos"].tolist() == [-1, 0, 1] and found.places["left_token"].tolist() == ["", "one", "two"]
    edges = found.edges.set_index(["source", "target"])
    assert edges["status"].value_counts().to_dict() == {"common": 3, "left": 4, "right": 4}
    f_to_b = edges.loc["E_8_2", "0_2_2"]
    assert (f_to_b["weight_left"], f_to_b["weight_right"], f_to_b["weight_delta"]) == (3.0, -2.0, -5.0)
    assert f_to_b["share_left"] == pytest.approx(3 / 4) and f_to_b["share_right"] == pytest.approx(2 / 3)


def test_summary_by_hand() -> None:
    summary = ag.diff(six_nodes(), changed_six_nodes()).summary()
    assert summary["nodes"] == {"common": 4, "left": 2, "right": 3, "jaccard": 4 / 9}
    assert summary["edges"]["jaccard"] == 3 / 11
    # left: c 16/20, a 8/20, b 12/20, e 11/20, f 9/20; right: d 1/2, a b 1/8, zero 1/4, e 1/8 + 1/24, f 1/12
    left = np.array([16, 8, 12, 11, 9, 0, 0]) / 56
    right = np.array([0, 3, 3, 4, 2, 12, 6]) / 30
    assert summary["influence_overlap"] == pytest.approx(np.minimum(left, right).sum() / np.maximum(left, right).sum())
    # e to a, e to b, f to b
    assert summary["edge_correlation"] == pytest.approx(np.corrcoef([2, 1, 3], [3, 1, -2])[0, 1])
    assert (summary["left_answer"], summary["right_answer"]) == ("word9", "word10") and summary["is_answer_changed"]


def test_positions_correspond_as_asked() -> None:
    short, long = ["in", "dallas", "is"], ["in", "fort", "worth", "is"]
    assert align(short, long, "start") == [(0, 0), (1, 1), (2, 2), (None, 3)]
    assert align(short, long, "end") == [(None, 0), (0, 1), (1, 2), (2, 3)]
    assert align(short, long, "tokens") == [(0, 0), (None, 1), (1, 2), (2, 3)]
    assert align(["a", "b"], ["b", "c"], "tokens") == [(0, None), (1, 0), (None, 1)]
    assert align([], ["b"], "tokens") == [(None, 0)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("ab"), max_size=8), st.lists(st.sampled_from("ab"), max_size=8))
def test_alignments_have_every_position_once_and_in_order(left: list[str], right: list[str]) -> None:
    for how in ("end", "start", "tokens"):
        places = align(left, right, how)
        assert [ours for ours, _ in places if ours is not None] == list(range(len(left)))
        assert [theirs for _, theirs in places if theirs is not None] == list(range(len(right)))
        assert align(right, left, how) == [(theirs, ours) for ours, theirs in places]


@settings(max_examples=30, deadline=None)
@given(random_parts(), st.sampled_from(["end", "start", "tokens"]))
def test_a_graph_does_not_differ_from_itself(parts: Parts, how: str) -> None:
    graph = graph_of(*parts)
    found = ag.diff(graph, graph, align=how)
    assert len(found.nodes) == len(graph.nodes) and len(found.edges) == graph.adjacency.nnz
    for table in (found.nodes, found.edges):
        assert set(table["status"]) <= {"common"}
        assert (table.filter(like="_delta") == 0).all(axis=None)
    summary = found.summary()
    assert summary["nodes"]["jaccard"] == 1.0 and not summary["is_answer_changed"]
    assert summary["influence_overlap"] in (None, pytest.approx(1))


@settings(max_examples=20, deadline=None)
@given(random_parts(), random_parts(), st.sampled_from(["end", "start", "tokens"]))
def test_left_and_right_can_be_changed(ours: Parts, theirs: Parts, how: str) -> None:
    left, right = graph_of(*ours), graph_of(*theirs)
    there, back = ag.diff(left, right, align=how), ag.diff(right, left, align=how)
    other = {"common": "common", "left": "right", "right": "left"}
    for one, two in ((there.nodes, back.nodes), (there.edges, back.edges)):
        assert one.index.equals(two.index)
        assert one["status"].map(other).tolist() == two["status"].tolist()
        for column in one.columns:
            if column.endswith("_delta"):
                np.testing.assert_array_equal(one[column], -two[column])
            elif column.endswith("_left"):
                np.testing.assert_array_equal(one[column], two[column.replace("_left", "_right")])
            elif not column.endswith("_right") and column != "status":
                assert one[column].tolist() == two[column].tolist()
    first, second = there.summary(), back.summary()
    assert first["influence_overlap"] == pytest.approx(second["influence_overlap"])
    assert first["nodes"]["jaccard"] == second["nodes"]["jaccard"]


def test_prompts_of_other_cities_share_what_asks_for_the_capital(graphs: list[ag.Graph]) -> None:
    dallas, chicago, fort_worth = (graph.prune() for graph in graphs)
    same_length = [ag.diff(dallas, chicago, align=how) for how in ("end", "start", "tokens")]
    for found in same_length[1:]:
        pd.testing.assert_frame_equal(found.nodes, same_length[0].nodes)
    nodes = same_length[0].nodes
    assert nodes.loc["E_145_5", "status"] == "left" and nodes.loc["1_1023_5", "status"] == "left"
    assert nodes.loc["0_632_8", ["status", "label"]].tolist() == ["common", '"capital"']
    # a city of two words: tokens before and after it correspond, and dallas stands where worth does
    by_tokens = ag.diff(dallas, fort_worth, align="tokens")
    assert (by_tokens.nodes.loc[["E_560_3", "E_105_8", "0_632_9"], "status"] == "common").all()
    assert by_tokens.places.loc[6, ["left_token", "right_token"]].tolist() == ["dallas", "worth"]
    by_position = ag.diff(dallas, fort_worth, align="start")
    assert by_position.nodes.loc["E_105_7", "status"] == "left"
    assert by_position.nodes.loc["E_560_3", "status"] == "common"
    jaccards = [found.summary()["nodes"]["jaccard"] for found in (by_tokens, by_position)]
    assert jaccards[0] > jaccards[1]
    assert by_tokens.summary()["left_answer"] == "austin"
    picture = by_tokens.to_dot()
    assert 'label="austin\\np = ' in picture and 'label="dallas / worth' not in picture  # two tokens are two boxes
    assert 'label="capital\\n7 / 8"' in picture  # one place, two positions


def test_pictures_of_differences_are_the_same_every_time(tmp_path: Path) -> None:
    found = ag.diff(six_nodes(), changed_six_nodes())
    text = found.to_dot()
    assert text == ag.diff(six_nodes(), changed_six_nodes()).to_dot()
    lines = {line.split(" [")[0].strip(): line for line in text.splitlines()}
    left, right, common = (lines[edge] for edge in ('"1_3_2" -> "3_9_2"', '"1_4_2" -> "3_10_2"', '"E_8_2" -> "0_2_2"'))
    assert "#b35806" in left and "style=dashed" in left and "#542788" in right and "#777777" in common
    assert "arrowhead=dot" in common and "arrowhead=dot" not in lines['"E_7_1" -> "0_1_1"']
    assert 'tooltip="2 -> 3"' in lines['"E_7_1" -> "0_1_1"']
    assert 'label="feature 3\\nL1/3"' in lines['"1_3_2"'] and 'label="logit 9"' in lines['"3_9_2"']
    # tokens show their positions; every box is above its place in the prompts
    assert 'label="zero\\n0"' in lines['"E_6_0"']
    x = {
        name: float(line.split('pos="')[1].split(",")[0])
        for name, line in lines.items()
        if "->" not in name and "pos=" in line
    }
    assert x['"E_6_0"'] < x['"E_7_1"'] < x['"E_8_2"']
    assert (x['"1_3_2"'] + x['"1_4_2"']) / 2 == pytest.approx(x['"E_8_2"'])  # side by side
    assert "Left: one two" in text and "4 nodes in both, 2 left, 3 right; " in text
    draw_diff(found, tmp_path / "d.dot")
    assert (tmp_path / "d.dot").read_text() == text


def test_union_by_hand() -> None:
    one, two = six_nodes(), changed_six_nodes()
    both = ag.union([one, two])
    assert both.prompt_tokens == ["zero", "one", "two"]
    assert set(both.nodes.index) == set(ag.diff(one, two).nodes.index)
    table, edges = union_nodes(both), union_edges(both).set_index(["source", "target"])
    assert table.loc[["0_1_1", "1_3_2"], "count"].tolist() == [2, 1]
    assert both.nodes.loc["0_1_1", "activation"] == pytest.approx(2.5)
    assert both.nodes.loc["1_3_2", "activation"] == pytest.approx(1.0)
    assert both.nodes.loc["1_3_2", "influence"] == pytest.approx(2 / 5)  # 4/5 and none
    assert table.loc["1_3_2", "influence_std"] == pytest.approx(2 / 5)
    assert both.nodes.loc["3_9_2", "probability"] == pytest.approx(1 / 2)
    assert both.nodes.loc["3_9_2", "label"] == 'Output "word9" (p=0.500)'
    f_to_b, c_to_t = edges.loc["E_8_2", "0_2_2"], edges.loc["1_3_2", "3_9_2"]
    assert f_to_b.tolist() == pytest.approx([2, 2, 0.5, 2.5])
    assert c_to_t.tolist() == pytest.approx([1, 1, 4, 0])
    column, row = (both.nodes.index.get_loc(name) for name in ("E_8_2", "0_2_2"))
    assert both.adjacency[row, column] == pytest.approx(0.5)
    often = ag.union([one, two], min_count=2)
    assert set(often.nodes.index) == {"E_7_1", "E_8_2", "0_1_1", "0_2_2", "3_9_2", "3_10_2"}


def test_an_edge_that_is_not_there_counts_as_nothing_where_its_target_is() -> None:
    one, two = six_nodes(), six_nodes()
    two.adjacency[1, 3] = 0.0
    two.adjacency.eliminate_zeros()
    edges = union_edges(ag.union([one, two])).set_index(["source", "target"])
    assert edges.loc[E, B].tolist() == pytest.approx([1, 2, 0.5, 0.5])
    assert edges.loc[F, B].tolist() == pytest.approx([2, 2, 3, 0])


@settings(max_examples=30, deadline=None)
@given(random_parts(), st.integers(1, 3))
def test_a_graph_united_with_itself_is_the_graph(parts: Parts, n: int) -> None:
    graph = graph_of(*parts)
    both = ag.union([graph] * n, min_count=n)
    assert both.nodes.index.equals(graph.nodes.index) and both.prompt_tokens == graph.prompt_tokens
    # means of equal numbers, in float64 and float32
    columns = ["kind", "layer", "pos", "feature", "token", "activation", "probability", "influence"]
    pd.testing.assert_frame_equal(both.nodes[columns], graph.nodes[columns], rtol=1e-12)
    np.testing.assert_allclose(both.adjacency.toarray(), graph.adjacency.toarray(), rtol=1e-6)
    assert (union_nodes(both)["presence"] == 1).all()
    np.testing.assert_allclose(union_edges(both)["weight_std"], 0, atol=1e-12)


def test_edges_of_a_union_sum_to_activations_as_those_of_its_graphs_do(graphs: list[ag.Graph]) -> None:
    both = ag.union(graphs)
    reads = both.nodes["kind"].isin(["feature", "logit"]).to_numpy()
    sums = np.asarray(both.adjacency.sum(1))[reads]
    # float32 sums of some hundred edges of size up to 10
    np.testing.assert_allclose(sums, both.nodes["activation"].to_numpy()[reads], atol=1e-3)
    alone = ag.union(graphs[:1])
    assert alone.nodes.equals(graphs[0].nodes) and (alone.adjacency != graphs[0].adjacency).nnz == 0
    assert alone.metadata["prompt"] == graphs[0].metadata["prompt"]


def test_unions_keep_what_comes_again_and_survive_files(graphs: list[ag.Graph], tmp_path: Path) -> None:
    both = ag.union([graph.prune() for graph in graphs], min_count=2)
    table = union_nodes(both)
    assert (table.loc[(both.nodes["kind"] != "logit").to_numpy(), "count"] >= 2).all()
    assert "0_632_9" in both.nodes.index and "1_1023_6" not in both.nodes.index
    assert sorted(both.nodes.loc[both.nodes["kind"] == "logit", "token"]) == ["austin", "lincoln", "springfield"]
    # two of three prompts begin one place later, as counted from the end; where they differ, all are named
    expected = ["<bos>", "<bos>|in", "in|the", "the|state", "state|containing", "containing|fort"]
    expected += ["dallas|chicago|worth", "the", "capital", "is"]
    assert both.prompt_tokens == expected
    assert both.metadata["model"] == graphs[0].metadata["model"] and "token_ids" not in both.metadata
    both.save(tmp_path / "u.safetensors")
    again = ag.load_graph(tmp_path / "u.safetensors")
    pd.testing.assert_frame_equal(union_nodes(again), table)
    both.to_json(tmp_path / "u.json")
    from_json = ag.load_graph(tmp_path / "u.json")
    assert set(from_json.nodes.index) == set(both.nodes.index)
    assert len(union_edges(from_json)) == both.adjacency.nnz
    smaller = both.prune(0.5)
    assert set(union_nodes(smaller).index) == set(smaller.nodes.index)


def test_wilson_intervals_are_where_the_share_is_two_deviations_off() -> None:
    counts = np.array([0, 3, 10])
    low, high = wilson_interval(counts, 10)
    assert (low[0], high[2]) == pytest.approx((0.0, 1.0))
    for bound, share in ((high[0], 0.0), (low[1], 0.3), (high[1], 0.3), (low[2], 1.0)):
        assert abs(bound - share) == pytest.approx(1.959963984540054 * np.sqrt(bound * (1 - bound) / 10))


def test_contrast_is_for_the_one_and_against_the_other(model: LanguageModel) -> None:
    prompt = PROMPT.format("dallas")
    there = ag.contrast(model, prompt, "austin", "springfield")
    back = ag.contrast(model, prompt, "springfield", "austin")
    both = ag.trace(model, prompt, targets=["austin", "springfield"])
    about = there.metadata["contrast"]
    assert (about["positive"]["token"], about["negative"]["token"]) == ("austin", "springfield")
    values = both.nodes[both.nodes["kind"] == "logit"].set_index("token")["activation"]
    # float32 logits of size 10
    assert about["difference"] == pytest.approx(values["austin"] - values["springfield"], abs=1e-4)
    assert back.metadata["contrast"]["difference"] == pytest.approx(-about["difference"], abs=1e-4)

    def into(graph: ag.Graph, token: str | None = None) -> "pd.Series[float]":
        logits = graph.nodes[graph.nodes["kind"] == "logit"]
        node = logits.index[0] if token is None else logits.index[logits["token"] == token][0]
        row = graph.adjacency[[graph.nodes.index.get_loc(node)]].toarray()[0]
        edges = pd.Series(row.astype(np.float64), index=graph.nodes.index)
        return edges[(graph.nodes["kind"] != "logit").to_numpy()].sort_index()

    expected = into(both, "austin") - into(both, "springfield")
    np.testing.assert_allclose(into(there), expected, atol=1e-4)
    np.testing.assert_allclose(into(back), -expected, atol=1e-4)
    # the features that say where dallas is speak for austin
    assert expected[["1_738_5", "1_815_5", "1_1023_5"]].gt(0).all()


def test_counts_of_edges_are_of_edges_that_are_still_there() -> None:
    both = ag.union([six_nodes(), changed_six_nodes()])
    pruned = both.prune(0.9, 0.8)
    ends = {(edge["source"], edge["target"]): edge["weight"] for edge in _edges_of(pruned)}
    table = union_edges(pruned).set_index(["source", "target"])
    assert 0 < len(ends) < both.adjacency.nnz and set(table.index) == set(ends)
    assert table["weight_mean"].to_dict() == pytest.approx(ends)
    # an edge of the error is now the sum of others, which was counted nowhere
    folded = both.without(["0_1_1"], "to_error")
    assert len(union_edges(folded)) == len(set(_ends_of(folded)) & set(_ends_of(both)))


def _edges_of(graph: ag.Graph) -> list[dict[str, Any]]:
    return [{"source": s, "target": t, **data} for s, t, data in graph.to_networkx().edges(data=True)]


def _ends_of(graph: ag.Graph) -> list[tuple[str, str]]:
    return list(graph.to_networkx().edges)


def changed(graph: ag.Graph, section: str, **values: Any) -> ag.Graph:
    """The graph with other values in a section of its metadata."""
    return graph.replace(metadata={**graph.metadata, section: {**graph.metadata[section], **values}})


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"section": "model", "digest": "sha256:x"}, "traced on different models, by digest"),
        ({"section": "model", "digest": "tensors-sha256:x"}, "of several kinds (sha256, tensors-sha256)"),
        ({"section": "model", "digest": None}, "graph 2 has no digest, so the model cannot be verified"),
        ({"section": "transcoders", "digest": "sha256:x"}, "traced with different transcoders, by digest"),
        ({"section": "transcoders", "digest": None}, "graph 2 has no digest, so the transcoders cannot be verified"),
        (
            {"section": "transcoders", "digest": "sampled-dated-sha256:x"},
            "are of samples of large files and of the times",
        ),
        ({"section": "tokenizer", "digest": "x"}, "traced with different tokenizers, by digest"),
        ({"section": "transcoders", "n_features": [1]}, "differ in transcoders n_features: "),
        ({"section": "settings", "skipped_positions": []}, "differ in settings skipped_positions: [0] (graph 1), []"),
        ({"section": "versions", "torch": "1.0"}, "differ in versions torch: "),
        ({"section": "checks", "is_exact": False}, "not exact: graph 2"),
    ],
)
def test_comparisons_say_how_graphs_were_made_otherwise(
    change: dict[str, Any], note: str, graphs: list[ag.Graph]
) -> None:
    other = changed(graphs[1], **change)
    found = ag.diff(graphs[0], other)
    assert note in "; ".join(found.notes) and found.summary()["notes"] == found.notes
    united = ag.union([graphs[0], other])
    assert united.metadata["notes"] == found.notes
    assert ag.diff(*graphs[:2]).notes == [] and "notes" not in ag.union(graphs).metadata
    # the same files in another place
    assert ag.diff(graphs[0], changed(graphs[1], "model", id="/elsewhere")).notes == []
    assert united.metadata["checks"]["is_exact"] == (change["section"] != "checks")
    before = [graph.metadata["checks"]["logit_deviation"] for graph in graphs[:2]]
    assert united.metadata["checks"]["logit_deviation"] == max(before)


def test_a_pruned_and_a_whole_graph_are_told_apart(graphs: list[ag.Graph]) -> None:
    assert any("whether they are pruned" in note for note in ag.diff(graphs[0], graphs[0].prune()).notes)
    pruned = [graphs[0].prune(0.5), graphs[0].prune(0.7)]
    dot = ag.diff(*pruned).to_dot().replace("\\l", " ")
    assert "Note: the graphs differ in pruning node_threshold: 0.5 (graph 1), 0.7 (graph 2)." in dot


def test_a_model_in_memory_is_told_from_the_same_with_an_adapter_merged(traced_model: Build, prompt: list[int]) -> None:
    base, merged = traced_model(), traced_model()
    first = ag.trace(base, prompt)
    with torch.no_grad():
        next(iter(merged.hf_model.parameters())).mul_(1 + 1e-3)
    second = ag.trace(LanguageModel(merged.hf_model, transcoders=merged.transcoders), prompt)
    notes = ag.diff(first, second).notes
    assert len(notes) == 1 and "different models, by digest: " in notes[0] and "tensors-sha256:" in notes[0]


@pytest.mark.refusal
def test_graphs_that_cannot_be_compared_are_refused(graphs: list[ag.Graph], tmp_path: Path) -> None:
    graph, other = six_nodes(), six_nodes()
    with pytest.raises(AttrGraphError, match="align='middle'"):
        ag.diff(graph, other, align="middle")
    with pytest.raises(AttrGraphError, match="align='tokens'; expected one of end, start"):
        ag.union([graph, other], align="tokens")
    with pytest.raises(AttrGraphError, match="union of no graph"):
        ag.union([])
    with pytest.raises(AttrGraphError, match="min_count is 3; expected 1 to 2"):
        ag.union([graph, other], min_count=3)
    with pytest.raises(AttrGraphError, match="is not a union"):
        union_nodes(graph)
    with pytest.raises(AttrGraphError, match="graph 2 is of 4 layers"):
        ag.diff(graph, graphs[0])
    with pytest.raises(GraphFileError, match="unknown ending"):
        draw_diff(ag.diff(graph, graph), tmp_path / "d.txt")
    found = ag.diff(graphs[0], graphs[2])
    large = replace(found, nodes=pd.concat([found.nodes, found.nodes]))
    with pytest.raises(GraphFileError, match="too many to draw"):
        draw_diff(large, tmp_path / "d.svg")


def test_names_are_as_in_the_graphs_if_prompts_have_one_length() -> None:
    graph = six_nodes()
    assert set(ag.diff(graph, graph).nodes.index) == {A, B, C, E, F, T}


@pytest.mark.parametrize("how", ["end", "start", "tokens"])
def test_one_answer_is_one_node_however_long_the_prompts_are(how: str) -> None:
    rows = [("logit", 2, 2, 9, 5.0, 1.0), ("embedding", -1, 2, 8, 0.0, 0.0)]
    longer = graph_of(rows, np.array([[0.0, 1.0], [0.0, 0.0]]), ["one", "two", "three"])
    longer.nodes.loc["3_9_2", "label"] = "another label"
    there, back = ag.diff(six_nodes(), longer, align=how), ag.diff(longer, six_nodes(), align=how)
    answers = [each.nodes[each.nodes["kind"] == "logit"] for each in (there, back)]
    for nodes in answers:
        assert nodes["status"].tolist() == ["common"]
    assert answers[0]["label"].tolist() == answers[1]["label"].tolist()
    if how != "tokens":
        both = ag.union([six_nodes(), longer], align=how)
        assert both.nodes.loc[both.nodes["kind"] == "logit", "pos"].tolist() == [2]


@pytest.mark.refusal
@pytest.mark.parametrize("part", ["model", "transcoders"])
def test_what_was_changed_in_memory_is_not_what_the_graph_was_traced_on(part: str) -> None:
    model = ag.load_model("demo")
    graph = ag.trace(model, "in texas the capital is", max_feature_nodes=5)
    check_traced_model(graph, model)
    with torch.no_grad():
        unembedding = model.hf_model.get_output_embeddings().weight
        (unembedding if part == "model" else model.transcoders.layers[0].b_enc).add_(1e-3)  # type: ignore[union-attr]
    with pytest.raises(AttrGraphError, match=f"{part} demo: was changed in memory after loading"):
        check_traced_model(graph, model)
    again = ag.trace(model, "in texas the capital is", max_feature_nodes=5)
    check_traced_model(again, model)
    assert f"digests of the {part} are of several kinds" in "; ".join(ag.diff(graph, again).notes)


def test_targets_that_are_no_tokens_are_not_taken_for_each_other(model: LanguageModel) -> None:
    text = PROMPT.format("dallas")
    first, second = (ag.trace(model, text, targets=ag.FeatureTarget(1, f, 5)) for f in (1023, 815))
    for compare in (ag.diff, lambda *both: ag.union(both)):
        with pytest.raises(AttrGraphError, match=r"in another; targets that are no tokens can be compared only"):
            compare(first, second)
    assert len(ag.union([first, first]).nodes) == len(first.nodes)


def test_a_target_before_the_end_stays_where_it_is(model: LanguageModel) -> None:
    end, before = (ag.trace(model, PROMPT.format("dallas"), targets=ag.At(pos, "is")) for pos in (-1, -2))
    logits = ag.union([end, before]).nodes.query("kind == 'logit'")
    assert sorted(logits["pos"]) == [7, 8]
