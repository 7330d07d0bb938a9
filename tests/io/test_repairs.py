"""What other tools' files have that is unusual is read as it was meant; what has no meaning is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_documents import TOKENS, attention_document, document, eleutherai_document
from scipy import sparse

import attrgraph as ag
from attrgraph.errors import GraphFileError
from attrgraph.files import PROFILES
from attrgraph.graph.graph import Graph


def loaded(content: Any, folder: Path, name: str = "loaded.json") -> ag.Graph:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return ag.load_graph(folder / name)


def test_what_eleutherai_saves_is_read_and_comes_back(tmp_path: Path) -> None:
    graph = loaded(eleutherai_document(), tmp_path)
    assert graph.metadata["flavour"] == "eleutherai" and graph.n_layers == 4
    nodes = graph.nodes
    features = nodes[nodes["kind"] == "feature"]
    assert features["feature"].to_dict() == {"0_488_1": 488, "2_7_3": 7}
    logits = nodes[nodes["kind"] == "logit"]
    assert logits["token"].to_dict() == {"output_3_0": " Austin", "output_3_1": " Texas"}
    assert (logits["feature"] == -1).all() and (logits["layer"] == 4).all()
    assert nodes.loc[[f"input_{pos}" for pos in range(4)], "token"].tolist() == TOKENS
    # by hand: the first answer reads the feature of layer 2, which reads that of layer 0 and an error, 3 to 1
    assert nodes["influence"]["input_1"] == pytest.approx(0.75 * 0.75) and nodes["influence"]["input_3"] == 0.125
    for profile in PROFILES:
        graph.to_json(tmp_path / f"{profile}.json", profile=profile)
        again = ag.load_graph(tmp_path / f"{profile}.json")
        assert again.nodes.equals(nodes) and (again.adjacency != graph.adjacency).nnz == 0


def test_a_file_that_does_not_say_its_layers_has_those_of_its_features(tmp_path: Path) -> None:
    for stated in (None, 2, "many"):
        content = eleutherai_document()
        content["metadata"]["n_layers"] = stated
        assert loaded(content, tmp_path).n_layers == 3


def test_labels_by_feature_number_are_for_every_position(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    number = next(node["feature"] for node in content["nodes"] if node["node_id"] == "1_40_2")
    content["qParams"]["clerps"] = json.dumps([[str(number), "Texas"]])
    graph = loaded(content, tmp_path)
    assert graph.nodes.loc[["1_40_2", "1_40_3"], "label"].tolist() == ["Texas", "Texas"]
    assert (graph.nodes["label"] == "Texas").sum() == 2


def test_links_of_a_shared_id_go_where_they_can(tmp_path: Path) -> None:
    """The error of layer 1 has the id of a feature of layer 0: only the feature can lead to a feature of layer 1."""
    content = document("circuit-tracer schema 1")
    nodes = {node["node_id"]: node for node in content["nodes"]}
    error = {**nodes["0_0_1"], "node_id": "0_7_1", "layer": "7", "jsNodeId": "error"}
    content["metadata"]["n_layers"] = 9
    for node in content["nodes"]:
        if node["feature_type"] == "logit":
            node["layer"] = "10"
    content["nodes"].insert(0, error)  # before the feature, as no order of the file helps
    graph = loaded(content, tmp_path)
    assert graph.nodes.loc[["0_7_1", "7_-1_1"], "kind"].tolist() == ["feature", "error"]
    at = graph.nodes.index.get_indexer(["1_40_2", "0_7_1", "7_-1_1"])
    assert graph.adjacency[at[0], at[1]] == -2.25 and graph.adjacency[at[0], at[2]] == 0


def test_links_that_cancel_are_no_edge_and_sums_must_be_finite(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    content["links"].append({**content["links"][0], "weight": -content["links"][0]["weight"]})
    graph = loaded(content, tmp_path)
    assert any("1 edges left out whose links add up to 0" in repair for repair in graph.metadata["repairs"])
    assert graph.stats()["edges"] == graph.adjacency.nnz == len(content["links"]) - 2
    assert np.isfinite(graph.mean_hops()) and not len(graph.predecessors("0_7_1").ids)
    content["links"] = [*content["links"][1:-1], *[{**content["links"][0], "weight": 3e38}] * 2]
    with pytest.raises(GraphFileError, match="add up to more than a float32 holds"):
        loaded(content, tmp_path)


def test_stored_zeros_are_no_edges() -> None:
    graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune(0.5)
    edges = graph.adjacency.copy()
    edges.data[0] = 0
    found = Graph(graph.nodes, edges, graph.prompt_tokens, graph.metadata)
    assert found.adjacency.nnz == graph.adjacency.nnz - 1 == edges.nnz - 1


def test_words_of_other_prompts_stay_with_their_nodes(tmp_path: Path) -> None:
    first, second = document("circuit-tracer schema 1"), document("circuit-tracer schema 1")
    second["metadata"]["prompt_tokens"] = ["<bos>", "Fact", " Houston", " is"]
    for part in ("nodes", "links"):
        second[part] = json.loads(json.dumps(second[part]).replace("E_102_2", "E_555_2"))
    united = ag.union([loaded(first, tmp_path), loaded(second, tmp_path)])
    united.to_json(tmp_path / "u.json")
    again = ag.load_graph(tmp_path / "u.json")
    assert again.nodes["token"]["E_102_2"] == " Dallas" and again.nodes["token"]["E_555_2"] == " Houston"
    assert again.nodes["token"].loc[united.nodes.index].equals(united.nodes["token"])


def test_activations_of_other_nodes_are_kept(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    for node in content["nodes"]:
        node["activation"] = 7.5
    graph = loaded(content, tmp_path)
    graph.to_json(tmp_path / "again.json")
    assert (ag.load_graph(tmp_path / "again.json").nodes["activation"] == 7.5).all()


def test_bias_nodes_of_other_tools_are_exported(tmp_path: Path) -> None:
    graph = loaded(attention_document(), tmp_path)
    ag.export_graph(graph, tmp_path / "g.csv")
    assert "0_bias_attn_bO_3" in (tmp_path / "g.nodes.csv").read_text()
    for ending in ("graphml", "gexf", "cyjs"):  # pictures, whose places the last two have, leave them out
        ag.export_graph(graph, tmp_path / f"g.{ending}")
        assert "0_bias_attn_bO_3" in (tmp_path / f"g.{ending}").read_text()
    assert len((tmp_path / "g.csv").read_text().splitlines()) == 1 + graph.adjacency.nnz
    assert 0 < graph.stats()["density"] <= 1


def test_other_ways_to_write_a_number_or_nothing(tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    content["metadata"]["prompt"] = None
    content["nodes"][-1]["clerp"] = 'Output " Texas" (p=1e-05)'
    graph = loaded(content, tmp_path)
    assert graph.metadata["prompt"] == "" and graph.nodes["token"].iloc[-1] == " Texas"
    graph.to_json(tmp_path / "again.json")
    assert "(p=1e-05) (p=" not in (tmp_path / "again.json").read_text()


@pytest.mark.refusal
@pytest.mark.parametrize("place", ["metadata", "qParams", "nodes"])
def test_what_is_nested_too_deep_is_refused_on_opening(place: str, tmp_path: Path) -> None:
    content = document("neuronpedia")
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    (content["nodes"][0] if place == "nodes" else content[place])["own"] = nested
    with pytest.raises(GraphFileError, match="metadata are nested more than 100 levels deep"):
        loaded(content, tmp_path)
    del (content["nodes"][0] if place == "nodes" else content[place])["own"]
    graph = loaded(content, tmp_path)
    Graph(graph.nodes, graph.adjacency, graph.prompt_tokens, {**graph.metadata, "own": nested}).save(
        tmp_path / "g.safetensors"
    )
    with pytest.raises(GraphFileError, match="metadata are nested more than 100 levels deep"):
        ag.load_graph(tmp_path / "g.safetensors")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": 0.5}, "metadata.checks is a float, expected an object"),
        ({"answer": {"text": "san francisco"}}, "metadata.answer.probability is None, expected a number"),
        ({"answer": {"probability": 0.5}}, "metadata.answer has no text"),
        ({"selection": "x"}, "metadata.selection is a str"),
        ({"pruning": {"node_threshold": [None], "edge_threshold": 1}}, r"pruning.node_threshold is \[None\]"),
        ({"scores": {}}, "metadata.scores.replacement is None, expected a number"),
        ({"pruned_from": {}}, "metadata.pruned_from.nodes is None"),
        ({"pruned_from": {"nodes": 5, "edges": 5, "pruning": 3}}, "pruned_from.pruning is a int"),
        ({"transcoders": [None]}, "metadata.transcoders is a list"),
    ],
)
def test_own_metadata_of_a_wrong_type_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune(0.5)
    changed = Graph(graph.nodes, graph.adjacency, graph.prompt_tokens, {**graph.metadata, **change})
    changed.save(tmp_path / "g.safetensors")
    with pytest.raises(GraphFileError, match=message):
        ag.load_graph(tmp_path / "g.safetensors")
    graph.to_json(tmp_path / "g.json")
    content = json.loads((tmp_path / "g.json").read_text())
    content["metadata"]["attrgraph"] |= change
    with pytest.raises(GraphFileError, match=message):
        loaded(content, tmp_path)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["nodes"][2].pop("layer"), r"keys missing in nodes: 1_40_3 \(layer\)"),
        (lambda d: d.update(nodes=d["nodes"][:-2]), "there is no logit node"),
        (lambda d: d["links"][3].update(weight=None), r"whose weight is no finite number: .*None"),
    ],
)
def test_refusals_say_where(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    content = document("circuit-tracer schema 1")
    change(content)
    with pytest.raises(GraphFileError, match=message):
        loaded(content, tmp_path)


@pytest.mark.refusal
def test_an_edge_that_leads_down_is_one_error_for_every_question(tmp_path: Path) -> None:
    graph = loaded(document("circuit-tracer schema 1"), tmp_path)
    upside_down = Graph(graph.nodes, sparse.csr_array(graph.adjacency.T), graph.prompt_tokens, graph.metadata)
    for ask in (lambda: upside_down.paths(), lambda: upside_down.effect("E_101_1", "4_900_3"), upside_down.stats):
        with pytest.raises(ag.AttrGraphError, match="lower to a higher layer"):
            ask()
