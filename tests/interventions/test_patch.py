"""Patching: exact effects are what plain hooks give, estimates what autograd gives; on a linear model all are one."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pandas as pd
import pytest
import torch
from plain_hooks import MODULES, linear_model, place_of, recorded, run
from tiny import N_LAYERS, PROMPT, make_model, make_transcoders
from torch import Tensor

import attrgraph as ag
from attrgraph.errors import AttrGraphError, InterventionError, PromptError, TargetError, TranscoderError
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.relevance import relevance_rules

CLEAN = list(PROMPT)
CORRUPT = [30 if pos == 2 else 9 if pos == 5 else token for pos, token in enumerate(PROMPT)]
METRIC = ag.LogitDifference(4, 9)
KINDS = ("feature", "error", "head", "attn", "mlp", "resid", "embedding")


def build(name: str, *, dtype: torch.dtype = torch.float64) -> LanguageModel:
    model = make_model(name, dtype=dtype)
    model.transcoders = make_transcoders(dtype=dtype)
    return model


def split(model: LanguageModel, name: str, kept: dict[tuple[str, bool], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of features and errors by layer, by the transcoders' formulas."""
    assert model.transcoders is not None
    weights = model.transcoders.layers
    active = [(kept[place_of(name, "read", layer)] @ w.W_enc.T + w.b_enc).relu() for layer, w in enumerate(weights)]
    errors = []
    for layer, w in enumerate(weights):
        written = sum(active[i] @ weights[i].W_dec[:, layer - i] for i in range(layer + 1))
        errors.append(kept[place_of(name, "mlp", layer)] - w.b_dec - written)
    return active, errors


def changes(model: LanguageModel, name: str, source: list[int], base: list[int]) -> Callable[[Any], tuple[Any, Tensor]]:
    """Of a row of the table: where its node lies, and the change [d] that patching adds there (heads: all heads')."""
    both = [recorded(model, name, ids) for ids in (source, base)]
    (active, errors), (base_active, base_errors) = (split(model, name, kept) for kept in both)

    def change(row: Any) -> tuple[Any, Tensor]:
        if row.kind == "feature":
            w = model.transcoders.layers[row.layer].W_dec[row.feature, 0]  # type: ignore[union-attr]
            size = active[row.layer][row.pos, row.feature] - base_active[row.layer][row.pos, row.feature]
            return place_of(name, "mlp", row.layer), size * w
        if row.kind == "error":
            return place_of(name, "mlp", row.layer), (errors[row.layer] - base_errors[row.layer])[row.pos]
        place = ("", False) if row.kind == "embedding" else place_of(name, row.kind, row.layer)
        vector = (both[0][place] - both[1][place])[row.pos].clone()
        if row.kind == "head":
            by_head = vector.view(4, -1)
            by_head[[head for head in range(4) if head != row.head]] = 0
        return place, vector

    return change


def value(logits: Tensor) -> Tensor:
    return logits[4] - logits[9]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", MODULES)
def test_exact_effects_are_those_of_plain_hooks(name: str, direction: str) -> None:
    model = build(name)
    source, base = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, direction=direction)
    assert set(table["kind"]) == set(KINDS) and bool(table["is_exact"].all())
    change, before = changes(model, name, source, base), value(run(model, base, {}))
    chosen = pd.concat([table[table["kind"] == kind].iloc[::4] for kind in KINDS])
    for row in chosen.itertuples():
        place, vector = change(row)

        def add(x: Tensor, row: Any = row, vector: Tensor = vector) -> Tensor:
            x = x.clone()
            x[0, row.pos] += vector
            return x

        expected = float(value(run(model, base, {place: add})) - before)
        assert row.effect == pytest.approx(expected, rel=1e-5, abs=1e-7), row.node
    assert (chosen["effect"].abs() > 1e-3).sum() > 50
    assert table.attrs["total_effect"] == pytest.approx(float(value(run(model, source, {})) - before), rel=1e-6)


