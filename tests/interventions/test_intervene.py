"""Interventions: the frozen mode is what edges predict; the live ones are what plain forward hooks give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import N_LAYERS
from torch import Tensor

import attrgraph as ag
from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.errors import InterventionError, ResultError, TranscoderError
from attrgraph.interventions.intervene import MODES
from attrgraph.interventions.intervention import resolve
from attrgraph.models.language_model import LanguageModel
from attrgraph.validation.subject import Subject

Build = Callable[..., LanguageModel]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"cross_layer": False, "activation": "jumprelu", "skip": True},
    {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"},
]


def groups_of(graph: ag.Graph) -> list[list[str]]:
    """A node of each kind, and some of all kinds together."""
    nodes = graph.nodes
    features = nodes.index[nodes["kind"] == "feature"]
    errors = nodes.index[(nodes["kind"] == "error") & (nodes["pos"] > 0)]
    embeddings = nodes.index[nodes["kind"] == "embedding"]
    one_each = [features[len(features) // 2], errors[len(errors) // 3], embeddings[-2]]
    return [[str(node)] for node in one_each] + [[str(n) for n in (*features[::7][:5], *errors[:2], *embeddings[1:3])]]


@pytest.mark.parametrize("settings", SETTINGS, ids=["clt-relu", "plt-jumprelu-skip", "clt-topk-skip-mlp-hooks"])
def test_frozen_mode_is_what_the_graph_predicts(
    family: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, dtype=torch.float64, **settings)
    graph = ag.trace(model, prompt, targets=[4, 9])
    is_logit, is_feature = ((graph.nodes["kind"] == kind).to_numpy() for kind in ("logit", "feature"))
    for group in groups_of(graph):
        columns, doses = graph.nodes.index.get_indexer(group), (0.0, -1.5, 2.0)
        changes = [[ag.Intervention(group, scale=dose)] for dose in doses]
        for dose, effect in zip(doses, ag.intervene_many(model, prompt, changes, mode="frozen"), strict=True):
            predicted = (dose - 1) * graph.adjacency[:, columns].toarray().astype(np.float64).sum(1)
            change = (effect.uncapped_change - effect.uncapped_change.mean())[[4, 9]].numpy()
            np.testing.assert_allclose(change, predicted[is_logit], rtol=1e-4, atol=1e-6 * np.abs(predicted).max())
            features = effect.features.set_index(["layer", "pos", "feature"])
            index = graph.nodes.loc[is_feature, ["layer", "pos", "feature"]].itertuples(index=False, name=None)
            others = ~graph.nodes.index[is_feature].isin(group)
            moved = (features["after"] - features["before"]).loc[list(index)].to_numpy()
            np.testing.assert_allclose(
                moved[others], predicted[is_feature][others], rtol=1e-4, atol=1e-6 * np.abs(predicted).max()
            )


# modules whose outputs MLPs add to the stream, and whose inputs transcoders read, in the Hugging Face models
MODULES = {
    "gpt2": ("transformer.h.{}.mlp", "transformer.h.{}.ln_2"),
    "llama": ("model.layers.{}.mlp", "model.layers.{}.post_attention_layernorm"),
    "gemma2": ("model.layers.{}.post_feedforward_layernorm", "model.layers.{}.pre_feedforward_layernorm"),
    "gpt_neox": ("gpt_neox.layers.{}.mlp", "gpt_neox.layers.{}.post_attention_layernorm"),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("mode", ["constrained", "free"])
@pytest.mark.parametrize("is_cross_layer", [True, False])
def test_live_modes_are_what_plain_hooks_give(
    name: str, mode: str, is_cross_layer: bool, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(name, dtype=torch.float64, cross_layer=is_cross_layer)
    assert model.transcoders is not None
    hf, ids, weights = model.hf_model, torch.tensor([prompt]), model.transcoders.layers
    out_name, in_name = MODULES[name]
    outs: dict[int, Tensor] = {}
    reads: dict[int, Tensor] = {}
    handles = []
    for i in range(N_LAYERS):
        handles.append(hf.get_submodule(out_name.format(i)).register_forward_hook(_keep_output(outs, i)))
        handles.append(hf.get_submodule(in_name.format(i)).register_forward_pre_hook(_keep_input(reads, i)))
    before = hf(input_ids=ids).logits[0, -1]
    for handle in handles:
        handle.remove()

    doses = {(0, 3, 4): 1.7, (1, 8, 5): -2.0}  # (layer, feature, pos): new activation
    delta, live = torch.zeros(N_LAYERS, len(prompt), model.d_model, dtype=torch.float64), dict[int, Tensor]()

    def missing(layer: int, feature: int, pos: int, at: dict[int, Tensor]) -> Tensor:
        """By how much the feature's activation differs from what it is set to, where it reads this."""
        h = at[layer][pos] @ weights[layer].W_enc[feature] + weights[layer].b_enc[feature]
        return doses[layer, feature, pos] - h.relu()

    for layer, feature, pos in doses if mode == "constrained" else ():
        for i in range(weights[layer].W_dec.shape[1]):
            delta[layer + i, pos] += missing(layer, feature, pos, reads) * weights[layer].W_dec[feature, i]

    # an error at (1, 6) turned round, the embedding at 2 doubled
    dense = [(reads[layer] @ w.W_enc.T + w.b_enc).relu() for layer, w in enumerate(weights)]
    written = dense[1] @ weights[1].W_dec[:, 0] + (dense[0] @ weights[0].W_dec[:, 1] if is_cross_layer else 0)
    delta[1, 6] -= 2 * (outs[1] - weights[1].b_dec - written)[6]

    def double(_: Any, args: Any, out: Tensor) -> Tensor:
        return out * torch.where(torch.arange(len(prompt)) == 2, 2.0, 1.0)[:, None]

    def change(layer: int) -> Callable[..., Tensor]:
        def hook(_: Any, args: Any, out: Tensor) -> Tensor:
            if mode == "free":  # what is set at layer 0 reaches the feature that is set at layer 1
                changed = out + delta[layer]
                for at, feature, pos in doses:
                    if at == layer:
                        changed[0, pos] += missing(at, feature, pos, live) * weights[at].W_dec[feature, 0]
                return changed
            return outs[layer][None] + delta[layer] if layer <= 1 else out

        return hook

    handles = [hf.get_submodule(out_name.format(i)).register_forward_hook(change(i)) for i in range(N_LAYERS)]
    handles.append(hf.get_input_embeddings().register_forward_hook(double))
    for i in range(N_LAYERS):
        handles.append(hf.get_submodule(in_name.format(i)).register_forward_pre_hook(_keep_input(live, i)))
    expected = hf(input_ids=ids).logits[0, -1]
    for handle in handles:
        handle.remove()
    others = [ag.Intervention("1_-1_6", scale=-1.0), ag.Intervention(f"E_{prompt[2]}_2", scale=2.0)]
    effect = ag.intervene(
        model, prompt, [ag.Intervention(key, value=v) for key, v in doses.items()] + others, mode=mode
    )
    torch.testing.assert_close(effect.logits_before, before)
    # Gemma's norms compute in float32, whatever the model's type
    torch.testing.assert_close(effect.logits_after, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, expected, atol=1e-2)
    p, q = before.log_softmax(-1), expected.log_softmax(-1)
    assert effect.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
    rows = effect.features.set_index(["layer", "feature", "pos"])["after"]
    assert rows[0, 3, 4] == 1.7 and rows[1, 8, 5] == -2.0


