"""What a person asks the explorer: paths, effects, groups, what features mean, what was measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from explored import explored
from random_graphs import Case
from six_nodes import A, B, C, F, T, six_nodes

import attrgraph as ag
from attrgraph.errors import FeatureError, GraphFileError

pytestmark = pytest.mark.doors


def random_graph() -> ag.Graph:
    """Of 60 features, with activations of both signs."""
    return Case(60, 4, 3, density=0.6, seed=3).build().without_bias()


def test_the_strongest_paths_are_pythons(browser: Any, tmp_path: Path) -> None:
    graph = random_graph()
    kept = graph.prune()
    by_influence = kept.nodes[kept.nodes["kind"] == "feature"].sort_values("influence", ascending=False).index
    with explored(browser, graph, tmp_path) as page:
        for source, target in ((None, None), ([by_influence[0]], None), (["E_5_0"], [by_influence[0]])):
            expected = kept.paths(source, target, k=6)
            starts = (
                kept.nodes["kind"].isin(("embedding", "error")) if source is None else kept.nodes.index.isin(source)
            )
            ends = kept.weights if target is None else kept.nodes.index.isin(target)
            found = page.page.evaluate(
                """([starts, ends]) => {
                    const { graph, look } = explorer;
                    const spread = (named) => Float64Array.from(graph.nodes, (node) => named[node.node_id] ?? 0);
                    const paths = questions.strongestPaths(look.inputs, spread(starts), spread(ends), 6);
                    return paths.map((path) => ({ ...path, nodes: path.nodes.map((i) => graph.nodes[i].node_id) }));
                }""",
                [
                    dict(zip(kept.nodes.index, map(int, starts), strict=True)),
                    dict(zip(kept.nodes.index, map(float, ends), strict=True)),
                ],
            )
            assert [tuple(path["nodes"]) for path in found] == expected["path"].tolist()
            for name in ("share", "coverage"):
                np.testing.assert_allclose([path[name] for path in found], expected[name], rtol=1e-5)


def test_effects_over_all_paths_and_through_or_without_pinned_nodes_are_pythons(browser: Any, tmp_path: Path) -> None:
    graph = random_graph()
    kept = graph.prune()
    features = kept.nodes[kept.nodes["kind"] == "feature"]
    pinned = features[features["layer"] == 1].sort_values("influence", ascending=False).index[:2].tolist()
    source, target = "E_5_0", kept.nodes.index[kept.nodes["kind"] == "logit"][0]
    with explored(browser, graph, tmp_path) as page:
        for name in pinned:
            page.select(name)
            page.press("p")
        page.select(source)
        page.press("m")
        page.select(target)
        panel = page.role("region", "Paths")
        values = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
    expected = {
        "effect over all paths": kept.effect(source, target),
        "effect through pinned nodes": kept.effect(source, target, through=pinned),
        "effect without them": kept.effect(source, target, avoid=pinned),
    }
    assert values.keys() == expected.keys()
    np.testing.assert_allclose([float(one) for one in values.values()], list(expected.values()), rtol=6e-3)


def test_a_missing_activation_on_the_way_is_said(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    graph = graph.replace(
        nodes=graph.nodes.assign(activation=graph.nodes["activation"].where(graph.nodes.index != B, 0.0))
    )
    with explored(browser, graph, tmp_path) as page:
        page.open(f"#nodes=1&edges=1&from={F}&node={T}")
        assert "an activation on the way is missing" in page.role("region", "Paths").inner_text()
        page.open(f"#nodes=1&edges=1&from={A}&node={T}")
        assert "-8" in page.role("region", "Paths").inner_text()


def test_paths_between_two_nodes_are_listed_with_their_shares(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.open("#nodes=1&edges=1")
        page.select(T)
        page.role("button", "Paths from here").click()
        page.select(F)
        panel = page.role("region", "Paths")
        assert panel.get_by_role("heading").inner_text() == "Paths between logit 9 and embedding 8"
        assert panel.get_by_role("listitem").all_inner_texts() == [
            "embedding 8 → feature 2 → feature 3 → logit 9\n30%",
            "embedding 8 → feature 2 → logit 9\n15%",
        ]
        steps = panel.get_by_role("listitem").last.locator(".name").all()
        assert [step.get_attribute("data-at") for step in steps] == ["@1"] * 3
        titles = [button.get_attribute("title") for button in panel.get_by_role("listitem").get_by_role("button").all()]
        assert [title.split("; ")[1] for title in titles] == [
            f"with those above, {share} of the 0.45 over all paths between these ends" for share in ("0.3", "0.45")
        ]


def test_pinned_nodes_become_a_group_with_pythons_flows(browser: Any, tmp_path: Path) -> None:
    graph = random_graph()
    kept = graph.prune()
    members = kept.nodes[kept.nodes["kind"] == "feature"].sort_values("influence", ascending=False).index[:3].tolist()
    with explored(browser, graph, tmp_path) as page:
        for name in members:
            page.select(name)
            page.press("p")
        page.press("g")
        item = page.role("list", "Groups").get_by_role("listitem").first
        item.locator("summary").click()
        item.get_by_role("textbox").fill("three")
        page.press("Enter")
        flows = page.ask("questions.flowsOf(explorer.graph, explorer.look.inputs, explorer.state.choice.groups, 0)")
        assert page.saved()["qParams"]["supernodes"] == [["three", *members]]
        page.reload()
        assert "three" in page.role("list", "Groups").inner_text()
        page.select(members[0])
        page.press("x")
        assert page.role("list", "Groups").count() == 0
        page.press("u")
        assert page.role("list", "Groups").count() == 1
    grouped = kept.group({"three": members})
    place = grouped.nodes.index.get_loc("three")
    np.testing.assert_allclose(flows["influence"], grouped.nodes["influence"]["three"], rtol=1e-5)
    for side, expected in (("inputs", grouped.flow[[place]]), ("outputs", grouped.flow[:, [place]].T)):
        sizes = np.sort(expected.toarray()[0])[::-1]
        np.testing.assert_allclose([flow["flow"] for flow in flows[side]], sizes[sizes > 0], rtol=1e-5)


def test_holding_g_groups_the_nodes_that_are_clicked(browser: Any, tmp_path: Path) -> None:
    with explored(browser, six_nodes(), tmp_path) as page:
        page.open("#nodes=1&edges=1")
        box = page.role("application", "Graph").bounding_box()
        page.page.keyboard.down("g")
        for name in (B, C):
            x, y = page.page.evaluate(
                "(id) => Object.values(explorer.canvas.place(explorer.graph.place.get(id)))", name
            )
            page.page.mouse.click(box["x"] + x, box["y"] + y)
        page.page.keyboard.up("g")
        assert page.saved()["qParams"]["supernodes"] == [["feature 2", B, C]]
        assert page.heading == []


def test_an_answer_and_other_nodes_are_no_group(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    with explored(browser, graph, tmp_path) as page:
        page.open(f"#pins={json.dumps([B, T])}")
        page.press("g")
        assert page.role("list", "Groups").count() == 0
        assert "answers go into groups of their own" in page.role("alert").inner_text()
        page.select(B)
        page.press("p", "Escape")
        assert page.role("alert").count() == 0
        page.press("g")
        assert "1 node," in page.role("list", "Groups").inner_text()
    params = {"supernodes": [["both", B, T]]}
    with explored(browser, graph.replace(metadata={**graph.metadata, "qParams": params}), tmp_path) as page:
        text = page.role("list", "Groups").inner_text()
        assert "answers go into groups of their own" in text and "influence 0" not in text


RECORD: dict[str, Any] = {
    "layer": 1, "index": 3, "label": "<b>three</b>", "activation_frequency": 0.25, "n_tokens": 4000, "act_mean": 1.5,
    "act_max": 4.0, "histogram": [6, 2, 2], "histogram_edges": [0.5, 1.0, 2.0, 4.0], "top_logits": ["<i>up</i>"],
    "top_logit_values": [0.5], "bottom_logits": ["down"], "bottom_logit_values": [-0.25],
    "tokens": {"token": [{"value": "one", "share_of_firings": 0.75, "fires_there": 0.5}]},
    "examples_quantiles": [
        {"quantile_name": "Top activations", "examples": [
            {"tokens": ["<img src=x>", " two"], "tokens_acts_list": [0.0, 4.0], "train_token_ind": 1,
             "is_repeated_datapoint": False}
        ]}
    ],
}  # fmt: skip


def test_a_features_page_is_beside_its_node_and_only_those_shown_are_in_the_file(browser: Any, tmp_path: Path) -> None:
    pages: Mapping[str, Mapping[str, Any]] = {"1/3": RECORD, "0/1": {**RECORD, "layer": 0, "index": 1}}
    with explored(browser, six_nodes(), tmp_path, features=pages) as page:
        assert "Of 1 feature this file has a page" in page.page.locator("#more").inner_text()
        page.select(C)
        text = page.role("region", "Feature").inner_text()
        assert "fires on 25% of 4,000 tokens" in text and '"<i>up</i>" 0.5' in text and "<img src=x> two" in text
        assert "this one, 1, is in the bin with 60% of firings below it" in text
        page.select(B)
        assert page.role("region", "Feature").count() == 0


def test_a_feature_without_a_name_has_that_of_its_page(browser: Any, tmp_path: Path) -> None:
    graph = six_nodes()
    nodes = graph.nodes.assign(label=[f"L{row.layer} feature {row.feature}" for row in graph.nodes.itertuples()])
    mine, unnamed = {"label": ["mine" if name == B else label for name, label in nodes["label"].items()]}, {"label": ""}
    of_b = {**RECORD, "layer": int(nodes.loc[B, "layer"]), "index": int(nodes.loc[B, "feature"])}
    measured = {"label_source": "rule", "label_claims": [12, 13], "label_score": 0.9, "label_control": 0.5}
    for record, label, said in (
        ({**RECORD, **measured, "label_recall": 0.4}, RECORD["label"], "right 12 of 13 times, foresees 40%"),
        ({**RECORD, **unnamed, "label_fault": "it fires too seldom"}, nodes.loc[C, "label"], "no label: it fires too"),
    ):
        pages = {"1/3": record, f"{of_b['layer']}/{of_b['index']}": of_b}
        with explored(browser, graph.replace(nodes=nodes.assign(**mine)), tmp_path, features=pages) as page:
            page.select(C)
            assert page.role("region", "Node").get_by_role("heading").first.inner_text() == label
            assert said in page.role("region", "Feature").inner_text()
            page.select(B)  # its own name stays
            assert page.role("region", "Node").get_by_role("heading").first.inner_text() == "mine"


def test_pages_of_other_transcoders_are_refused(tmp_path: Path) -> None:
    class Pages(dict[str, Any]):
        card: ClassVar[dict[str, Any]] = {"transcoders": {"digest": "sha256:" + "1" * 64}}

    graph = six_nodes()
    graph = graph.replace(metadata={**graph.metadata, "transcoders": {"digest": "sha256:" + "2" * 64}})
    with pytest.raises(FeatureError, match=r"of transcoders with digest sha256:1+, the graph's are sha256:2+"):
        graph.explore(features=Pages({"1/3": RECORD}))
    with pytest.raises(FeatureError, match="holds no feature pages"):
        graph.explore(features=tmp_path)


def test_measured_effects_stand_beside_predicted_ones(browser: Any, tmp_path: Path) -> None:
    row = {"node_id": C, "predicted_frozen": -0.5, "measured_frozen": -0.25, "predicted_free": None, "measured_free": 1}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"tables": {"nodes": [row]}}), encoding="utf-8")
    with explored(browser, six_nodes(), tmp_path, validation=report) as page:
        page.select(C)
        text = page.role("region", "Node").inner_text()
        assert "answer's logit -0.5 predicted, -0.25 measured" in text and "free" not in text
    report.write_text(json.dumps({"tables": {"nodes": [{**row, "node_id": "9_9_9"}]}}), encoding="utf-8")
    with pytest.raises(GraphFileError, match="of another graph, which has a node '9_9_9'"):
        six_nodes().explore(validation=report)
    report.write_text("{}", encoding="utf-8")
    with pytest.raises(GraphFileError, match="has no table of nodes; write one"):
        six_nodes().explore(validation=report)