@pytest.mark.parametrize(
    ("direction", "method"), [("denoise", "attribution"), ("noise", "attribution"), ("noise", "relp")]
)
@pytest.mark.parametrize("name", MODULES)
def test_attribution_is_the_gradient_of_autograd_times_the_change(name: str, direction: str, method: str) -> None:
    model = build(name)
    source, base = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, direction=direction, method=method)
    assert not table["is_exact"].any()
    change, leaves = changes(model, name, source, base), dict[Any, Tensor]()

    def at(place: Any) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            leaves[place] = torch.zeros_like(x, requires_grad=True)
            return x + leaves[place]

        return add

    rows = list(table.itertuples())
    places = {change(row)[0] for row in rows}
    with relevance_rules(model) if method == "relp" else nullcontext():
        value(run(model, base, {place: at(place) for place in places})).backward()
    for row in rows:
        place, vector = change(row)
        expected = float(leaves[place].grad[0, row.pos] @ vector)  # type: ignore[index]
        assert row.effect == pytest.approx(expected, rel=1e-5, abs=1e-7), row.node


def test_on_a_linear_model_all_methods_give_one_number() -> None:
    model = linear_model()
    for direction in ("denoise", "noise"):
        tables = [
            ag.patch(
                model, CLEAN, CORRUPT, nodes=[*KINDS, "resid_mid", "v"], metric=METRIC, direction=direction, method=m
            )
            for m in ("exact", "attribution", "ig", "relp")
        ]
        scale = tables[0]["effect"].abs().max()
        assert scale > 1e-2
        for other in tables[1:]:
            assert list(other["node"]) == list(tables[0]["node"])
            assert (other["effect"] - tables[0]["effect"]).abs().max() < 1e-6 * scale


@pytest.mark.parametrize("name", [*MODULES, "falcon", "granite"])
def test_integrated_effects_of_a_cut_sum_to_what_all_of_it_does(name: str) -> None:
    model = build(name, dtype=torch.float32)
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method="ig")
    total = float(value(run(model, CLEAN, {})) - value(run(model, CORRUPT, {})))
    cuts = table[table["kind"].isin(("resid", "embedding"))].groupby(["kind", "layer"])["effect"].sum()
    assert len(cuts) == N_LAYERS + 2
    assert list(cuts) == pytest.approx([total] * len(cuts), rel=0.01)
    assert table.attrs["completeness_gap"] < 0.01
    for cut in table.attrs["completeness"]:
        rows = table[table["kind"].isin(cut["nodes"].split("+")) & (table["layer"] == cut["layer"])]
        assert rows["effect"].sum() == pytest.approx(cut["sum"], abs=1e-9)
    coarse = ag.patch(model, CLEAN, CORRUPT, nodes="resid", metric=METRIC, method="ig", n_steps=1)
    assert {cut["n_steps"] for cut in coarse.attrs["completeness"]} == {1}
    assert coarse.attrs["completeness_gap"] > table.attrs["completeness_gap"]


def test_metrics_are_what_their_formulas_say() -> None:
    model = build("gemma2")  # whose logits are capped
    clean, corrupt = (run(model, ids, {}).log_softmax(-1) for ids in (CLEAN, CORRUPT))
    whole = f"resid:{N_LAYERS}@{len(CLEAN) - 1}"
    # from the clean run's last stream follows its answer
    for metric, at_clean, at_corrupt in [
        (ag.LogitDifference(4, 9), clean[4] - clean[9], corrupt[4] - corrupt[9]),
        (ag.LogProbability(7), clean[7], corrupt[7]),
        (ag.KLDivergence(), 0.0, (clean.exp() * (clean - corrupt)).sum()),
        (
            lambda logits: logits.square().sum(-1),
            run(model, CLEAN, {}).square().sum(),
            run(model, CORRUPT, {}).square().sum(),
        ),
    ]:
        for method in ("exact", "ig"):
            table = ag.patch(model, CLEAN, CORRUPT, nodes="resid", metric=metric, method=method).set_index("node")
            assert table.attrs["metric_clean"] == pytest.approx(float(at_clean), rel=1e-5, abs=1e-6)
            assert table.attrs["metric_corrupt"] == pytest.approx(float(at_corrupt), rel=1e-5)
            total = float(at_clean) - float(at_corrupt)
            assert table["effect"][whole] == pytest.approx(total, rel=1e-5 if method == "exact" else 0.01)


def test_without_a_metric_the_two_answers_are_compared() -> None:
    model = build("gpt2")
    clean = run(model, CLEAN, {})
    others = ([*CLEAN[:-1], token] for token in range(50))
    corrupt_ids = next(ids for ids in others if run(model, ids, {}).argmax() != clean.argmax())
    corrupt = run(model, corrupt_ids, {})
    table = ag.patch(model, CLEAN, corrupt_ids, nodes="embedding")
    first, second = clean.argmax(), corrupt.argmax()
    assert table.attrs["metric"] == f"logit '<{first}>' - '<{second}>'"
    assert table.attrs["metric_clean"] == pytest.approx(float(clean[first] - clean[second]))
    assert table.attrs["metric_corrupt"] == pytest.approx(float(corrupt[first] - corrupt[second]))
    assert list(table["node"]) == [f"E_{token}_{pos}" for pos, token in enumerate(CLEAN)]


