"""Head loadings: each layer's effects are the edge; a head's is what the edge loses without the head."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import D_MODEL, N_LAYERS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.attribution.sweep import EdgeSweep, ReadVectors, feature_reads
from attrgraph.errors import AttrGraphError, ModelLoadError, ResultError, TargetError, TranscoderError
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import Transcoders, save_transcoders

Build = Callable[..., LanguageModel]
DALLAS = "in the state containing dallas the capital is"
TOKEN = 9

SETTINGS: list[dict[str, Any]] = [
    {},
    {"cross_layer": False, "activation": "jumprelu", "skip": True},
    {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"},
]
all_settings = pytest.mark.parametrize("settings", SETTINGS, ids=["clt-relu", "plt-jumprelu-skip", "clt-topk-skip-mlp"])


def edges_of(graph: ag.Graph) -> list[tuple[str, str]]:
    """Two edges of every kind of source and target; none from the bias."""
    table = graph.adjacency.tocoo()
    names, kinds = graph.nodes.index.to_numpy(), graph.nodes["kind"].to_numpy()
    pairs = pd.DataFrame({"source": names[table.col], "target": names[table.row], "from": kinds[table.col]})
    pairs["to"] = kinds[table.row]
    pairs = pairs[pairs["from"] != "bias"]
    of_kinds = pairs.groupby(["from", "to"])
    chosen = pd.concat([of_kinds.nth(len(pairs) // 50), of_kinds.tail(1)])
    return list(chosen[["source", "target"]].itertuples(index=False, name=None))


@all_settings
def test_effects_of_every_layer_between_sum_to_the_edge(
    family: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, dtype=torch.float64, **settings)
    graph = ag.trace(model, prompt, targets=[4, TOKEN])
    for source, target in edges_of(graph):
        loadings = ag.head_loadings(graph, source, target, model=model)
        index = graph.nodes.index
        edge = graph.adjacency[index.get_loc(target), index.get_loc(source)]
        # the graph keeps edges in float32
        for total in loadings.groupby("layer")["effect"].sum():
            assert total == pytest.approx(edge, rel=1e-6)
        top = int(graph.nodes.loc[target, "layer"])
        # a sequential block's features read after its attention
        end = top if top == N_LAYERS or family == "gpt_neox" else top + 1
        assert list(loadings["layer"].unique()) == list(range(int(graph.nodes.loc[source, "layer"]) + 1, end))
        by_layer = loadings.groupby("layer")["via"].agg(list)
        assert all(ways == ["residual", *["head"] * 4, "later"] for ways in by_layer)
        assert set(loadings.loc[loadings["via"] != "head", "head"]) <= {-1}


def local_of(model: LanguageModel, graph: ag.Graph) -> LocalReplacement:
    assert model.transcoders is not None
    token_ids = torch.tensor(graph.metadata["token_ids"])
    return build_replacement(model.run(token_ids), model.transcoders, torch.arange(len(token_ids)) == 0)


def edge_of(local: LocalReplacement, graph: ag.Graph, source: str, target: str) -> float:
    """By a sweep over all sources."""
    run, active, to, at = local.run, local.active, graph.nodes.loc[target], graph.nodes.loc[source]
    if to["kind"] == "logit":
        vector = (run.W_U[to["feature"]] - run.W_U.mean(0))[None]
        last = torch.tensor([run.n_pos - 1])
        reads = ReadVectors(torch.tensor([run.n_layers]), last, vector, vector.new_zeros(1))
    else:
        reads = feature_reads(local, _rows(local, to))
    column = int(_rows(local, at)[0]) if at["kind"] == "feature" else len(active) + at["layer"] * run.n_pos + at["pos"]
    if at["kind"] == "embedding":
        column = len(active) + run.n_layers * run.n_pos + at["pos"]
    return float(EdgeSweep(local).edges(reads)[0, column])


def _rows(local: LocalReplacement, node: Any) -> torch.Tensor:
    active = local.active
    is_it = (active.layer == node["layer"]) & (active.pos == node["pos"]) & (active.feature == node["feature"])
    return is_it.nonzero()[:, 0]


def without_heads(local: LocalReplacement, layer: int, heads: list[int]) -> LocalReplacement:
    """The frozen model with some heads of one layer writing nothing; all else is held."""
    block = local.run.blocks[layer]
    W_O = block.attention.W_O.clone()
    W_O[heads] = 0
    blocks = list(local.run.blocks)
    blocks[layer] = replace(block, attention=replace(block.attention, W_O=W_O))
    return replace(local, run=replace(local.run, blocks=tuple(blocks)))


def written_from(local: LocalReplacement, layer: int) -> LocalReplacement:
    """With features and errors writing into this layer and above only."""
    weights = [w.map(lambda x: x) for w in local.transcoders.layers]
    for i, w in enumerate(weights):
        W_dec = w.W_dec.clone()
        W_dec[:, : max(0, layer - i)] = 0
        weights[i] = replace(w, W_dec=W_dec)
    errors = local.errors.clone()
    errors[:layer] = 0
    run = replace(local.run, embedding=torch.zeros_like(local.run.embedding))
    return replace(local, run=run, errors=errors, transcoders=Transcoders(weights, local.transcoders.config))


@all_settings
def test_a_head_carries_what_the_edge_loses_without_it(
    family: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    """Independent path: the sweep, with one layer's heads taken out of the frozen model one by one, or all."""
    model = traced_model(family, dtype=torch.float64, **settings)
    graph = ag.trace(model, prompt, targets=[4, TOKEN])
    local = local_of(model, graph)
    for source, target in edges_of(graph)[::3]:
        edge = edge_of(local, graph, source, target)
        loadings = ag.head_loadings(graph, source, target, model=model).set_index(["layer", "via", "head"])["effect"]
        for layer in loadings.index.unique("layer"):
            for head in range(4):
                lost = edge - edge_of(without_heads(local, layer, [head]), graph, source, target)
                # float64 rounding of sums of some hundred terms
                assert loadings[layer, "head", head] == pytest.approx(lost, rel=1e-9, abs=1e-12)
            stays = edge_of(without_heads(local, layer, [0, 1, 2, 3]), graph, source, target)
            later = edge_of(written_from(local, layer), graph, source, target)
            assert loadings[layer, "later", -1] == pytest.approx(later, rel=1e-9, abs=1e-12)
            assert loadings[layer, "residual", -1] == pytest.approx(stays - later, rel=1e-9, abs=1e-12)


