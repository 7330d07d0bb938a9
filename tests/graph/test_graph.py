"""The graph's own file, JSON profiles and networkx."""

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from safetensors.numpy import save_file

import attrgraph as ag
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.files import PROFILES
from attrgraph.io.flavours import cantor_pair, cantor_unpair
from attrgraph.io.json_writing import to_document
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]


@pytest.fixture
def graph(traced_model: Build, prompt: list[int]) -> ag.Graph:
    return ag.trace(traced_model(), prompt)


def assert_same_graph(ours: ag.Graph, theirs: ag.Graph) -> None:
    assert ours.nodes.equals(theirs.nodes)
    assert ours.nodes.index.equals(theirs.nodes.index)
    assert (ours.adjacency != theirs.adjacency).nnz == 0
    assert ours.prompt_tokens == theirs.prompt_tokens
    assert ours.metadata == theirs.metadata


def test_native_file_keeps_everything_and_has_the_same_bytes(graph: ag.Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.safetensors")
    again = ag.load_graph(tmp_path / "a.safetensors")
    assert_same_graph(graph, again)
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_pruned_graph_has_no_bias_and_fewer_nodes(graph: ag.Graph) -> None:
    pruned = graph.prune(0.5, 0.9)
    assert "bias" not in set(pruned.nodes["kind"])
    assert 20 < len(pruned.nodes) < len(graph.nodes) / 2
    assert pruned.nodes["influence"].equals(graph.nodes["influence"].loc[pruned.nodes.index])
    assert pruned.metadata["pruning"] == {"node_threshold": 0.5, "edge_threshold": 0.9}
    everything = graph.prune(1.0, 1.0)
    has_influence = graph.nodes["influence"] > 0
    assert set(graph.nodes.index[has_influence]) <= set(everything.nodes.index)


@pytest.mark.parametrize("profile", PROFILES)
def test_json_profiles_come_back_equal(profile: str, graph: ag.Graph, tmp_path: Path) -> None:
    pruned = graph.prune()
    pruned.to_json(tmp_path / "g.json", profile)
    again = ag.load_graph(tmp_path / "g.json")
    assert again.nodes.index.equals(pruned.nodes.index)
    for column in ("kind", "layer", "pos", "feature", "token", "probability", "label"):
        assert again.nodes[column].equals(pruned.nodes[column]), column
    is_feature = pruned.nodes["kind"] == "feature"
    assert again.nodes["activation"][is_feature].equals(pruned.nodes["activation"][is_feature])
    not_logit = pruned.nodes["kind"] != "logit"
    assert again.nodes["cumulative_influence"][not_logit].equals(pruned.nodes["cumulative_influence"][not_logit])
    assert (again.adjacency != pruned.adjacency).nnz == 0
    assert again.metadata["scores"] == pruned.metadata["scores"] == pruned.scores()._asdict()


@pytest.mark.parametrize("profile", PROFILES)
def test_json_has_what_viewers_need(profile: str, graph: ag.Graph) -> None:
    document = to_document(graph.prune(), profile)[0]
    assert set(document) == {"metadata", "qParams", "nodes", "links"}
    assert set(document["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    assert document["metadata"].get("schema_version") == (None if profile == "anthropic" else 1)
    assert set(document["metadata"]["slug"]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    ids = [node["node_id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids)
    for node in document["nodes"]:
        assert isinstance(node["layer"], str)
        if node["feature_type"] == "logit":
            assert "(p=0." in node["clerp"] and node["layer"] == "4"
            assert node["influence"] is None
        else:
            assert 0 <= node["influence"] <= 1
        if node["feature_type"] == "cross layer transcoder" and profile != "anthropic":
            layer, index, _ = (int(part) for part in node["node_id"].split("_"))
            assert cantor_unpair(node["feature"]) == (layer, index)
        if profile != "circuit-tracer":
            assert node["jsNodeId"] == node["node_id"]
    assert {link["source"] for link in document["links"]} <= set(ids)


def test_cantor_pairs_are_as_published() -> None:
    assert cantor_pair(0, 19204) == 184425614  # from a public graph of Gemma-2-2B
    for layer, feature in ((0, 0), (25, 0), (0, 163839), (25, 163839), (61, 2**20)):
        assert cantor_unpair(cantor_pair(layer, feature)) == (layer, feature)


def test_older_error_ids_and_string_params_are_read(graph: ag.Graph, tmp_path: Path) -> None:
    document = to_document(graph.prune(), "circuit-tracer")[0]
    renamed = {}
    for node in document["nodes"]:
        older = f"0_{node['layer']}_{node['ctx_idx']}"  # may collide with a feature of layer 0
        if node["feature_type"] == "mlp reconstruction error" and older not in graph.nodes.index:
            renamed[node["node_id"]] = older
            node["node_id"] = older
    assert renamed
    for link in document["links"]:
        link["source"] = renamed.get(link["source"], link["source"])
    document["qParams"] = {"pinnedIds": "a,b"}
    del document["metadata"]["attrgraph"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    again = ag.load_graph(tmp_path / "old.json")
    assert again.nodes.index.equals(graph.prune().nodes.index)
    assert again.n_layers == graph.n_layers


def test_networkx_graph_is_complete_and_can_be_written(graph: ag.Graph, tmp_path: Path) -> None:
    pruned = graph.prune(0.5, 0.9)
    out = pruned.to_networkx()
    assert nx.is_directed_acyclic_graph(out)
    assert out.number_of_nodes() == len(pruned.nodes) and out.number_of_edges() == pruned.adjacency.nnz
    source, target, data = next(iter(out.edges(data=True)))
    row, column = pruned.nodes.index.get_loc(target), pruned.nodes.index.get_loc(source)
    assert data["weight"] == pruned.adjacency[row, column]
    for _, attributes in out.nodes(data=True):
        assert set(attributes) == set(pruned.nodes.columns)
        assert all(value is not None and value == value for value in attributes.values())
    for write in (nx.write_graphml, nx.write_gexf):
        write(out, tmp_path / "g")
        assert (tmp_path / "g").stat().st_size > 1000


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_saving_overwrites_unless_told_not_to(graph: ag.Graph, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    before = path.read_bytes()
    with pytest.raises(GraphFileError, match="exists"):
        graph.prune().save(path, overwrite=False)
    assert path.read_bytes() == before
    graph.prune().save(path)
    assert path.read_bytes() != before
    with pytest.raises(GraphFileError, match="does not exist"):
        graph.save(tmp_path / "no" / "g.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


@pytest.mark.refusal
def test_bad_graph_files_are_refused(graph: ag.Graph, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    graph.save(path)
    path.write_bytes(path.read_bytes()[:-7])
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "g.json").write_text('{"metadata": {"prompt_tokens": []}, "nodes": [')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "g.pt").write_bytes(b"\x80\x02.")
    for name, message in {
        "g.safetensors": "not a whole graph file",
        "other.safetensors": "not of a graph",
        "g.json": "is not JSON",
        "list.json": "not an attribution graph",
        "deep.json": "is nested too deep",
        "g.pt": "is a pickle",
        "nowhere.json": "no such file",
    }.items():
        with pytest.raises(GraphFileError, match=message):
            ag.load_graph(tmp_path / name)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["links"][0].update(weight=float("inf")), "numbers that JSON does not have.*: Infinity"),
        (lambda d: d["links"][0].update(weight=1e300), "no finite number"),
        (lambda d: d["nodes"][-1].update(token_prob=float("nan")), "numbers that JSON does not have.*: NaN"),
        (lambda d: d["nodes"][-1].update(token_prob=1.5), "is no probability"),
        (lambda d: d["nodes"][0].update(ctx_idx=-1), "at no position"),
        (lambda d: d["metadata"].update(attrgraph="x"), "not an attribution graph"),
        (lambda d: d["links"][0].update(source=d["links"][0]["target"]), "lower to a higher layer"),
    ],
)
def test_contradictions_in_json_are_refused(
    change: Callable[[dict], object], message: str, graph: ag.Graph, tmp_path: Path
) -> None:
    document = to_document(graph.prune(), "neuronpedia")[0]
    change(document)
    (tmp_path / "g.json").write_text(json.dumps(document))
    with pytest.raises(GraphFileError, match=message):
        ag.load_graph(tmp_path / "g.json")


def test_pruning_settings_of_others_may_be_missing_or_empty(graph: ag.Graph, tmp_path: Path) -> None:
    for i, settings in enumerate((None, {}, {"node_threshold": None, "edge_threshold": 0.9})):
        document = to_document(graph.prune(), "neuronpedia")[0]
        del document["metadata"]["attrgraph"]
        document["metadata"]["pruning_settings"] = settings
        document["links"][0]["weight"] = 0.0
        (tmp_path / f"{i}.json").write_text(json.dumps(document))
        again = ag.load_graph(tmp_path / f"{i}.json")
        assert "pruned before, as the file says (node threshold 0.8)" in again.to_dot()
        document["metadata"]["node_threshold"] = 1.0
        (tmp_path / f"{i}-whole.json").write_text(json.dumps(document))
        assert "the file records no pruning" in ag.load_graph(tmp_path / f"{i}-whole.json").to_dot()
        assert again.adjacency.nnz == len(document["links"]) - 1


@pytest.mark.refusal
def test_unknown_profile_and_thresholds_are_refused(graph: ag.Graph, tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="unknown JSON profile 'gephi'"):
        graph.to_json(tmp_path / "g.json", "gephi")
    with pytest.raises(AttrGraphError, match=r"node_threshold is 1\.5"):
        graph.prune(1.5)