def test_prompts_of_different_lengths_are_patched_at_named_tokens() -> None:
    model, longer = build("llama"), [CLEAN[0], 11, *CLEAN[1:]]
    longer[6] = 30
    positions = {"changed": (5, 6), "end": (-1, -1)}
    table = ag.patch(model, CLEAN, longer, metric=METRIC, positions=positions)
    assert set(table["pos"]) == {5, 8}
    clean, corrupt = (recorded(model, "llama", ids) for ids in (CLEAN, longer))
    for row in table[table["kind"].isin(("head", "embedding", "resid"))].itertuples():
        place = ("", False) if row.kind == "embedding" else place_of("llama", row.kind, row.layer)
        at = {5: 6, 8: 9}[row.pos]

        def put(x: Tensor, row: Any = row, place: Any = place, at: int = at) -> Tensor:
            x, new = x.clone(), clean[place][row.pos]
            where = slice(8 * row.head, 8 * row.head + 8) if row.kind == "head" else slice(None)
            x[0, at, where] = new[where]
            return x

        expected = value(run(model, longer, {place: put})) - value(run(model, longer, {}))
        assert row.effect == pytest.approx(float(expected), rel=1e-5, abs=1e-7), row.node
    assert table.attrs["positions"] == {"changed": (5, 6), "end": (8, 9)}
    other = ag.patch(model, CLEAN, longer, nodes="attn", metric=METRIC, positions=positions, direction="noise")
    assert set(other["pos"]) == {5, 8} and other["effect"].abs().max() > 0
    assert corrupt  # the longer prompt runs


def test_refined_rows_are_measured_and_the_ranking_is_judged() -> None:
    model = build("gpt2")
    exact = ag.patch(model, CLEAN, CORRUPT, metric=METRIC)
    for method in ("attribution", "ig"):
        estimate = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method=method)
        refined = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method=method, refine=30)
        is_exact = refined["is_exact"]
        assert is_exact.sum() == 30
        assert set(refined.loc[is_exact, "method"]) == {"exact"} and set(refined.loc[~is_exact, "method"]) == {method}
        pd.testing.assert_series_equal(refined["estimate"], estimate["effect"], check_names=False)
        assert estimate["effect"].abs()[is_exact].min() >= estimate["effect"].abs()[~is_exact].max()
        assert refined["effect"][is_exact].to_numpy() == pytest.approx(exact["effect"][is_exact].to_numpy(), abs=1e-6)
        about = refined.attrs["refined"]
        pair = [table.loc[is_exact, "effect"].abs() for table in (estimate, exact)]
        assert about["spearman"] == pytest.approx(pair[0].corr(pair[1], method="spearman"), abs=0.02)
        assert about["n"] == 30 and 0 <= about["same_sign"] <= 1


def test_method_graph_is_the_influence_in_the_clean_prompt_s_graph() -> None:
    model = build("llama")
    graph = ag.trace(model, CLEAN, targets=METRIC)
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method="graph", direction="noise").set_index("node")
    assert set(table["kind"]) == {"feature", "error", "embedding"}
    known = graph.nodes[graph.nodes["kind"].isin(("feature", "error", "embedding"))]
    # of the skipped position, whose error is 0, there is no row
    assert set(known.index[known["influence"] > 0]) <= set(table.index)
    expected = [known["influence"].get(node, 0.0) for node in table.index]
    assert list(table["effect"]) == pytest.approx(expected)
    assert table.attrs["is_normalised"] and "share without sign" in table.attrs["effect"]
    refined = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, method="graph", refine=10)
    assert refined.attrs["refined"]["same_sign"] is None and refined.attrs["refined"]["spearman"] is not None


