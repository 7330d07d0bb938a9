"""What the page computes is what Python computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import explored
from graph_documents import attention_document, document
from random_graphs import Case
from six_nodes import six_nodes

import attrgraph as ag
from attrgraph.influence.influence import with_influence

pytestmark = pytest.mark.doors

GRAPHS = ("six nodes", "random", "many", "circuit-tracer schema 1", "neuronpedia", "attention")


def graph_named(name: str, folder: Path) -> ag.Graph:
    """Two of our own making, one with equal scores, and three as other tools write them."""
    if name == "six nodes":
        return six_nodes()
    if name in ("random", "many"):
        return Case(*((7, 2, 3) if name == "random" else (60, 4, 3)), density=0.6, seed=3).build()
    content = attention_document() if name == "attention" else document(name)
    (folder / "theirs.json").write_text(json.dumps(content), encoding="utf-8")
    return ag.load_graph(folder / "theirs.json")


@pytest.mark.parametrize("name", GRAPHS)
def test_influence_pruning_and_scores_are_pythons(name: str, browser: Any, tmp_path: Path) -> None:
    graph = graph_named(name, tmp_path).without_bias()
    graph = graph.replace(metadata={**graph.metadata, "qParams": {}})  # pinned nodes are shown beside those kept
    computed = with_influence(graph.nodes, graph.adjacency)["influence"]
    with explored(browser, graph, tmp_path) as page:
        assert page.ask("explorer.graph.nodes.map((node) => node.node_id)") == graph.nodes.index.tolist()
        np.testing.assert_allclose(page.ask("[...explorer.influence]"), computed, rtol=1e-5, atol=1e-12)
        for nodes, edges in [(0.8, 0.98), (0, 1), (0.35, 0.6), (0.95, 0.9), (1, 0), (1, 1)]:
            page.role("slider", "Node threshold").fill(str(nodes))
            page.role("slider", "Edge threshold").fill(str(edges))
            kept = graph.prune(nodes, edges)
            assert page.n_nodes == len(kept.nodes), (nodes, edges)
            shown = page.ask(
                "explorer.graph.nodes.filter((_, i) => explorer.look.stays[i]).map((node) => node.node_id)"
            )
            assert shown == kept.nodes.index.tolist()
            np.testing.assert_allclose(page.ask("[...explorer.look.inputs.weight]"), kept.adjacency.data, rtol=1e-5)
            found = page.ask("Object.values(explorer.look.scores).map((value) => isNaN(value) ? null : value)")
            np.testing.assert_allclose(np.array(found, dtype=float), kept.scores(), rtol=1e-5)


def test_pinned_features_alone_have_pythons_scores(browser: Any, tmp_path: Path) -> None:
    graph = graph_named("many", tmp_path).without_bias()
    features = graph.nodes.index[graph.nodes["kind"] == "feature"].tolist()
    with explored(browser, graph, tmp_path) as page:
        for pinned in ([], features[:3], features[10:30], features):
            places = page.page.evaluate("(ids) => ids.map((id) => explorer.graph.place.get(id))", pinned)
            found = page.ask(f"questions.pinnedScores(explorer.graph, new Set({places}))")
            np.testing.assert_allclose(list(found.values()), graph.scores(pinned), rtol=1e-5)
        page.open(f"#pins={json.dumps(features[:3])}")
        expected = graph.scores(features[:3])
        shown = f"replacement {expected.replacement:.0%}, completeness {expected.completeness:.0%}."
        assert shown in page.page.locator("#pinned").inner_text()


def test_a_graph_opens_as_prune_leaves_it_or_whole_if_it_says_that_it_is_pruned(browser: Any, tmp_path: Path) -> None:
    graph = graph_named("many", tmp_path)
    for asked, n_expected in (
        (graph, len(graph.prune().nodes)),
        (graph.prune(0.9), len(graph.prune(0.9).nodes)),
        (graph_named("neuronpedia", tmp_path), 12),
    ):
        with explored(browser, asked, tmp_path) as page:
            assert page.n_nodes == n_expected
            page.role("slider", "Node threshold").fill("0.5")
            assert page.n_nodes == len(asked.prune(0.5).nodes)


def test_inputs_and_outputs_are_the_edges_of_the_pruned_graph(browser: Any, tmp_path: Path) -> None:
    graph = graph_named("many", tmp_path)
    kept = graph.prune()
    node = kept.nodes[kept.nodes["kind"] == "feature"]["influence"].idxmax()
    with explored(browser, graph, tmp_path) as page:
        page.select(node)
        row = kept.nodes.index.get_loc(node)
        for side, weights in (("Inputs", kept.adjacency[[row]]), ("Outputs", kept.adjacency[:, [row]].T)):
            order = np.argsort(-np.abs(weights.toarray()[0]), kind="stable")[: weights.nnz]
            assert [label for label, _ in page.edges(side)] == kept.nodes["label"].iloc[order].tolist()
            shown = [weight for _, weight in page.edges(side)]
            np.testing.assert_allclose([float(weight) for weight in shown], weights.toarray()[0][order], rtol=5e-3)
            assert all(weight[0] in "+-" for weight in shown)


def test_a_pruned_graph_shows_the_influence_it_has_kept_until_it_is_pruned_further(
    browser: Any, tmp_path: Path
) -> None:
    whole = graph_named("many", tmp_path)
    graph = whole.prune(0.6, 0.9)
    left = with_influence(graph.nodes, graph.adjacency)["influence"]
    assert not np.allclose(left, graph.nodes["influence"], rtol=1e-3)
    node = graph.nodes.index[graph.nodes["kind"] == "feature"][0]
    with explored(browser, graph, tmp_path) as page:
        np.testing.assert_allclose(page.ask("[...explorer.influence]"), graph.nodes["influence"], rtol=1e-5)
        page.select(node)
        panel, legend = page.role("region", "Node"), page.page.locator("footer")
        assert f"{graph.nodes['influence'][node]:.3g} of the answer's" in panel.inner_text()
        assert "of the graph before it was pruned" in panel.inner_text()
        assert "influence before pruning" in legend.inner_text()
        page.role("slider", "Node threshold").fill("0.9")
        np.testing.assert_allclose(page.ask("[...explorer.influence]"), left, rtol=1e-5)
        assert page.n_nodes == len(graph.prune(0.9).nodes)
        assert "of what this file has of the graph" in panel.inner_text()
        assert "influence before pruning" not in legend.inner_text()
        page.press("u")
        assert "influence before pruning" in legend.inner_text()
    graph.to_json(tmp_path / "left.json")  # which keeps no influence: that of what is left is computed on loading
    for other in (whole, ag.load_graph(tmp_path / "left.json")):
        with explored(browser, other, tmp_path) as page:
            np.testing.assert_allclose(
                page.ask("[...explorer.influence]"), other.without_bias().nodes["influence"], rtol=1e-5
            )
            assert "before pruning" not in page.page.locator("footer").inner_text()