def test_cross_layer_features_write_later_and_per_layer_ones_do_not(traced_model: Build, prompt: list[int]) -> None:
    for is_cross_layer in (True, False):
        model = traced_model(cross_layer=is_cross_layer)
        graph = ag.trace(model, prompt, targets=[TOKEN])
        nodes = graph.nodes
        source = nodes.index[(nodes["kind"] == "feature") & (nodes["layer"] == 0) & (nodes["pos"] == 8)][0]
        loadings = ag.head_loadings(graph, source, logit_of(graph), model=model)
        later = loadings[loadings["via"] == "later"]
        assert list(later["layer"]) == [1, 2] and bool((later["effect"] != 0).all()) == is_cross_layer


def logit_of(graph: ag.Graph) -> str:
    return str(graph.nodes.index[graph.nodes["kind"] == "logit"][0])


def test_no_row_where_no_attention_lies_between(traced_model: Build, prompt: list[int]) -> None:
    """In parallel blocks a feature reads what attention reads, so its own layer's heads bring it nothing."""
    model = traced_model("gpt_neox")
    graph = ag.trace(model, prompt)
    nodes = graph.nodes
    target = nodes.index[(nodes["kind"] == "feature") & (nodes["layer"] == 0) & (nodes["pos"] == 3)][0]
    loadings = ag.head_loadings(graph, f"E_{prompt[3]}_3", target, model=model)
    assert list(loadings.columns) == ["layer", "via", "head", "effect"] and loadings.empty