def test_batches_and_progress_do_not_change_effects() -> None:
    model, told = build("gpt2"), list[tuple[str, int, int]]()
    one = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, progress=lambda *now: told.append(now))
    other = ag.patch(model, CLEAN, CORRUPT, metric=METRIC, memory_budget="100K")
    assert (one["effect"] - other["effect"]).abs().max() < 1e-9
    n_changed = int((one["effect"] != 0).sum())
    assert told[-1][0] == "patch" and told[-1][1] == told[-1][2] >= n_changed
    # causal: before the first change nothing differs
    assert (one.loc[one["pos"] < 2, "effect"] == 0).all()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("head:1.2@8", "node == 'head:1.2@8'"),
        ("head:1", "kind == 'head' and layer == 1"),
        ("head:1.2", "kind == 'head' and layer == 1 and head == 2"),
        ("mlp:2@3:6", "kind == 'mlp' and layer == 2 and pos in (3, 4, 5)"),
        (["resid@-1", "attn:0@5:"], "(kind == 'resid' and pos == 8) or (kind == 'attn' and layer == 0 and pos >= 5)"),
        (["feature@5", "error"], "kind == 'error' or (kind == 'feature' and pos == 5)"),
        (["2_-1_5", "1/-1@6", "E_7_4"], "node in ('2_-1_5', '1_-1_6', 'E_7_4')"),
        (["head", "head:0.1@:2"], "kind == 'head'"),
    ],
)
def test_single_nodes_are_chosen_by_name(nodes: Any, expected: str) -> None:
    model = build("gpt2")
    every = ag.patch(model, CLEAN, CORRUPT, metric=METRIC)
    rows = every.query(expected)
    for method in ("exact", "attribution"):
        table = ag.patch(model, CLEAN, CORRUPT, nodes=nodes, metric=METRIC, method=method)
        assert set(table["node"]) == set(rows["node"]) and len(table) == len(rows) > 0
        if method == "exact":
            effects = table.set_index("node")["effect"]
            assert (effects - rows.set_index("node")["effect"][effects.index]).abs().max() < 1e-9


def test_single_features_are_chosen_by_name() -> None:
    model = build("llama")
    every = ag.patch(model, CLEAN, CORRUPT, nodes="feature", metric=METRIC)
    one = every.iloc[every["effect"].abs().argmax()]
    for name in (one["node"], "{}/{}@{}".format(*one["node"].split("_"))):
        table = ag.patch(model, CLEAN, CORRUPT, nodes=name, metric=METRIC)
        assert list(table["node"]) == [one["node"]] and table["effect"].item() == pytest.approx(one["effect"])
    at_all = ag.patch(model, CLEAN, CORRUPT, nodes=f"{one['layer']}/{one['feature']}", metric=METRIC)
    same = (every["layer"] == one["layer"]) & (every["feature"] == one["feature"])
    assert list(at_all["node"]) == list(every.loc[same, "node"])


def test_prompts_without_active_features_have_an_empty_table() -> None:
    model = build("llama")
    for weights in model.transcoders.layers:  # type: ignore[union-attr]
        weights.b_enc.fill_(-100)
    for method in ("exact", "attribution", "ig", "graph"):
        table = ag.patch(model, CLEAN, CORRUPT, nodes="feature", metric=METRIC, method=method)
        assert table.empty and list(table.columns)[:3] == ["node", "kind", "layer"]


def test_components_need_no_transcoders() -> None:
    model = make_model("qwen3")
    table = ag.patch(model, CLEAN, CORRUPT, metric=METRIC)
    assert set(table["kind"]) == {"head", "attn", "mlp", "resid", "embedding"}
    # two key heads, four query heads
    kinds = ag.patch(model, CLEAN, CORRUPT, nodes=["q", "k", "v", "resid_mid"], metric=METRIC)["kind"].value_counts()
    assert dict(kinds) == {"q": 4 * 27, "k": 2 * 27, "v": 2 * 27, "resid_mid": 27}