@pytest.mark.parametrize("mode", ["constrained", "free"])
def test_a_feature_that_is_set_to_what_others_make_of_it_changes_nothing_more(
    mode: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model("gpt2", dtype=torch.float64)
    strong, head = ag.Intervention((0, 3, 4), value=5.0), ag.Intervention("head:0.1@4", scale=-3.0)
    how: dict[str, Any] = {"mode": "free"} if mode == "free" else {"mode": mode, "upto_layer": 0}
    alone = ag.intervene(model, prompt, [strong, head], **how)
    moved = alone.features.query("layer == 1 and before != after").iloc[0]
    key = (1, int(moved["feature"]), int(moved["pos"]))
    if mode == "constrained":  # where MLPs are held, a feature is what it was
        how["upto_layer"], moved = 1, moved.to_dict() | {"after": moved["before"]}
        alone = ag.intervene(model, prompt, [strong, head], **how)
    both = ag.intervene(model, prompt, [strong, head, ag.Intervention(key, value=float(moved["after"]))], **how)
    torch.testing.assert_close(both.logits_after, alone.logits_after)
    generated = [
        ag.generate(model, prompt, sets, max_new_tokens=4, mode=mode, upto_layer=how.get("upto_layer")).token_ids
        for sets in ([strong, head], [strong, head, ag.Intervention(key, value=float(moved["after"]))])
    ]
    assert generated[0] == generated[1]


def _keep_output(kept: dict[int, Tensor], layer: int) -> Callable[..., None]:
    def hook(_: Any, args: Any, out: Tensor) -> None:
        kept[layer] = out[0].clone()

    return hook


def _keep_input(kept: dict[int, Tensor], layer: int) -> Callable[..., None]:
    def hook(_: Any, args: Any) -> None:
        kept[layer] = args[0][0].clone()

    return hook


def test_held_layers_go_up_to_the_one_asked_for(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(dtype=torch.float64)
    change = ag.Intervention((0, 3, 4), add=2.0)
    effects = [ag.intervene(model, prompt, change, upto_layer=upto) for upto in (None, 0, 1, N_LAYERS - 1)]
    torch.testing.assert_close(effects[0].logits_after, effects[1].logits_after)
    changes = [effect.uncapped_change.norm() for effect in effects[1:]]
    assert len({round(float(change), 9) for change in changes}) == len(changes)


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_features_recompute_with_attention_frozen(
    family: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    """By dense activations and every layer's writes added up anew, with the change and without."""
    model = traced_model(family, dtype=torch.float64, **settings)
    local = local_of(model, prompt)
    key, value = (0, 3, 4), 3.0
    before, _ = dense_replacement(local)
    after, activations = dense_replacement(local, key, value)
    effect = ag.intervene(model, prompt, ag.Intervention(key, value=value), mode="frozen-attention")
    torch.testing.assert_close(effect.uncapped_change, after - before)
    got = effect.features.set_index(["layer", "pos", "feature"])["after"]
    for layer, a in enumerate(activations):
        for pos, feature in a.nonzero().tolist():
            assert got[layer, pos, feature] == pytest.approx(float(a[pos, feature]))
    assert (got != 0).sum() == sum(int((a != 0).sum()) for a in activations)


def dense_replacement(
    local: LocalReplacement, key: tuple[int, int, int] | None = None, value: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """Uncapped logits and all activations with attention frozen, and with one activation set."""
    run, transcoders = local.run, local.transcoders
    stream = run.embedding if run.position_embedding is None else run.embedding + run.position_embedding
    activations: list[Tensor] = []
    for layer, block in enumerate(run.blocks):
        attended = block.attend(stream)
        read = stream if block.is_parallel else stream + attended
        weights = transcoders.layers[layer]
        h = read @ weights.W_enc.T + weights.b_enc
        a = h * (h > (0 if weights.threshold is None else weights.threshold))
        a[0] = 0
        if key is not None and layer == key[0]:
            a[key[2], key[1]] = value
        activations.append(a)
        out = local.errors[layer] + local.constants[layer]
        for source in range(layer + 1):
            if layer - source < transcoders.layers[source].W_dec.shape[1]:
                out = out + activations[source] @ transcoders.layers[source].W_dec[:, layer - source]
        if weights.W_skip is not None:
            out = out + read @ weights.W_skip.T
        stream = stream + attended + out
    return run.W_U @ run.final_norm.apply(stream)[-1], activations


@pytest.mark.parametrize("mode", MODES)
def test_what_is_set_to_what_it_is_changes_nothing(
    mode: str, family: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, dtype=torch.float64)
    group = groups_of(ag.trace(model, prompt))[-1]
    effect = ag.intervene(model, prompt, ag.Intervention(group, scale=1.0), mode=mode)
    # some families' norms compute in float32, whatever the model's type
    torch.testing.assert_close(effect.logits_after, effect.logits_before, rtol=1e-5, atol=1e-5)
    assert effect.kl < 1e-10 and effect.top_before[0][0] == effect.top_after[0][0]
    np.testing.assert_allclose(effect.features["after"], effect.features["before"], atol=1e-5)


def test_values_multiples_and_sums_of_an_activation(traced_model: Build, prompt: list[int]) -> None:
    local = local_of(traced_model(dtype=torch.float64), prompt)
    active = local.active
    key = tuple(int(column[5]) for column in (active.layer, active.feature, active.pos))
    now = float(active.activation[5])
    for setting, expected in (({"value": 0.3}, 0.3), ({"scale": -2.0}, -2 * now), ({"add": 0.5}, now + 0.5)):
        changes = resolve(local, [ag.Intervention(key, **setting)])  # type: ignore[arg-type]
        assert changes.features[key] == pytest.approx((now, expected))  # type: ignore[index]


def local_of(model: LanguageModel, prompt: list[int]) -> LocalReplacement:
    assert model.transcoders is not None
    is_bos = torch.arange(len(prompt)) == 0
    return build_replacement(model.run(torch.tensor(prompt)), model.transcoders, is_bos)


def test_nodes_come_as_ids_as_numbers_or_from_a_table(traced_model: Build, prompt: list[int]) -> None:
    local = local_of(traced_model(), prompt)
    table = np.array([[1, 3, 4], [1, 5, 4]])
    for nodes in (["1_3_4", "1_5_4"], [(1, 3, 4), (1, 5, 4)], [tuple(row) for row in table]):
        assert list(resolve(local, [ag.Intervention(nodes, value=1.0)]).features) == [(1, 3, 4), (1, 5, 4)]  # type: ignore[arg-type]
    for node in ("1_3_4", (1, 3, 4), tuple(table[0])):
        assert list(resolve(local, [ag.Intervention(node, value=1.0)]).features) == [(1, 3, 4)]


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_interventions_is_one_after_the_other(
    family: str, mode: str, traced_model: Build, prompt: list[int], monkeypatch: Any
) -> None:
    is_grouped = family in ("llama", "gemma3")  # sets of both kinds, which no batch tells apart
    settings = {"cross_layer": False, "read_point": "mlp.hook_in"} if is_grouped else {}
    model = traced_model(family, dtype=torch.float64, **settings)
    several = [
        [ag.Intervention((0, 3, 4), value=3.0)],
        [ag.Intervention((2, 3, 5), value=-2.0), ag.Intervention(f"E_{prompt[2]}_2", scale=2.0)],
        [ag.Intervention("1_-1_6", scale=0.0)],
        [ag.Intervention(f"E_{prompt[3]}_3", scale=0.0)],  # holds no layer in mode constrained
        [ag.Intervention((1, 5, slice(2, 5)), add=1.0)],
    ]
    each_alone = [ag.intervene(model, prompt, one, mode=mode) for one in several]
    local, sizes = local_of(model, prompt), list[int]()
    run = model.hf_model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(model.hf_model, "forward", counted)
    row = 3 * 4 * 81 + 26 * 9 * 24 + 5 * 50  # scores, streams, logits
    for n_at_once, budget in ((5, None), (3, 3 * 8 * row), (1, 1)):
        sizes.clear()
        budget = budget if budget is None else budget + local.run.pattern_bytes
        effects = ag.intervene_many(model, prompt, several, mode=mode, memory_budget=budget)
        if "frozen" not in mode:
            assert max(sizes) == n_at_once and sum(sizes) == 1 + len(several)
        for alone, effect in zip(each_alone, effects, strict=True):
            # sums of a batch are added in another order; Gemma's norms compute in float32
            torch.testing.assert_close(effect.logits_after, alone.logits_after, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(effect.uncapped_change, alone.uncapped_change, rtol=1e-5, atol=1e-6)
            pd.testing.assert_frame_equal(effect.features, alone.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{"activation": "topk"}, {"activation": "jumprelu"}], ids=["topk", "jumprelu"])
def test_a_feature_scaled_by_one_changes_nothing(
    family: str, settings: dict[str, Any], mode: str, traced_model: Build, prompt: list[int]
) -> None:
    """In half precision too, where features near a threshold go on and off by rounding."""
    model = traced_model(family, dtype=torch.bfloat16, **settings)
    key = local_of(model, prompt).active.places()[0]
    effect = ag.intervene(model, prompt, ag.Intervention(key, scale=1.0), mode=mode)
    assert not effect.uncapped_change.abs().max() and not effect.is_flipped
    assert (effect.features["before"] == effect.features["after"]).all()


def test_a_slice_or_a_range_is_its_positions_one_by_one(traced_model: Build, prompt: list[int]) -> None:
    local = local_of(traced_model(), prompt)
    for several, positions in ((slice(None), range(1, 9)), (slice(-3, None), (6, 7, 8)), (range(2, 8, 3), (2, 5))):
        changes = resolve(local, [ag.Intervention((1, 3, several), value=1.0)])
        assert list(changes.features) == [(1, 3, pos) for pos in positions]  # position 0 is BOS, which is skipped
    places = [pos for pos in range(9) if (1, 3, pos) in local.active.places()]
    assert list(resolve(local, [ag.Intervention((1, 3, slice(None)), scale=2.0)]).features) == [
        (1, 3, pos) for pos in places
    ]


@pytest.mark.refusal
def test_what_cannot_be_set_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    dead = next((0, f, 4) for f in range(40) if (0, f, 4) not in set(zip(*_keys(local_of(model, prompt)), strict=True)))
    for nodes, setting, message in (
        ("9_1_1", {"value": 1.0}, "not in this prompt's run"),
        ("0_99_1", {"value": 1.0}, "features 0 to 39"),
        ((0, 1, 0), {"value": 1.0}, "is skipped"),
        ("1_-1_0", {"scale": 50.0}, "position 0 has no error: it is skipped"),
        (dead, {"scale": 2.0}, "is not active"),
        ("E_5_1", {"scale": 0.0}, "not in this prompt's graph"),
        ("E_7_1", {"value": 0.0}, "set it by scale"),
        ("1_-1_3", {"add": 1.0}, "set it by scale"),
        (["0_1_2", (0, 1, 2)], {"value": 1.0}, "set twice"),
        ([(0, 1)], {"value": 1.0}, "is no node"),
        ([3, 4], {"value": 1.0}, "is no node"),
        ([], {"value": 1.0}, "nothing is set"),
        ((0, 3, slice(20, None)), {"value": 1.0}, "at none of these positions"),
    ):
        with pytest.raises(InterventionError, match=message):
            ag.intervene(model, prompt, ag.Intervention(nodes, **setting))  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="expected a finite number"):
        ag.Intervention("0_1_2", scale=float("nan"))
    with pytest.raises(InterventionError, match="counts positions down"):
        ag.intervene(model, prompt, ag.Intervention((0, 1, slice(None, None, -1)), value=1.0))
    with pytest.raises(InterventionError, match="set twice"):
        ag.intervene(model, prompt, [ag.Intervention("E_12_2", scale=0.0), ag.Intervention("E_012_2", scale=0.0)])
    with pytest.raises(ResultError, match="activations overflow"):
        ag.intervene(model, prompt, ag.Intervention((0, 1, 2), value=1e30), mode="free")
    for mode in ("frozen", "frozen-attention", "constrained", "free"):
        for node in ("1_-1_8", "E_12_2"):
            with pytest.raises(ResultError, match="overflow"):
                ag.intervene(model, prompt, ag.Intervention(node, scale=1e39), mode=mode)
    with pytest.raises(InterventionError, match="got none of them"):
        ag.Intervention("0_1_2")
    with pytest.raises(InterventionError, match="got value and add"):
        ag.Intervention("0_1_2", value=1.0, add=2.0)
    change = ag.Intervention((1, 3, 4), value=1.0)
    with pytest.raises(InterventionError, match="expected one of frozen, "):
        ag.intervene(model, prompt, change, mode="thawed")
    with pytest.raises(InterventionError, match="upto_layer is for mode 'constrained'"):
        ag.intervene(model, prompt, change, mode="free", upto_layer=2)
    with pytest.raises(InterventionError, match="upto_layer is 0; expected 1"):
        ag.intervene(model, prompt, change, upto_layer=0)
    with pytest.raises(TranscoderError, match="has no transcoders"):
        ag.intervene(LanguageModel(model.hf_model), prompt, change)


def _keys(local: LocalReplacement) -> list[list[int]]:
    return [column.tolist() for column in (local.active.layer, local.active.feature, local.active.pos)]


@pytest.mark.parametrize("mode", MODES)
def test_only_the_last_position_has_logits(mode: str, family: str, traced_model: Build, prompt: list[int]) -> None:
    model, sizes = traced_model(family), list[tuple[int, ...]]()
    head = model.hf_model.get_output_embeddings()
    with head.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape))):
        ag.intervene(model, prompt, ag.Intervention((1, 3, 4), value=1.0), mode=mode)
        ag.generate(model, prompt, ag.Intervention((1, 3, 4), value=1.0), max_new_tokens=2)
    assert sizes and all(size[1] == 1 for size in sizes)


