"""Every tool's attribution graphs are read alike, keep what they have, and come back from every format."""

import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_documents import (
    EDGES,
    FLAVOURS,
    IDS,
    NODES,
    PROBABILITIES,
    TOKENS,
    WORDS,
    attention_document,
    document,
    interleaved_document,
)
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.files import PROFILES
from attrgraph.viz.draw import to_dot

TARGETS = (*PROFILES, "native")


def written(content: Any, path: Path) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def loaded(content: Any, tmp_path: Path) -> ag.Graph:
    return ag.load_graph(written(content, tmp_path / "loaded.json"))


def assert_same(ours: ag.Graph, theirs: ag.Graph) -> None:
    """The same nodes, edges, qParams and extra keys."""
    assert ours.nodes.index.equals(theirs.nodes.index)
    for column in ours.nodes.columns:
        assert ours.nodes[column].equals(theirs.nodes[column]), column
    assert (ours.adjacency != theirs.adjacency).nnz == 0
    assert ours.prompt_tokens == theirs.prompt_tokens
    for name in ("n_layers", "qParams", "extra", "file_metadata", "pruning"):
        assert ours.metadata.get(name) == theirs.metadata.get(name), name


# -- one graph in every flavour ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_becomes_the_same_graph(flavour: str, tmp_path: Path) -> None:
    graph = loaded(document(flavour), tmp_path)
    assert graph.metadata["flavour"] == flavour.split(",")[0]
    assert graph.metadata["repairs"] == []
    assert graph.nodes.index.tolist() == IDS
    for i, (kind, layer, index, pos) in enumerate(NODES):
        row = graph.nodes.loc[IDS[i]]
        assert (row["kind"], row["layer"], row["feature"], row["pos"]) == (kind, layer, index, pos)
        assert row["probability"] == PROBABILITIES.get(index, 0.0)
        assert row["token"] == WORDS.get(index, TOKENS[pos])
        assert row["activation"] == (i + 2 if kind == "feature" else 0)
        assert row["cumulative_influence"] == (1.0 if kind == "logit" else (i + 1) / 16)
    expected = np.zeros((len(NODES), len(NODES)), dtype=np.float32)
    for source, target, weight in EDGES:
        expected[target, source] = weight
    assert (graph.adjacency.toarray() == expected).all()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_pins_and_groups_name_the_graphs_nodes(flavour: str, tmp_path: Path) -> None:
    params = loaded(document(flavour), tmp_path).metadata["qParams"]
    assert params == {
        "pinnedIds": ["1_40_2", "4_900_3"],
        "supernodes": [["Texas", "1_40_2", "2_3_3"]],
        "linkType": "input",
        "clickedId": "2_3_3",
        "sg_pos": "10,20",
    }


@pytest.mark.parametrize(("flavour", "first"), list(product([*FLAVOURS, "attention"], TARGETS)))
def test_every_flavour_comes_back_through_two_formats(flavour: str, first: str, tmp_path: Path) -> None:
    second = TARGETS[TARGETS.index(first) - 1]
    content = attention_document() if flavour == "attention" else document(flavour)
    content["own"] = {"kept": [1, None, "x"]}
    content["metadata"]["own"] = {"kept": True}
    content["nodes"][0]["own"] = "kept"
    content["links"][0]["own"] = [0.5]
    graph = loaded(content, tmp_path)
    path = tmp_path / "loaded.json"
    for i, target in enumerate((first, second)):
        output = tmp_path / f"{i}.{'safetensors' if target == 'native' else 'json'}"
        ag.convert_graph(path, output, "neuronpedia" if target == "native" else target)
        path = output
        assert_same(ag.load_graph(path), graph)
    if second != "native":
        again = json.loads(path.read_text(encoding="utf-8"))
        assert again["own"] == content["own"] and again["metadata"]["own"] == {"kept": True}
        assert [node["own"] for node in again["nodes"] if "own" in node] == ["kept"]
        assert [link["own"] for link in again["links"] if "own" in link] == [[0.5]]
        assert again["qParams"] == graph.metadata["qParams"]


