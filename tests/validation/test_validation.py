"""A validation: the report of a wrong graph is visibly bad, every table is what experiments by hand give."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from boolean_toy import make_boolean_toy, prompt_of
from scipy import stats

import attrgraph as ag
from attrgraph.attribution.exactness import LIMITS
from attrgraph.errors import AttrGraphError, GraphFileError, InterventionError, ModelLoadError, ResultError
from attrgraph.interventions.intervene import take_apart
from attrgraph.models.language_model import LanguageModel
from attrgraph.validation import Validation, validate
from attrgraph.validation.control_dictionary import with_decoders_exchanged
from attrgraph.validation.measurements import matched
from attrgraph.validation.verdict import judge

Build = Callable[..., LanguageModel]
DALLAS = "in the state containing dallas the capital is"
PARAPHRASES = ["in the state containing houston the capital is", "in the state containing chicago the capital is"]
FAST: dict[str, Any] = {"modes": ["frozen"], "n_nodes": 40, "n_controls": 2, "n_resamples": 50, "n_paths": 3}
# where it does not matter in which mode sets of nodes are taken out
FASTEST: dict[str, Any] = FAST | {"mode": "frozen"}
SUPERNODES = {"texas": ["1_1023_5", "1_815_5"], "say it": ["3_458_8", "3_-1_8"]}
# float32 sums, in batches of other sizes
ROUNDING = {"rel": 1e-3, "abs": 1e-4}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return ag.load_model("demo")


@pytest.fixture(scope="module")
def graph(model: LanguageModel) -> ag.Graph:
    return ag.trace(model, DALLAS)


@pytest.fixture(scope="module")
def found(model: LanguageModel, graph: ag.Graph) -> Validation:
    settings = FAST | {"modes": ["frozen", "free"], "n_controls": 3, "supernodes": SUPERNODES}
    other = ag.load_model("demo", transcoders="demo-per-layer").transcoders
    return validate(model, graph, paraphrases=PARAPHRASES, compare_with=other, **settings)


# -- wrong graphs ------------------------------------------------------------------------------------------------------


def with_edges(graph: ag.Graph, data: np.ndarray) -> ag.Graph:
    adjacency = graph.adjacency.copy()
    adjacency.data = data.astype(np.float32)
    adjacency.eliminate_zeros()
    return ag.Graph(graph.nodes, adjacency, graph.prompt_tokens, graph.metadata)


def with_names_exchanged(graph: ag.Graph, rng: np.random.Generator) -> ag.Graph:
    """Edges stay; what the features of a layer are called, and where they stand, goes round among them."""
    nodes, order = graph.nodes.reset_index(), np.arange(len(graph.nodes))
    for layer in range(graph.n_layers):
        rows = np.flatnonzero((nodes["kind"] == "feature") & (nodes["layer"] == layer))
        order[rows] = rng.permutation(rows)
    names = ["node_id", "layer", "pos", "feature", "token", "label"]
    nodes[names] = nodes[names].iloc[order].to_numpy()
    nodes = nodes.astype(graph.nodes.dtypes.to_dict()).set_index("node_id")
    return ag.Graph(nodes, graph.adjacency, graph.prompt_tokens, graph.metadata)


WRONG: dict[str, Callable[[ag.Graph, np.random.Generator], ag.Graph]] = {
    "edges shuffled": lambda graph, rng: with_edges(graph, rng.permutation(graph.adjacency.data)),
    "names exchanged": with_names_exchanged,
    "signs turned": lambda graph, rng: with_edges(graph, -graph.adjacency.data),
    "edges lost": lambda graph, rng: with_edges(
        graph, graph.adjacency.data * (rng.random(graph.adjacency.nnz) < 2 / 3)
    ),
    "too large": lambda graph, rng: with_edges(graph, 1.5 * graph.adjacency.data),
}


def edges_in_frozen(found: Validation) -> dict[str, Any]:
    table = found.tables["agreement"]
    (row,) = table[(table["what"] == "edges") & (table["mode"] == "frozen")].to_dict("records")
    return dict(row)


def test_the_true_graph_is_said_to_be_exact(found: Validation) -> None:
    assert found.facts["frozen_error"] < 1e-4  # float32
    assert not any("edges" in text for text in found.weaknesses)
    row = edges_in_frozen(found)
    assert row["pearson"] > 0.9999 and row["spearman"] > 0.999 and row["normalised_error"] < 1e-6
    assert row["slope"] == pytest.approx(1.0, abs=1e-4)
    assert any(line.level == "good" and "the edges predict every change exactly" in line.text for line in found.verdict)
    assert "good  With everything else held fixed, the edges predict every change exactly" in repr(found)


@pytest.mark.parametrize("wrong", WRONG)
def test_the_report_of_a_wrong_graph_is_visibly_bad(
    wrong: str, model: LanguageModel, graph: ag.Graph, tmp_path: Path
) -> None:
    bad = validate(model, WRONG[wrong](graph, np.random.default_rng(0)), **FASTEST)
    assert bad.facts["frozen_error"] > 0.1
    (said,) = [text for text in bad.weaknesses if "edges are wrong" in text]
    assert "Do not rely on it" in said and f"weak  {said}" in repr(bad)
    row = edges_in_frozen(bad)
    if wrong == "too large":  # only their size is wrong
        assert row["slope"] == pytest.approx(2 / 3, rel=1e-3)
    else:
        assert row["pearson"] < 0.9 and row["normalised_error"] > 0.1
    if wrong in ("edges shuffled", "names exchanged"):
        assert row["pearson"] < 0.5
    if wrong != "names exchanged":
        return
    pytest.importorskip("matplotlib")
    bad.save(tmp_path / "bad.html")
    page = (tmp_path / "bad.html").read_text(encoding="utf-8")
    assert (
        '<li class="weak"><span class="level">weak</span> With everything else held fixed, measured changes differ'
        in page
    )


def test_beside_a_per_layer_set_a_hidden_step_is_seen() -> None:
    toys = {name: make_boolean_toy(is_cross_layer=name == "cross") for name in ("cross", "per-layer")}
    prompt, both = prompt_of(True, True, True), {}
    for name, other in (("cross", "per-layer"), ("per-layer", "cross")):
        both[name] = validate(toys[name], prompt, mode="free", compare_with=toys[other].transcoders, **FAST)
    for name, hops in (("cross", (1.0, 1.75)), ("per-layer", (1.75, 1.0))):
        table = both[name].tables["compared"]
        # x and y and z reads x and y and the token z as 3 : 1; see the toy. Edges are float32.
        assert table["mean_hops"].tolist() == pytest.approx(hops, rel=1e-6)
        assert table["n_features_pruned"].tolist() == ([1, 2] if name == "cross" else [2, 1])
        said = [line for line in both[name].verdict if "hops" in line.text]
        assert [("may hide steps" in line.text, line.level == "fair") for line in said] == [(name == "cross",) * 2]
        assert ("shows more steps" in said[0].text) == (name == "per-layer")
    # the step that the cross-layer set shows does nothing when it is taken out; what it shows as idle does all
    (row,) = both["cross"].tables["necessity"].to_dict("records")
    assert (row["flips"], row["control_flips"]) == (False, 1.0)


def test_the_first_line_says_whether_to_rely_on_the_graph(
    model: LanguageModel, graph: ag.Graph, found: Validation
) -> None:
    assert found.verdict[0].text.startswith("The graph finds the parts that matter")
    assert "Attribution patching ranks them better" in repr(found)
    turned = validate(model, WRONG["signs turned"](graph, np.random.default_rng(0)), **FASTEST)
    assert turned.verdict[0].level == "weak" and turned.verdict[0].text.startswith("Do not rely on this graph")
    # the edges of the right graph, but influence that says nothing: as if pruning by it dropped what matters
    shuffled = graph.nodes.assign(influence=np.random.default_rng(0).permutation(graph.nodes["influence"]))
    missed = validate(model, graph.replace(nodes=shuffled), **FASTEST | {"modes": ["frozen", "free"]})
    assert missed.verdict[0].level in ("weak", "fair") and "the parts that matter" in missed.verdict[0].text
    assert missed.verdict[-1].text.startswith("One prompt is a case study.")


def test_a_dictionary_that_means_nothing_is_asked_the_same(
    model: LanguageModel, graph: ag.Graph, found: Validation
) -> None:
    exchanged = with_decoders_exchanged(model.need_transcoders(), seed=0)
    for ours, theirs in zip(model.need_transcoders().layers, exchanged.layers, strict=True):
        order = torch.cdist(theirs.W_enc, ours.W_enc).argmin(1)  # whose encoder each has now
        assert torch.equal(theirs.W_enc, ours.W_enc[order]) and torch.equal(theirs.b_enc, ours.b_enc[order])
        assert torch.equal(theirs.W_dec, ours.W_dec)
        assert float((order == torch.arange(len(order))).float().mean()) < 0.01
    (row,) = found.tables["control"].to_dict("records")
    other = LanguageModel(model.hf_model, model.tokenizer, transcoders=exchanged, source=model.source)
    scores = ag.trace(other, DALLAS).scores()
    assert (row["replacement"], row["completeness"]) == pytest.approx(scores)
    assert row["replacement"] < 0.5 < graph.scores().replacement
    (said,) = [line for line in found.verdict if line.text.startswith("A dictionary with its decoder rows")]
    assert said.level == "good" and "explains less" in said.text
    # as if ours were no better
    facts = found.facts | {"replacement": 0.1}
    (said,) = [
        line
        for line in judge(facts, found.tables, "constrained", "free")
        if line.text.startswith("A dictionary with its decoder rows")
    ]
    assert said.level == "weak" and "explains no less" in said.text


def test_a_control_that_rounds_too_much_does_not_stop_the_validation(
    model: LanguageModel, graph: ag.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attrgraph.attribution.exactness.LIMITS", dict.fromkeys(LIMITS, 1e-12))
    with pytest.raises(ResultError, match="the graph is not exact"):
        ag.trace(model, DALLAS)
    live = validate(model, graph, **FAST | {"modes": ["free"], "mode": "free", "n_paths": 0})
    assert len(live.tables["control"]) == 1


# -- tables, one experiment at a time ----------------------------------------------------------------------------------


def by_influence(graph: ag.Graph) -> list[str]:
    nodes = graph.nodes.sort_values("influence", ascending=False, kind="stable")
    return [str(node) for node in nodes.index[nodes["kind"] == "feature"]]


def after(model: LanguageModel, nodes: list[Any], **how: Any) -> tuple[bool, float, float]:
    """Of nodes taken out: whether the answer changes, its probability, and the change of its logit."""
    how = how or {"upto_layer": model.n_layers - 1}  # in mode constrained all MLP outputs are held
    effect = ag.intervene(model, DALLAS, ag.Intervention(nodes, scale=0.0), **how)
    answer, change = int(effect.logits_before.argmax()), effect.uncapped_change
    return (
        int(effect.logits_after.argmax()) != answer,
        float(effect.logits_after.double().softmax(-1)[answer]),
        float(change[answer] - change.mean()),
    )


def test_necessity_and_sufficiency_are_ablations(model: LanguageModel, graph: ag.Graph, found: Validation) -> None:
    ranked, whole = by_influence(graph), graph.without_bias()
    for name, taken in (("necessity", lambda kept: kept), ("sufficiency", lambda kept: sorted({*ranked} - {*kept}))):
        table = found.tables[name].query("mode == 'constrained'").set_index("k")
        assert table.index.tolist() == [1, 2, 5, 10, 20, 50]
        for k, row in table.iterrows():
            flips, probability, _ = after(model, taken(ranked[:k]))
            assert (row["flips"], row["probability"]) == (flips, pytest.approx(probability, **ROUNDING))
        rows, pool = whole.nodes.index.get_indexer(ranked[:5]), np.flatnonzero(whole.nodes["kind"] == "feature")
        controls = [matched(whole.nodes, rows, pool, seed) for seed in range(3)]
        flips, probabilities, _ = zip(*(after(model, taken(list(whole.nodes.index[c]))) for c in controls), strict=True)
        assert table.loc[5, "control_flips"] == pytest.approx(np.mean(flips))
        assert table.loc[5, "control_probability"] == pytest.approx(np.mean(probabilities), **ROUNDING)
        assert table.loc[5, "control_size"] == 5
    assert (table.loc[1, "flips"], table.loc[50, "flips"]) == (True, False)  # more kept keeps the answer


def test_features_that_were_not_selected_are_taken_out_too(model: LanguageModel) -> None:
    small = ag.trace(model, DALLAS, max_feature_nodes=30)
    found, ranked = validate(model, small, **FAST), by_influence(small)
    every = take_apart(model, DALLAS).active.places()
    assert (len(ranked), len(every)) == (30, found.facts["n_active"])
    for k, row in found.tables["sufficiency"].set_index("k").iterrows():
        kept = {tuple(map(int, node.split("_"))) for node in ranked[:k]}
        flips, probability, _ = after(model, [key for key in every if key not in kept])
        assert (row["flips"], row["probability"]) == (flips, pytest.approx(probability, **ROUNDING))
    assert "features that the graph leaves out carry" in found.verdict[1].text
    assert not any("edges" in text for text in found.weaknesses)


def test_nodes_and_supernodes_are_taken_out_one_by_one(
    model: LanguageModel, graph: ag.Graph, found: Validation
) -> None:
    nodes = found.tables["nodes"].set_index("node_id")
    answer = int(np.flatnonzero(graph.nodes["kind"] == "logit")[0])
    assert len(nodes) == 40 and set(nodes["kind"]) == {"feature", "error", "embedding"}
    for node in nodes.index[::8]:
        edge = float(graph.adjacency[answer, graph.nodes.index.get_loc(node)])
        flips, _, change = after(model, [node], mode="free")
        assert nodes.loc[node, "predicted_frozen"] == pytest.approx(-edge)
        assert nodes.loc[node, "measured_frozen"] == pytest.approx(-edge, **ROUNDING)
        assert nodes.loc[node, "measured_free"] == pytest.approx(change, **ROUNDING)
        assert nodes.loc[node, "flips_free"] == flips
    for row in found.tables["supernodes"].to_dict("records"):
        flips, _, change = after(model, SUPERNODES[row["supernode"]], mode=row["mode"])
        assert (row["flips"], row["measured"]) == (flips, pytest.approx(change, **ROUNDING))
        if row["mode"] == "frozen":
            assert row["predicted"] == pytest.approx(row["measured"], **ROUNDING)
    both = found.tables["agreement"].set_index(["what", "mode"])
    depths = found.tables["by_depth"].groupby("mode")["n"].sum()
    for mode in ("frozen", "free"):
        expected = stats.pearsonr(nodes[f"predicted_{mode}"], nodes[f"measured_{mode}"])[0]
        assert both.loc[("nodes", mode), "pearson"] == pytest.approx(expected)
        assert depths[mode] == both.loc[("edges", mode), "n"]
    paths = found.tables["paths"]
    expected = stats.pearsonr(paths["predicted"], paths["measured"])[0]
    assert both.loc[("paths", "frozen"), "pearson"] == pytest.approx(expected)


def test_rankings_are_correlations_with_effects(graph: ag.Graph, found: Validation) -> None:
    nodes = found.tables["nodes"].set_index("node_id")
    features = nodes[nodes["kind"] == "feature"]
    effect = features["measured_free"].abs()
    scores = {"influence": features["influence"], "activation": graph.nodes.loc[features.index, "activation"]}
    scores |= {"direct edge": features["predicted_frozen"].abs(), "total effect": features["predicted_free"].abs()}
    table = found.tables["rankings"].set_index("ranking")
    for name, values in scores.items():
        assert table.loc[name, "spearman"] == pytest.approx(stats.spearmanr(values, effect)[0])
    assert abs(table.loc["random", "spearman"]) < 0.2  # of 100 rankings with a deviation of 1/sqrt(n - 1) each
    assert table.loc["influence", "spearman"] > table.loc["random", "spearman_high"]


def test_doses_are_dose_curves_beside_straight_lines(model: LanguageModel, graph: ag.Graph, found: Validation) -> None:
    table = found.tables["doses"]
    labels, ranked = graph.nodes["label"], by_influence(graph)
    sets = {f"{labels[node]} ({node})": [node] for node in ranked[:5]}
    sets |= {"the 20 most influential features": ranked[:20], **SUPERNODES}
    assert table["nodes"].unique().tolist() == list(sets)
    for name, rows in table.groupby("nodes"):
        curve = ag.dose_response(
            model, DALLAS, sets[name], scales=rows["scale"].tolist(), upto_layer=model.n_layers - 1
        )
        np.testing.assert_allclose(rows["measured"], curve["logit_change"], rtol=1e-3, atol=1e-4)  # float32
        np.testing.assert_allclose(rows["probability"], curve["probability"], rtol=1e-3, atol=1e-4)
        at_zero = float(rows.loc[rows["scale"] == 0, "predicted"].iloc[0])
        np.testing.assert_allclose(rows["predicted"], (1 - rows["scale"]) * at_zero, rtol=1e-6, atol=1e-12)


def test_views_of_the_graph_are_as_counted_by_hand(model: LanguageModel, graph: ag.Graph, found: Validation) -> None:
    nodes = graph.nodes
    ends = nodes[nodes["kind"].isin(["error", "embedding"])]
    errors = found.tables["error_share"].set_index("layer")["share"]
    for layer in range(graph.n_layers):
        expected = nodes.loc[(nodes["kind"] == "error") & (nodes["layer"] == layer), "influence"].sum()
        assert errors[layer] == pytest.approx(expected / ends["influence"].sum())
    assert errors.sum() == pytest.approx(1 - found.facts["replacement"])

    kept = {at: {n for n in graph.prune(at).nodes.index if nodes.loc[n, "kind"] == "feature"} for at in (0.5, 0.8, 0.9)}
    stability = found.tables["stability"].set_index("node_threshold")
    for threshold, features in kept.items():
        assert stability.loc[threshold, "n_features"] == len(features)
        shared = len(features & kept[0.8]) / len(features | kept[0.8])
        assert stability.loc[threshold, "shared_with_default"] == pytest.approx(shared)

    tops = []
    for prompt in (DALLAS, *PARAPHRASES):
        ranked = by_influence(ag.trace(model, prompt))[:20]
        tops.append({tuple(node.split("_")[:2]) for node in ranked})
    table = found.tables["paraphrases"]
    expected = [len(tops[0] & top) / min(len(tops[0]), len(top)) for top in tops[1:]]
    assert table["shared_top_features"].tolist() == pytest.approx(expected)
    assert table["answer"].tolist() == ["austin", "springfield"] and table["has_same_answer"].tolist() == [True, False]
    assert found.tables["compared"]["mean_hops"].iloc[0] == graph.mean_hops() == found.facts["mean_hops"]
    assert found.facts["answer"] == "austin" and found.facts["n_features"] == (nodes["kind"] == "feature").sum()


def test_a_prompt_is_its_graph_and_without_controls_there_is_nothing_to_compare_with(
    model: LanguageModel, graph: ag.Graph
) -> None:
    settings = FASTEST | {"n_controls": 0}
    told = dict[str, list[tuple[int, int]]]()
    one = validate(model, DALLAS, progress=lambda phase, *n: told.setdefault(phase, []).append(n), **settings)
    assert one.to_dict() == validate(model, graph, **settings).to_dict()
    assert one.tables["necessity"]["control_flips"].isna().all()
    (said,) = [line for line in one.verdict if line.text.startswith("Taking out the graph")]
    assert said.level == "note" and "mode frozen" in said.text and "mode free" in said.text
    assert not any("andom sets" in line.text for line in one.verdict)
    assert {"take out (frozen)", "necessity (frozen)", "necessity (free)", "doses", "paths"} <= set(told)
    assert all(steps[-1][0] == steps[-1][1] for steps in told.values())
    # after each run of the model, so that a validation can be stopped at any time
    assert {done for done, _ in told["doses"]} == set(range(1, told["doses"][-1][1] + 1))
    pytest.importorskip("matplotlib")
    from attrgraph.validation.validation_report import to_html

    assert escape(said.text) in to_html(one)


# -- reports -----------------------------------------------------------------------------------------------------------


def refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def test_a_json_report_is_the_dict_and_has_no_nan(found: Validation, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    found.save(path)
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == found.to_dict()
    assert read["tables"]["necessity"][0]["k"] == 1 and read["verdict"][0]["level"] in ("good", "fair", "weak", "note")
    assert read["provenance"]["model"]["id"] == "demo" and read["settings"]["seed"] == 0
    # what is undefined is null
    unknown = replace(found, facts={"mean_hops": float("nan"), "error": np.float32("inf"), "n": np.int64(3)})
    unknown.save(path, overwrite=True)
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["facts"] == {"mean_hops": None, "error": None, "n": 3}
    toy = validate(make_boolean_toy(is_cross_layer=True), prompt_of(True, True, True), **FASTEST | {"n_controls": 0})
    assert toy.to_dict()["tables"]["necessity"][0]["control_flips"] is None


HOSTILE = "</style><script>alert(1)</script>\"' &amp; $x$ \x0b 東"


def hostile(graph: ag.Graph) -> ag.Graph:
    nodes = graph.nodes.assign(token=HOSTILE, label=HOSTILE)
    return ag.Graph(nodes, graph.adjacency, [HOSTILE] * len(graph.prompt_tokens), graph.metadata)


def test_an_html_report_is_one_file_without_scripts_or_links(
    model: LanguageModel, graph: ag.Graph, found: Validation, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    strange = validate(model, hostile(graph), supernodes={HOSTILE: ["1_1023_5"]}, **FASTEST)
    strange.save(tmp_path / "strange.html")
    strange.save(tmp_path / "again.html")
    assert (tmp_path / "strange.html").read_bytes() == (tmp_path / "again.html").read_bytes()
    found.save(tmp_path / "found.html")
    for name, one in (("found", found), ("strange", strange)):
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<script" not in page and not re.search(r"\son\w+=", page)
        assert all(
            source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'(?:src|href)="([^"]*)', page)
        )
        assert not re.search(r"url\(|@import|<link|<iframe|<a\s", page)
        pictures = re.findall(r"base64,([^\"]+)\"", page)
        assert len(pictures) == 5
        for picture in pictures:
            svg = base64.b64decode(picture).decode()
            ElementTree.fromstring(svg)
            assert "<script" not in svg
        for line in one.verdict:
            assert f'<li class="{line.level}"><span class="level">{line.level}</span> {escape(line.text)}</li>' in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 50


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.refusal
def test_a_report_is_not_written_over_another_or_in_an_unknown_format(found: Validation, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("mine")
    with pytest.raises(GraphFileError, match="exists"):
        found.save(path, overwrite=False)
    assert path.read_text() == "mine"
    found.save(path)
    assert json.loads(path.read_text())["facts"]["answer"] == "austin"
    for name in ("report.pdf", "report"):
        with pytest.raises(AttrGraphError, match=r"a report is written as \.html or \.json"):
            found.save(tmp_path / name)


@pytest.mark.refusal
def test_what_cannot_be_validated_is_refused(model: LanguageModel, graph: ag.Graph, traced_model: Build) -> None:
    def with_metadata(**changed: Any) -> ag.Graph:
        return ag.Graph(graph.nodes, graph.adjacency, graph.prompt_tokens, graph.metadata | changed)

    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    houston, chicago = (ag.trace(model, prompt).metadata["token_ids"] for prompt in PARAPHRASES)
    nothing = with_edges(graph, 0 * graph.adjacency.data)
    idle = ag.Graph(nothing.nodes.assign(influence=0.0), nothing.adjacency, graph.prompt_tokens, graph.metadata)
    for subject, settings, error, message in (
        (with_metadata(token_ids=None), {}, AttrGraphError, "has no token ids"),
        (graph.prune(), {}, AttrGraphError, "is pruned"),
        (ag.trace(model, DALLAS, targets=direction), {}, AttrGraphError, "explains a direction"),
        (ag.trace(model, DALLAS, targets=ag.LogitDifference("austin", "boston")), {}, AttrGraphError, "a difference"),
        (with_metadata(token_ids=houston), {}, AttrGraphError, "is not active when the model runs"),
        (
            with_metadata(token_ids=chicago),
            {},
            AttrGraphError,
            "explains 'austin', the model's answer is 'springfield'",
        ),
        (ag.trace(model, DALLAS, targets="boston"), {}, AttrGraphError, "the model's answer is 'austin'"),
        (ag.trace(traced_model(), [1, 5, 6]), {}, ModelLoadError, "trace again"),
        (idle, {}, AttrGraphError, "nothing to validate"),
        (graph, {"supernodes": {"mine": ["1_1023_5", "9_9_9"]}}, AttrGraphError, "supernode 'mine' has '9_9_9'"),
        (graph, {"supernodes": {"mine": [graph.nodes.index[-2]]}}, AttrGraphError, "expected ids of features"),
        (graph, {"supernodes": {"mine": []}}, AttrGraphError, "supernode 'mine' has no node"),
        (graph, {"modes": ["thawed"]}, InterventionError, "mode is 'thawed'; expected one of frozen, "),
        (graph, {"mode": "thawed"}, InterventionError, "mode is 'thawed'; expected one of frozen, "),
        (graph, {"modes": []}, InterventionError, "modes is empty"),
    ):
        with pytest.raises(error, match=message):
            validate(model, subject, **FASTEST | settings)