def test_positions_count_from_the_end_too(traced_model: Build, prompt: list[int]) -> None:
    local = local_of(traced_model(), prompt)
    assert list(resolve(local, [ag.Intervention((1, 3, -1), value=1.0)]).features) == [(1, 3, 8)]
    with pytest.raises(InterventionError, match="set twice"):
        resolve(local, [ag.Intervention([(1, 3, -2), (1, 3, 7)], value=1.0)])
    with pytest.raises(InterventionError, match="not in this prompt's run"):
        resolve(local, [ag.Intervention((1, 3, -10), value=1.0)])


@pytest.mark.parametrize("settings", [{}, {"activation": "topk"}])
def test_a_feature_is_found_where_it_is(settings: dict[str, Any], traced_model: Build, prompt: list[int]) -> None:
    active = local_of(traced_model(**settings), prompt).active
    every = [(layer, feature, pos) for layer in range(N_LAYERS) for feature in range(40) for pos in range(9)]
    expected = dict.fromkeys(every, 0.0) | dict(zip(active.places(), active.activation.tolist(), strict=True))
    assert active.at(every) == list(expected.values()) and active.at([]) == []
    one, other = active.places()[3], next(key for key, now in expected.items() if not now)
    changed = active.with_set([one, other], [0.0, 2.5])
    expected |= {one: 0.0, other: 2.5}
    assert changed.at(every) == list(expected.values()) and len(changed) == len(active)
    assert changed.codes.tolist() == sorted(changed.codes.tolist())


def test_validation_keeps_within_the_memory_budget(traced_model: Build, prompt: list[int], monkeypatch: Any) -> None:
    model, sizes = traced_model(dtype=torch.float64), list[int]()
    graph, run = ag.trace(model, prompt), model.hf_model.forward
    monkeypatch.setattr(model.hf_model, "forward", lambda **how: [sizes.append(len(how["input_ids"])), run(**how)][1])
    found = []
    for budget, n_rows in ((None, [1, 6]), (1, [1] * 7)):
        sizes.clear()
        subject = Subject.of(model, graph, budget)
        found.append(subject.measure(subject.features[:6, None].tolist(), mode="free"))
        assert sizes == n_rows
    for one, other in zip(*(vars(each).values() for each in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