def test_other_ids_are_said_when_a_file_is_converted(tmp_path: Path) -> None:
    written(document("eleutherai"), tmp_path / "a.json")
    ours, theirs = (
        [node["node_id"] for node in content["nodes"]]
        for content in (document("circuit-tracer schema 1, newer error ids"), document("eleutherai"))
    )
    new = [name for name in ours if name not in theirs]
    assert len(new) == 2
    said = "2 ids ('0_-1_1', '2_-1_3') given to nodes that the file calls otherwise"
    for name in ("b.json", "b.safetensors", "b.graphml"):
        assert said in ag.convert_graph(tmp_path / "a.json", tmp_path / name)
    assert ag.convert_graph(tmp_path / "b.json", tmp_path / "c.json") == []


@pytest.mark.parametrize("flavour", [*FLAVOURS, "attention"])
def test_what_is_written_for_neuronpedia_has_nothing_wrong(flavour: str, tmp_path: Path) -> None:
    content = attention_document() if flavour == "attention" else document(flavour)
    ag.convert_graph(written(content, tmp_path / "a.json"), tmp_path / "b.json")
    codes = {problem.code for problem in ag.check_graph_file(tmp_path / "b.json")}
    # a logit has no influence, in any file
    assert codes <= {"null", "attention-types"}