def test_a_difference_of_logits_is_split_too(traced_model: Build, prompt: list[int]) -> None:
    model, tokenised = traced_model(), ag.load_model("demo")
    for one, asked, pair in ((model, prompt, (4, TOKEN)), (tokenised, DALLAS, ("austin", "boston"))):
        graph = ag.trace(one, asked, targets=ag.LogitDifference(*pair))
        both = ag.trace(one, asked, targets=list(pair))
        source = "0_-1_5"
        loadings = ag.head_loadings(graph, source, logit_of(graph), model=one)["effect"]
        parts = [
            ag.head_loadings(both, source, str(name), model=one)["effect"]
            for name in both.nodes.index[both.nodes["kind"] == "logit"]
        ]
        # float32 rounding of terms of size about 1
        pd.testing.assert_series_equal(loadings, parts[0] - parts[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["demo", "demo-per-layer"])
def test_shipped_models_are_loaded_again(name: str, tmp_path: Path) -> None:
    model = ag.load_model("demo", transcoders=name)
    graph = ag.trace(model, DALLAS)
    expected = ag.head_loadings(graph, "0_-1_5", logit_of(graph), model=model)
    for ending in ("safetensors", "json"):
        path = tmp_path / f"g.{ending}"
        graph.save(path) if ending == "safetensors" else graph.to_json(path)
        loaded = ag.load_graph(path)
        pd.testing.assert_frame_equal(ag.head_loadings(loaded, "0_-1_5", logit_of(loaded)), expected)
    pruned = graph.prune(0.9)
    source = pruned.nodes.index[pruned.adjacency[[pruned.nodes.index.get_loc(logit_of(pruned))]].indices[0]]
    assert not ag.head_loadings(pruned, str(source), logit_of(pruned)).empty


def saved_graph(folder: Path, prompt: list[int]) -> ag.Graph:
    """Traced on a model and transcoders in folders."""
    make_model("qwen3").hf_model.save_pretrained(folder / "m")
    save_transcoders(make_transcoders(), folder / "t")
    return ag.trace(ag.load_model(folder / "m", folder / "t", dtype="float64"), prompt)


def test_folders_are_loaded_again_or_given_from_elsewhere(tmp_path: Path, prompt: list[int]) -> None:
    graph = saved_graph(tmp_path, prompt)
    expected = ag.head_loadings(graph, "0_-1_3", logit_of(graph))
    (tmp_path / "m").rename(tmp_path / "moved")
    with pytest.raises(ModelLoadError, match="folder of the graph's model is not there"):
        ag.head_loadings(graph, "0_-1_3", logit_of(graph))
    moved = ag.load_model(tmp_path / "moved", tmp_path / "t", dtype="float64")
    pd.testing.assert_frame_equal(ag.head_loadings(graph, "0_-1_3", logit_of(graph), model=moved), expected)


@pytest.mark.refusal
def test_another_model_than_the_graphs_is_refused(tmp_path: Path, prompt: list[int]) -> None:
    graph = saved_graph(tmp_path, prompt)
    end = logit_of(graph)
    single = ag.load_model(tmp_path / "m", tmp_path / "t")
    with pytest.raises(ModelLoadError, match="its dtype is float32; the graph was traced with float64"):
        ag.head_loadings(graph, "0_-1_3", end, model=single)
    with pytest.raises(TranscoderError, match="has no transcoders"):
        ag.head_loadings(graph, "0_-1_3", end, model=ag.load_model(tmp_path / "m", dtype="float64"))
    # nothing to compare but sizes: the edge itself tells
    other = make_model("qwen3", seed=1, dtype=torch.float64)
    other.transcoders = make_transcoders(seed=1)
    with pytest.raises(ResultError, match="sum to"):
        ag.head_loadings(graph, "0_-1_3", end, model=other)
    other.transcoders = make_transcoders(cross_layer=False)
    with pytest.raises(TranscoderError, match="its kind is transcoder_set"):
        ag.head_loadings(graph, "0_-1_3", end, model=other)
    with pytest.raises(ModelLoadError, match="its family is Llama"):
        ag.head_loadings(
            graph, "0_-1_3", end, model=LanguageModel(make_model("llama").hf_model, transcoders=make_transcoders())
        )
    save_transcoders(make_transcoders(seed=1), tmp_path / "t", overwrite=True)
    with pytest.raises(TranscoderError, match=r"its digest is .*; the graph was traced with"):
        ag.head_loadings(graph, "0_-1_3", end)


@pytest.mark.refusal
def test_changed_edges_and_features_are_told(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    graph = ag.trace(model, prompt)
    end = logit_of(graph)
    changed = replace(graph, adjacency=graph.adjacency * 1.1)
    with pytest.raises(ResultError, match="and rounding explains"):
        ag.head_loadings(changed, "1_-1_8", end, model=model)
    source = graph.nodes.index[graph.nodes["kind"] == "feature"][0]
    skipping = {**graph.metadata, "settings": {"skipped_positions": list(range(len(prompt)))}}
    with pytest.raises(ResultError, match="is not active in this run"):
        ag.head_loadings(replace(graph, metadata=skipping), source, end, model=model)


@pytest.mark.refusal
def test_what_is_no_edge_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    graph = ag.trace(model, prompt)
    end, features = logit_of(graph), graph.nodes[graph.nodes["kind"] == "feature"]
    high = str(features.index[features["layer"] == 2][-1])
    low = str(features.index[(features["layer"] == 0) & (features["pos"] == 2)][0])
    for source, target, message in (
        ("9_9_9", end, "no node '9_9_9'"),
        (low, "nothing", "no node 'nothing'"),
        ("B", end, "has kind bias; expected a feature, an error or an embedding"),
        (end, end, "has kind logit; expected a feature, an error"),
        (low, "1_-1_4", "has kind error; expected a feature or a logit"),
        (low, f"E_{prompt[3]}_3", "has kind embedding; expected a feature or a logit"),
        (high, low, "there is no edge"),
        (low, low, "there is no edge"),
        (f"E_{prompt[3]}_3", low, "at the same position or before"),
    ):
        with pytest.raises(AttrGraphError, match=message):
            ag.head_loadings(graph, source, target, model=model)
    with pytest.raises(ModelLoadError, match="was traced with model in memory"):
        ag.head_loadings(graph, low, end)
    sparse = graph.prune(1.0, 0.01)
    lost = next(
        n
        for n in sparse.nodes.index
        if n.startswith("E_") and not sparse.adjacency[:, [sparse.nodes.index.get_loc(n)]].nnz
    )
    with pytest.raises(AttrGraphError, match="was pruned away"):
        ag.head_loadings(sparse, str(lost), end, model=model)


@pytest.mark.refusal
def test_graphs_of_other_tools_and_directions_are_refused(
    traced_model: Build, prompt: list[int], tmp_path: Path
) -> None:
    model = traced_model()
    graph = ag.trace(model, prompt)
    graph.to_json(tmp_path / "g.json")
    document = json.loads((tmp_path / "g.json").read_text())
    del document["metadata"]["attrgraph"]
    (tmp_path / "g.json").write_text(json.dumps(document))
    with pytest.raises(AttrGraphError, match="has no token_ids and no settings"):
        ag.head_loadings(ag.load_graph(tmp_path / "g.json"), "0_-1_3", logit_of(graph), model=model)
    unnamed = replace(graph, metadata={k: v for k, v in graph.metadata.items() if k != "model"})
    with pytest.raises(ModelLoadError, match="the graph says of its model: nothing"):
        ag.head_loadings(unnamed, "0_-1_3", logit_of(graph))
    direction = ag.trace(model, prompt, targets=torch.arange(float(D_MODEL)))
    with pytest.raises(TargetError, match="does not keep the vectors of directions"):
        ag.head_loadings(direction, "0_-1_3", logit_of(direction), model=model)
