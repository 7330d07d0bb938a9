"""Graphs that are made from others: their metadata are their own, and none of it is the other's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_graphs import Case
from scipy import sparse

import attrgraph as ag
from attrgraph.errors import AttrGraphError
from attrgraph.graph.groups import with_groups
from attrgraph.graph.parts import recomputed
from attrgraph.influence.influence import with_influence

Make = Callable[[ag.Graph], ag.Graph]

MAKERS: dict[str, Make] = {
    "prune": lambda graph: graph.prune(0.6, 0.8),
    "prune twice": lambda graph: graph.prune(0.9, 0.9).prune(0.5, 0.5),
    "without": lambda graph: graph.without(graph.select(kind="feature", layer=0)),
    "without, to errors": lambda graph: graph.without(graph.select(kind="feature", layer=0), "to_error"),
    "without bias": lambda graph: graph.without_bias(),
    "without bias twice": lambda graph: graph.without_bias().without_bias(),
    "select": lambda graph: graph.select(kind=["feature", "logit"]).subgraph(),
    "query": lambda graph: graph.query("layer > 0").subgraph(),
    "ancestors": lambda graph: graph.ancestors(graph.select(kind="logit")).subgraph(),
    "neighborhood": lambda graph: graph.neighborhood(graph.select(kind="logit")).subgraph(),
    "replace": lambda graph: graph.replace(),
    "replace nodes": lambda graph: graph.replace(nodes=graph.nodes.assign(probability=0.1)),
    "replace edges": lambda graph: graph.replace(adjacency=2 * graph.adjacency.multiply(graph.adjacency > 0).tocsr()),
    "replace tokens": lambda graph: graph.replace(prompt_tokens=["x", "y"]),
    "replace metadata": lambda graph: graph.replace(metadata=graph.metadata),
    "groups": lambda graph: with_groups(graph, {"all": graph.select(kind="feature").ids}),
    "union of one": lambda graph: ag.union([graph]),
    "union of two": lambda graph: ag.union([graph, graph.prune()]),
    "sides of a diff": lambda graph: ag.diff(graph, graph).left,
    "a pruned union": lambda graph: ag.union([graph, graph]).prune(0.5, 0.5),
}


@pytest.fixture
def graph() -> ag.Graph:
    whole = Case(7, 2, 3, 0.8, seed=4).build()
    settings = {"max_feature_nodes": 9, "nested": {"list": [1, [2]]}}
    about = {"prompt": "t t", "token_ids": [3, 4], "settings": settings, "notes": ["said"]}
    about |= {"scores": whole.scores()._asdict(), "checks": {"logit_deviation": 0.0, "input_sum_gap": 0.0}}
    return whole.replace(metadata={**whole.metadata, **about})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_metadata_of_a_part_are_its_own(make: Make, graph: ag.Graph, tmp_path: Path) -> None:
    part = make(graph)
    if "scores" in part.metadata:
        assert part.metadata["scores"] == pytest.approx(part.scores()._asdict())
    part.save(tmp_path / "part.safetensors")
    files = [tmp_path / "part.safetensors"]
    if (part.nodes["kind"] == "logit").any():
        part.to_json(tmp_path / "part.json")
        files.append(tmp_path / "part.json")
    for file in files:
        again = ag.load_graph(file)
        assert again.metadata.get("scores") == part.metadata.get("scores")
    if part.prompt_tokens != graph.prompt_tokens:
        assert not {"prompt", "token_ids"} & set(part.metadata)
    before = (list(graph.prompt_tokens), graph.replace().metadata)
    tables = (graph.nodes.copy(), graph.adjacency.copy())
    part.nodes["activation"] = 9.0
    part.nodes.loc[part.nodes.index[0], "label"] = "mine"
    part.adjacency.data[:] = 9
    part.prompt_tokens.append("more")
    part.metadata["new"] = True
    for value in [*part.metadata.values(), part.metadata.get("settings", {}).get("nested", {}).get("list", [])]:
        if isinstance(value, dict):
            value["new"] = True
        elif isinstance(value, list):
            value.append("new")
    assert (graph.prompt_tokens, graph.metadata) == before
    assert graph.nodes.equals(tables[0]) and (graph.adjacency != tables[1]).nnz == 0


def test_other_edges_have_their_own_influence_and_bias_shares(graph: ag.Graph) -> None:
    whole = recomputed(graph.replace(metadata={**graph.metadata, "checks": {"bias_share": 0.5}}))
    edges = whole.adjacency.copy()
    edges.data[:40] *= 5
    edges.data[(whole.nodes["kind"] == "bias").to_numpy()[edges.indices]] = 0
    changed = whole.replace(adjacency=edges)
    assert whole.replace(adjacency=sparse.coo_array(edges)).nodes.equals(changed.nodes)
    assert changed.nodes.equals(with_influence(changed.nodes, changed.adjacency))
    assert not changed.nodes["influence"].equals(whole.nodes["influence"])
    assert changed.metadata["checks"]["bias_share"] == 0.0 < whole.metadata["checks"]["bias_share"]
    assert not np.shares_memory(changed.adjacency.data, edges.data)
    pruned = whole.prune(0.6, 0.8)
    assert pruned.replace(adjacency=pruned.adjacency).nodes.equals(pruned.nodes)
    given = pruned.replace(nodes=pruned.nodes, adjacency=pruned.adjacency)
    assert given.nodes is not pruned.nodes and not np.shares_memory(given.adjacency.data, pruned.adjacency.data)
    with pytest.raises(AttrGraphError, match=r"adjacency has the shape \(2, 2\); expected"):
        whole.replace(adjacency=sparse.csr_array((2, 2)))


def test_scores_of_what_was_pruned_are_those_before_pruning(graph: ag.Graph) -> None:
    pruned = graph.prune(0.6, 0.8)
    assert pruned.metadata["pruned_from"]["scores"] == graph.metadata["scores"] != pruned.metadata["scores"]
    assert pruned.without(pruned.select(layer=0)).metadata["pruned_from"] == pruned.metadata["pruned_from"]


def test_the_caption_says_what_was_taken_out_by_hand(graph: ag.Graph) -> None:
    nodes, edges = len(graph.nodes) - 1, graph.without_bias().adjacency.nnz
    assert f"selection from {nodes} nodes and {edges} edges" in graph.query("layer > 0").subgraph().to_dot()
    chosen = graph.select(kind="feature", layer=0)
    assert f"{len(chosen)} nodes were taken out" in graph.without(chosen).to_dot()