def test_a_logits_label_says_its_token_before_its_own_key_does(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["nodes"][10]["token"] = " Dallas"
    content["nodes"][11] |= {"token": " Dallas", "clerp": "(p=0.125)"}
    assert loaded(content, tmp_path).nodes.loc[IDS[10:], "token"].tolist() == [" Austin", " Dallas"]


@pytest.mark.parametrize("js_id", [[], {}, 7, None])
def test_a_js_id_that_is_no_text_names_no_node(js_id: Any, tmp_path: Path) -> None:
    content = document("anthropic")
    content["nodes"][0]["jsNodeId"] = js_id
    graph = loaded(content, tmp_path)
    assert graph.metadata["flavour"] == "anthropic" and graph.metadata["qParams"]["pinnedIds"] == ["1_40_2", "4_900_3"]


def test_ids_of_the_file_inside_extra_keys_follow_their_nodes(tmp_path: Path) -> None:
    content = attention_document()
    extra = loaded(content, tmp_path).metadata["extra"]
    pairs = extra["nodes"]["0_lor_2_1"]["qk_tracing_results"]["pair_wise_contributors"]
    assert pairs == [["0_4_1", "E_101_1", 0.5]]
    assert extra["document"]["qk_only_nodes"] == {"x": ["0_4_1"]}


# -- attention features, biases, things unknown ------------------------------------------------------------------------


def test_attention_features_take_part_in_influence_scores_and_pruning(tmp_path: Path) -> None:
    graph = loaded(attention_document(), tmp_path)
    assert graph.metadata["flavour"] == "attention" and graph.n_layers == 2
    assert graph.nodes["kind"].value_counts().to_dict() == {
        "feature": 1,
        "attention feature": 2,
        "error": 1,
        "attention error": 1,
        "embedding": 1,
        "logit": 1,
        "bias": 1,
        "unknown": 1,
    }
    # by hand: without the bias the logit reads 4 + 1 + 0.5 + 0.125; the attention feature of layer 0 is read by the
    # MLP's of the same layer, which alone is read by that of layer 1
    influence, total = graph.nodes["influence"], 5.625
    expected = {"1_lor_9_3": 4, "0_4_1": 4, "0_lor_2_1": 4, "E_101_1": 4, "1_-1_3": 1, "1_error_attn_3": 0.5}
    for name, share in expected.items():
        assert influence[name] == pytest.approx(0.75 * share / total, rel=1e-12), name
    assert influence["0_bias_attn_bO_3"] == 0
    assert graph.scores().replacement == pytest.approx(4 / 5.5, rel=1e-12)
    pruned = graph.prune(0.7, 1.0)
    assert sorted(pruned.nodes.index) == sorted(["E_101_1", "0_lor_2_1", "0_4_1", "1_lor_9_3", "3_900_3"])
    assert graph.mean_hops() == pytest.approx(3 * 4 / 5.5, rel=1e-12)
    assert "1_lor_9_3" in to_dot(graph)
    assert graph.to_networkx().number_of_nodes() == 9


def test_layers_of_their_own_for_attention_are_read(tmp_path: Path) -> None:
    graph = loaded(interleaved_document(), tmp_path)
    assert graph.metadata["flavour"] == "attention" and graph.n_layers == 4
    features = graph.nodes[graph.nodes["kind"].isin(["feature", "attention feature"])]
    assert features["feature"].to_dict() == {"0_lor_2_1": 2, "1_4_1": 4, "2_lor_9_3": 9}
    assert graph.nodes.loc["5_900_3", ["token", "probability"]].tolist() == [" Austin", 1.0]  # was 1 and a rounding
    assert graph.scores().replacement == pytest.approx(4 / 5.5, rel=1e-12)
    assert graph.metadata["extra"]["nodes"]["1_4_1"]["sae_name"] == "set-1"
    output = tmp_path / "written.json"
    ag.convert_graph(tmp_path / "loaded.json", output)
    assert not [problem for problem in ag.check_graph_file(output) if problem.severity == "error"]
    again = ag.load_graph(output)
    assert again.nodes.drop(columns="label").equals(graph.nodes.drop(columns="label"))
    assert (again.adjacency != graph.adjacency).nnz == 0


def test_an_unknown_type_is_kept_under_its_own_name(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["nodes"][4] |= {"feature_type": "sae", "node_id": "mine", "feature": 5}
    content["links"][3]["source"] = "mine"
    graph = loaded(content, tmp_path)
    assert graph.nodes.loc["mine", "kind"] == "unknown"
    graph.to_json(tmp_path / "again.json")
    (node,) = (n for n in json.loads((tmp_path / "again.json").read_text())["nodes"] if n["node_id"] == "mine")
    assert (node["feature_type"], node["feature"], node["layer"]) == ("sae", 5, "0")
    assert_same(ag.load_graph(tmp_path / "again.json"), graph)


# -- qParams -----------------------------------------------------------------------------------------------------------


def test_params_saved_as_text_are_read(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    lists = loaded(content, tmp_path).metadata["qParams"]
    content["qParams"] |= {
        "pinnedIds": ",".join(content["qParams"]["pinnedIds"]),
        "supernodes": json.dumps(content["qParams"]["supernodes"]),
    }
    assert loaded(content, tmp_path).metadata["qParams"] == lists


@pytest.mark.parametrize("as_text", [False, True])
def test_labels_in_params_move_to_their_nodes(as_text: bool, tmp_path: Path) -> None:
    content = document("neuronpedia")
    labels = [["1_40_2", "about Texas"], ["nobody", "lost"]]
    content["qParams"]["clerps"] = json.dumps(labels) if as_text else labels
    graph = loaded(content, tmp_path)
    assert graph.nodes.loc["1_40_2", "label"] == "about Texas"
    assert "clerps" not in graph.metadata["qParams"]
    assert len([repair for repair in graph.metadata["repairs"] if "qParams.clerps" in repair]) == 2


def test_pins_of_nodes_that_pruning_dropped_are_not_written(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["qParams"]["pinnedIds"].append("9_9_9")
    written(content, tmp_path / "a.json")
    repairs = ag.convert_graph(tmp_path / "a.json", tmp_path / "b.json")
    assert repairs[-1] == "1 id ('9_9_9') in qParams left out that name no node of the graph"
    pruned = ag.load_graph(tmp_path / "a.json").prune(0.1, 0.1)
    assert "1_40_2" not in pruned.nodes.index
    pruned.to_json(tmp_path / "c.json")
    params = json.loads((tmp_path / "c.json").read_text())["qParams"]
    assert params["pinnedIds"] == ["4_900_3"] and params["clickedId"] == ""
    assert json.loads((tmp_path / "c.json").read_text())["metadata"]["node_threshold"] == 0.1


# -- repairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "repair"),
    [
        (lambda d: d["links"].append({"source": "x", "target": "0_7_1", "weight": 1}), "lead from or to no node"),
        (lambda d: d["nodes"].append(dict(d["nodes"][0])), "stand twice"),
        (lambda d: d["links"].append({**d["links"][0], "weight": 0}), "of weight 0"),
        (lambda d: d.pop("qParams"), "qParams added"),
        (lambda d: d["nodes"][0].pop("influence"), "influence of 1 nodes computed"),
        (lambda d: d["nodes"][0].update(influence=-3.5), "influence of 1 nodes computed"),
        (lambda d: d["nodes"][10].update(clerp="Austin"), "given the (p=...)"),
        (lambda d: d["metadata"].update(scan="my/scan"), "scan 'my/scan' became 'my-scan'"),
        (lambda d: d["metadata"].update(node_threshold="0.8"), "node_threshold '0.8' became 1.0"),
    ],
)
def test_repairs_are_said_and_leave_nothing_to_repair(
    change: Callable[[dict[str, Any]], object], repair: str, tmp_path: Path
) -> None:
    content = document("circuit-tracer schema 1, newer error ids")
    graph = loaded(content, tmp_path)
    change(content)
    written(content, tmp_path / "a.json")
    repairs = ag.convert_graph(tmp_path / "a.json", tmp_path / "b.json")
    assert len(repairs) == 1 and repair in repairs[0]
    again = ag.load_graph(tmp_path / "b.json")
    assert again.nodes.index.equals(graph.nodes.index)
    assert (again.adjacency != graph.adjacency).nnz == 0
    assert ag.convert_graph(tmp_path / "b.json", tmp_path / "c.json") == []
    assert not [problem for problem in ag.check_graph_file(tmp_path / "b.json") if problem.severity == "error"]


def test_a_logit_that_a_user_named_has_that_name_again_and_is_named_anew(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1, newer error ids")
    stated = content["nodes"][10]
    stated.update(clerp=f"Austin (p={stated['token_prob']:.3f})")
    graph = loaded(content, tmp_path)
    assert graph.nodes["label"]["4_900_3"] == "Austin"
    assert graph.to_json(tmp_path / "again.json") == []
    again = json.loads((tmp_path / "again.json").read_text())
    assert stated["clerp"] in [node["clerp"] for node in again["nodes"]]
    graph = graph.replace(nodes=graph.nodes.assign(label=graph.nodes["label"].replace({"Austin": "the capital"})))
    graph.to_json(tmp_path / "anew.json")
    assert ag.load_graph(tmp_path / "anew.json").nodes["label"]["4_900_3"] == "the capital"


def test_links_between_the_same_nodes_add_up(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["links"].append({**content["links"][0], "weight": 0.25})
    graph = loaded(content, tmp_path)
    assert graph.adjacency[0, 7] == 1.75
    assert "added to it" in graph.metadata["repairs"][0]


def test_an_error_with_the_id_of_a_feature_keeps_its_own_links(tmp_path: Path) -> None:
    # the older id of the error in layer 2 at position 3 is that of feature 2 of layer 0 there
    content = document("circuit-tracer schema 1")
    content["nodes"].insert(1, {**content["nodes"][0], "node_id": "0_2_3", "feature": 5, "ctx_idx": 3, "clerp": "mine"})
    content["links"] = [
        {"source": "E_103_3", "target": "0_2_3", "weight": 8.0},
        {"source": "0_2_3", "target": "4_901_3", "weight": 16.0},  # the feature's: nodes stand in this order
        *content["links"],
    ]
    graph = loaded(content, tmp_path)
    ids = graph.nodes.index.tolist()
    assert graph.nodes.loc["0_2_3", "label"] == "mine" and graph.nodes.loc["2_-1_3", "kind"] == "error"
    at = {name: ids.index(name) for name in ("0_2_3", "2_-1_3", "E_103_3", "4_901_3")}
    assert graph.adjacency[at["0_2_3"], at["E_103_3"]] == 8
    assert graph.adjacency[at["4_901_3"], at["0_2_3"]] == 16
    assert graph.adjacency[at["4_901_3"], at["2_-1_3"]] == 4
    assert any("told apart" in repair for repair in graph.metadata["repairs"])
    assert "duplicate-node-id" in {problem["code"] for problem in graph.metadata["problems"]}


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["metadata"]["prompt_tokens"] = ["<bos>", "\ud83d", " Dallas", " is"]
    path = written(content, tmp_path / "a.json")
    assert ag.load_graph(path).prompt_tokens[1] == "\ufffd"
    assert "surrogate" in ag.convert_graph(path, tmp_path / "b.json")[0]


# -- refusals ----------------------------------------------------------------------------------------------------------


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


VALID = json.dumps(document("neuronpedia")).encode()


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (raw(b""), "is empty"),
        (raw(b" \n"), "is empty"),
        (raw(b"\x1f\x8b\x08" + bytes(50)), "gzip"),
        (raw(b"PK\x03\x04" + bytes(50)), "zip archive"),
        (raw(b"\x80\x02}q\x00."), "is a pickle"),
        (raw(b'{"metadata": "\xff"}'), r"is not UTF-8 \(byte 0xff at 14\)"),
        (raw(json.dumps({}).encode("utf-16")), "is UTF-16"),
        (raw(VALID[:-40]), "is not JSON"),
        (raw(b"graph"), "is not JSON"),
        (raw(b"[" * 10**6), "is nested too deep"),
        (raw(b'{"a":' * 10**6), "is nested too deep"),
        (raw(b'["]]]]' + b"]" * 5000 + b'",' + b"[" * 5000), "is nested too deep"),
        (raw(b'["\\ud800",' + b"[" * 980 + b"]" * 981), "is nested too deep|the document is a list"),
        (raw(VALID.replace(b'"weight": 1.5', b'"weight": NaN', 1)), "numbers that JSON does not have.*: NaN"),
        (raw(VALID.replace(b'"weight": 1.5', b'"weight": 1e999', 1)), "no finite number"),
        (raw(VALID.replace(b'"weight": 1.5', b'"weight": ' + b"9" * 400, 1)), "no finite number"),
        (raw(VALID.replace(b'"weight": 1.5', b'"weight": ' + b"9" * 10**6, 1)), "is not JSON"),
        (raw(VALID[:-1] + b', "nodes": []}'), "keys that stand twice in one object.*: nodes"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_files_that_are_no_json_are_refused(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    write(path)
    with pytest.raises(GraphFileError, match=message):
        ag.load_graph(path)
    problems = ag.check_graph_file(path)
    assert problems[0].severity == "error"


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["metadata", "nodes", "links", "qParams"])
@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [[]], ["x"], [{}], {"a": []}, True])
def test_wrong_types_on_top_end_in_one_error_or_load(name: str, value: Any, tmp_path: Path) -> None:
    path = written({**document("neuronpedia"), name: value}, tmp_path / "g.json")
    ag.check_graph_file(path)
    if name == "qParams" or (name == "links" and value == []):
        assert len(ag.load_graph(path).nodes) == len(NODES)
        return
    with pytest.raises(GraphFileError, match="not an attribution graph"):
        ag.load_graph(path)


@pytest.mark.refusal
@pytest.mark.parametrize("value", [None, -7, 10**30, 0.5, "x", ["x"], {"a": 1}])
def test_any_value_in_any_field_loads_or_ends_in_one_error(value: Any, tmp_path: Path) -> None:
    parts: list[tuple[str, int | None]] = [("nodes", 0), ("nodes", 4), ("nodes", 10), ("links", 0)]
    n_loaded = 0
    for part, i in [*parts, ("metadata", None), ("qParams", None)]:
        content = document("neuronpedia")
        for name in content[part] if i is None else content[part][i]:
            changed = document("neuronpedia")
            (changed[part] if i is None else changed[part][i])[name] = value
            path = written(changed, tmp_path / "g.json")
            ag.check_graph_file(path)
            try:
                graph = ag.load_graph(path)
            except GraphFileError:
                continue
            n_loaded += 1
            graph.to_json(tmp_path / "again.json", overwrite=True)
            graph.save(tmp_path / "again.safetensors", overwrite=True)
    assert n_loaded > 10


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["links"][0].update(weight="1.5"), r"whose weight is no finite number: .*'1.5'"),
        (lambda d: d["nodes"][0].update(ctx_idx="1"), r"at no position of the prompt's 4: 0_7_1 \(ctx_idx '1'"),
        (lambda d: d["nodes"][0].update(ctx_idx=4), "at no position of the prompt's 4"),
        (lambda d: d["nodes"][0].update(layer="top"), r"whose layer is no number from 0 to 999: 0_7_1 \('top'\)"),
        (lambda d: d["nodes"][0].update(layer="70000"), "no number from 0 to 999"),
        (lambda d: d["nodes"][0].update(node_id=7), r"no objects with text as node_id: nodes\[0\]"),
        (lambda d: d["nodes"][0].update(node_id="x", feature=None), "feature is None, expected an integer"),
        (lambda d: d["nodes"][0].update(activation="high"), "activation or token_prob is no finite number: .*'high'"),
        (
            lambda d: d["metadata"].update(prompt_tokens=[1, 2]),
            r"prompt_tokens is \[1, 2\]; accepted are lists of texts",
        ),
        (lambda d: d.update(nodes=d["nodes"][:-2]), "there is no logit node"),
        (lambda d: d["links"].append({"source": "2_3_3", "target": "0_7_1", "weight": 1}), "lower to a higher layer"),
        (lambda d: d["links"].append({"source": "2_3_3", "target": "2_3_3", "weight": 1}), "a cycle"),
    ],
)
def test_contradictions_say_what_was_found(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    content = document("circuit-tracer schema 1")
    change(content)
    path = written(content, tmp_path / "g.json")
    with pytest.raises(GraphFileError, match=message):
        ag.load_graph(path)
    assert any(problem.severity == "error" for problem in ag.check_graph_file(path))


@pytest.mark.refusal
def test_large_files_are_refused_unless_asked_for(tmp_path: Path) -> None:
    path = written(document("neuronpedia"), tmp_path / "g.json")
    with pytest.raises(GraphFileError, match="pass a larger max_bytes"):
        ag.load_graph(path, max_bytes=1000)
    assert len(ag.load_graph(path, max_bytes=10**6).nodes) == len(NODES)
    path.write_bytes(b"[" + b"{}," * 3000 + b"{}]")
    with pytest.raises(GraphFileError, match="holds 3002 objects and lists, at most 106 are parsed"):
        ag.load_graph(path, max_bytes=10_240)
    path.write_bytes(b"[" + b"1," * 3000 + b"1]")
    with pytest.raises(GraphFileError, match="holds 3000 values, at most 426 are parsed"):
        ag.load_graph(path, max_bytes=10_240)


@pytest.mark.refusal
def test_one_id_for_very_many_nodes_ends_soon(tmp_path: Path) -> None:
    content = document("neuronpedia")
    content["nodes"] += [
        {**content["nodes"][0], "node_id": "x", "feature": i, "layer": "0", "feature_type": "unknown", "ctx_idx": i % 4}
        for i in range(20_000)
    ]
    assert len(loaded(content, tmp_path).nodes) == len(NODES) + 4  # copies of four nodes
    content["qParams"]["supernodes"] = [["all", "same"]] * 20_000
    for i, node in enumerate(content["nodes"][len(NODES) :]):
        node |= {"node_id": f"x{i}", "jsNodeId": "same"}
    start = time.perf_counter()
    with pytest.raises(GraphFileError, match="more than 1000000 nodes"):
        loaded(content, tmp_path)
    assert time.perf_counter() - start < 30  # a second here; 4e8 references without the limit


@pytest.mark.refusal
@pytest.mark.parametrize("metadata", [[], {}, {"n_layers": "three"}])
def test_native_files_with_other_metadata_are_refused(metadata: Any, tmp_path: Path) -> None:
    graph = loaded(document("neuronpedia"), tmp_path)
    ag.Graph(graph.nodes, graph.adjacency, graph.prompt_tokens, metadata).save(tmp_path / "g.safetensors")
    with pytest.raises(GraphFileError, match="is not a whole graph file"):
        ag.load_graph(tmp_path / "g.safetensors")


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["qParams", "extra", "file_metadata", "pruning"])
def test_metadata_that_json_files_cannot_have_are_refused(name: str, tmp_path: Path) -> None:
    graph = loaded(document("neuronpedia"), tmp_path)
    graph.metadata[name] = [3]
    with pytest.raises(GraphFileError, match="the graph's"):
        graph.to_json(tmp_path / "g.json")
    graph.metadata[name] = {"node_threshold": 0.5, "x": float("nan"), "document": {"x": float("nan")}}
    with pytest.raises(GraphFileError, match="the graph holds what JSON cannot"):
        graph.to_json(tmp_path / "g.json")
    with pytest.raises(GraphFileError, match=r"unknown ending '\.txt'"):
        ag.convert_graph(tmp_path / "loaded.json", tmp_path / "g.txt")


@pytest.mark.parametrize("name", ["the capital", 'Output "other" (p=0.500)', ""])
def test_an_answer_that_has_another_name_keeps_its_token(name: str, tmp_path: Path) -> None:
    graph = six_nodes()
    is_logit = graph.nodes["kind"] == "logit"
    renamed = graph.replace(nodes=graph.nodes.assign(label=graph.nodes["label"].where(~is_logit, name)))
    renamed.to_json(tmp_path / "g.json")
    loaded = ag.load_graph(tmp_path / "g.json")
    assert loaded.nodes["token"].tolist() == graph.nodes["token"].tolist()
    assert name in loaded.nodes["label"][is_logit.to_numpy()].item()