@pytest.mark.parametrize(
    "settings",
    [
        {"cross_layer": False, "activation": "jumprelu", "skip": True},
        {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"},
    ],
)
@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_a_patched_feature_is_one_that_is_set_to_the_other_run_s_activation(
    name: str, settings: dict[str, Any]
) -> None:
    model = make_model(name, dtype=torch.float64)
    model.transcoders = make_transcoders(dtype=torch.float64, **settings)
    table = ag.patch(model, CLEAN, CORRUPT, nodes="feature", metric=METRIC)
    activations = ag.trace(model, CLEAN, targets=METRIC).nodes["activation"]
    changed = table[table["effect"] != 0].iloc[::6]
    assert len(changed) > 5
    for row in changed.itertuples():
        one = ag.Intervention(row.node, value=float(activations.get(row.node, 0.0)))
        effect = ag.intervene(model, CORRUPT, one, mode="free")
        expected = float(value(effect.logits_after) - value(effect.logits_before))
        assert row.effect == pytest.approx(expected, rel=1e-5, abs=1e-7), row.node


def test_half_precision_is_patched_with_what_the_other_run_has() -> None:
    model = make_model("gpt2", dtype=torch.bfloat16)
    table = ag.patch(model, CLEAN, CORRUPT, nodes="resid", metric=METRIC).set_index("node")
    assert table["effect"][f"resid:{N_LAYERS}@8"] == table.attrs["total_effect"]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"nodes": "heads"}, InterventionError, "nodes has 'heads'; expected some of embedding, feature"),
        ({"nodes": []}, InterventionError, "nodes is empty"),
        ({"nodes": "head:1.9@3"}, InterventionError, "nodes has 'head:1.9@3', of which neither run has any"),
        ({"nodes": "mlp:1@12"}, InterventionError, "nodes has 'mlp:1@12', of which neither run has any"),
        ({"nodes": "mlp:7"}, InterventionError, "mlp:7: the model has mlp of layers 0 to 2"),
        ({"nodes": "mlp:1.2"}, InterventionError, "nodes has 'mlp:1.2'; expected some of"),
        ({"nodes": "feature:1"}, InterventionError, "nodes has 'feature:1'; expected some of"),
        ({"nodes": "E_9_4"}, InterventionError, "nodes has 'E_9_4', of which neither run has any"),
        ({"nodes": ["head", "head"]}, InterventionError, "nodes names 'head' twice"),
        ({"nodes": "resid_mid"}, InterventionError, "attention and MLP in parallel"),
        ({"nodes": "feature"}, TranscoderError, "transcoders"),
        ({"direction": "both"}, InterventionError, "direction is 'both'; expected one of denoise, noise"),
        ({"method": "eap"}, InterventionError, "method is 'eap'; expected one of exact, attribution, ig, relp, graph"),
        ({"nodes": ["q"], "method": "relp"}, InterventionError, "relp holds attention patterns"),
        ({"nodes": ["head"], "method": "graph"}, InterventionError, "graphs have no 'head'"),
        ({"refine": 3}, InterventionError, "method 'exact' measures all nodes"),
        ({"stepps": 3}, TypeError, "unexpected keyword argument 'stepps'"),
        ({"metric": [METRIC, METRIC]}, InterventionError, "metric has 2 for 1 pair"),
        ({"metric": "austin"}, AttrGraphError, "metric is 'austin'; expected a LogitDifference or"),
        ({"refine": -1}, InterventionError, "refine is -1"),
        ({"n_steps": 3}, InterventionError, "n_steps is of method 'ig'"),
        ({"n_steps": 0, "method": "ig"}, InterventionError, "n_steps is 0"),
        ({"metric": ag.LogitDifference(4, 4)}, TargetError, "both tokens are '<4>'"),
        ({"metric": 4}, AttrGraphError, "metric is 4"),
        ({"metric": lambda logits: logits.sum()}, InterventionError, r"shape \[\].*expected a tensor of shape \[1\]"),
        ({"metric": lambda logits: 3.0}, InterventionError, "a float"),
        ({"metric": lambda logits: logits[:, 0] * torch.nan}, AttrGraphError, "not finite"),
        (
            {"metric": lambda logits: logits.detach()[:, 0], "method": "attribution"},
            InterventionError,
            "has no gradient",
        ),
        ({"corrupt": CLEAN, "metric": None}, TargetError, "both prompts are answered by"),
        ({"corrupt": CLEAN[:-1]}, PromptError, "the clean prompt has 9 tokens, the corrupt one 8"),
        ({"positions": {}}, PromptError, "positions is empty"),
        ({"positions": {"a": (1, 99)}}, PromptError, "position of 'a' in the corrupt prompt is 99; expected 0 to 8"),
        ({"positions": {"a": 3}}, PromptError, "expected .clean position, corrupt position"),
        ({"positions": {"a": (1, 1), "b": (2, 1)}}, PromptError, "of the corrupt prompt twice"),
    ],
)
def test_what_cannot_be_patched_is_refused(how: dict[str, Any], error: type[Exception], said: str) -> None:
    arguments: dict[str, Any] = {"clean": CLEAN, "corrupt": CORRUPT, "metric": METRIC, **how}
    with pytest.raises(error, match=said):
        ag.patch(make_model("gpt_neox"), arguments.pop("clean"), arguments.pop("corrupt"), **arguments)
