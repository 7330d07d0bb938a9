"""Targets of every kind, anywhere in the prompt: what they read, their edges, and how they count."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dense_forward import dense_forward
from tiny import D_MODEL, D_VOCAB, FAMILY_CONFIGS, MORE_FAMILIES, N_FEATURES, N_LAYERS

import attrgraph as ag
from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.sweep import EdgeSweep
from attrgraph.attribution.targets import choose_targets
from attrgraph.errors import PromptError, ResultError, TargetError
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
_GENERATOR = torch.Generator().manual_seed(5)
VECTORS = torch.randn(N_LAYERS + 2, D_MODEL, generator=_GENERATOR)
DIRECTIONS = [ag.Direction(VECTORS[layer], layer, pos) for layer, pos in ((0, 4), (1, None), (2, -2), (N_LAYERS, 6))]
FEATURES = [ag.FeatureTarget(0, 3, 4), ag.FeatureTarget(1, 7, -1), ag.FeatureTarget(2, 11, 6), ag.FeatureTarget(2, 12)]
TARGETS: list[Any] = [
    *(4, ag.At(-2, 9), ag.At(3, ag.LogitDifference(4, 9)), ag.At(2, VECTORS[-1]), ag.At(5, [4, 17])),
    *FEATURES,
    *DIRECTIONS,
]
MLP_HOOKS = {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"}
every_family = pytest.mark.parametrize("family", [*FAMILY_CONFIGS, *MORE_FAMILIES])


def logits_of(graph: ag.Graph) -> Any:
    return graph.nodes[graph.nodes["kind"] == "logit"]


def rows_of(graph: ag.Graph) -> np.ndarray:
    """Edges into the targets."""
    return graph.adjacency[np.flatnonzero(graph.nodes["kind"] == "logit")].toarray()


def read_by_hooks(model: LanguageModel, prompt: list[int]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """What leaves the unembedding, what enters each block and the final norm, and what enters the norms before MLPs."""
    outs, entering, middle = dict[str, Any](), dict[int, Any](), dict[int, Any]()
    handles = [model.hf_model.get_output_embeddings().register_forward_hook(lambda m, a, out: outs.update(out=out))]

    def keep(where: dict[int, Any], layer: int) -> Any:
        return lambda m, args, kwargs: where.update({layer: args[0] if args else kwargs["hidden_states"]})

    for layer, block in enumerate([*model.layer_modules(), model.final_norm_module()]):
        handles.append(block.register_forward_pre_hook(keep(entering, layer), with_kwargs=True))
        if layer < model.n_layers:
            norm = model.mlp_norm_module(layer)
            handles.append(norm.register_forward_pre_hook(keep(middle, layer), with_kwargs=True))
    with torch.no_grad():
        model.hf_model(input_ids=torch.tensor([prompt]))
    for handle in handles:
        handle.remove()
    read = lambda x: x.reshape(len(prompt), -1).double().numpy()  # noqa: E731
    return read(outs["out"]), [read(entering[i]) for i in sorted(entering)], [read(middle[i]) for i in sorted(middle)]


@every_family
def test_rows_sum_to_what_plain_hooks_read(family: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(family, skip=True)
    graph = ag.trace(model, prompt, targets=TARGETS)
    out, entering, middle = read_by_hooks(model, prompt)
    scale = model.family.logit_scale(model.config)
    demeaned = scale * (out - out.mean(1, keepdims=True))
    nodes, sums = logits_of(graph), rows_of(graph).sum(1)
    np.testing.assert_allclose(nodes["activation"], sums, rtol=1e-4, atol=1e-4)
    expected = [demeaned[-1, 4], demeaned[-2, 9], demeaned[3, 4] - demeaned[3, 9]]
    np.testing.assert_allclose(sums[:3], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sums[4:6], demeaned[5, [4, 17]], rtol=1e-4, atol=1e-4)
    assert model.transcoders is not None
    for place, one in enumerate(FEATURES, start=6):
        weights = model.transcoders.layers[one.layer]
        read = middle[one.layer][one.pos] @ weights.W_enc[one.feature].numpy() + float(weights.b_enc[one.feature])
        assert sums[place] == pytest.approx(read, rel=1e-4, abs=1e-4)
    for place, each in enumerate(DIRECTIONS, start=10):
        at = entering[each.layer][-1 if each.pos is None else each.pos]
        assert sums[place] == pytest.approx(at @ each.vector.double().numpy(), rel=1e-4, abs=1e-4)
    assert graph.metadata["checks"]["input_sum_gap"] < 1e-4


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in [*FAMILY_CONFIGS, *MORE_FAMILIES]),
        *((family, MLP_HOOKS) for family in ("gpt2", "gemma2", "gpt_neox", "olmo2", "granite")),
        ("llama", {"cross_layer": False, "activation": "jumprelu", "skip": True}),
    ],
)
def test_edges_are_gradients(family: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]) -> None:
    """Independent path: differentiate what each target reads by a factor on what each source writes."""
    model = traced_model(family, **settings)
    local, _ = prepare(model, prompt)
    chosen, dense, run = choose_targets(model, local.run, TARGETS), dense_forward(local), local.run
    rows = EdgeSweep(local).edges(chosen.reads)
    token = lambda i: run.W_U[i] - run.W_U.mean(0)  # noqa: E731
    reads = [dense.normed[-1] @ token(4), dense.normed[-2] @ token(9), dense.normed[3] @ (token(4) - token(9))]
    reads += [dense.normed[2] @ VECTORS[-1], dense.normed[5] @ token(4), dense.normed[5] @ token(17)]
    reads += [dense.seen[f.layer][f.pos] @ local.transcoders.layers[f.layer].W_enc[f.feature] for f in FEATURES]
    reads += [dense.entering[d.layer][-1 if d.pos is None else d.pos] @ d.vector for d in DIRECTIONS]
    assert len(reads) == len(rows) == len(chosen)
    for text, row, read in zip(chosen.text, rows, reads, strict=True):
        expected = dense.gradient(read)
        torch.testing.assert_close(row[:-1], expected, rtol=1e-4, atol=3e-5, msg=lambda m, text=text: f"{text}: {m}")
    # nothing that is written at or above the layer where a target reads, or behind it, reaches it
    for row, layer, pos in zip(rows, chosen.reads.layer.tolist(), chosen.reads.pos.tolist(), strict=True):
        is_out = (local.active.layer >= layer) | (local.active.pos > pos)
        assert not row[: len(local.active)][is_out].any() and row[: len(local.active)][~is_out].any() == (layer > 0)


def test_a_features_graph_has_the_feature_s_row_of_the_answers(
    family: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family)
    answer = ag.trace(model, prompt)
    features = answer.nodes[(answer.nodes["kind"] == "feature") & (answer.nodes["layer"] == 2)]
    own = features.iloc[len(features) // 2]
    graph = ag.trace(model, prompt, targets=ag.FeatureTarget(own["layer"], own["feature"], own["pos"] - len(prompt)))
    (node,) = logits_of(graph).itertuples()
    assert (node.layer, node.pos, node.token) == (2, own["pos"], f"L2 feature {own['feature']}")
    assert node.activation == pytest.approx(own["activation"], rel=1e-5) and node.probability == 1
    there = [name for name in answer.nodes.index if name in graph.nodes.index]
    assert len(there) == len(graph.nodes) - 1
    mine, theirs = rows_of(graph)[0], answer.adjacency[[answer.nodes.index.get_loc(own.name)]].toarray()[0]
    ours = mine[graph.nodes.index.get_indexer(there)]
    np.testing.assert_allclose(ours, theirs[answer.nodes.index.get_indexer(there)], rtol=1e-5, atol=1e-6)
    assert np.count_nonzero(ours) == np.count_nonzero(theirs) > 20
    # pruned, it holds what leads to it: the feature is no source of itself
    pruned = graph.prune()
    assert own.name not in pruned.nodes.index and (pruned.nodes["layer"] <= 2).all()


@pytest.mark.parametrize("length", [1e-4, 1e4])
def test_exactness_does_not_depend_on_a_direction_s_length(
    length: float, traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads almost nothing: its sum is small beside its terms, which are large or small beside features'."""
    model = traced_model()
    stream = model.run(torch.tensor(prompt)).entering(2)[-1]
    vector = VECTORS[0] - (VECTORS[0] @ stream) / (stream @ stream) * stream
    graph = ag.trace(model, prompt, targets=ag.Direction(length * vector, 2))
    assert graph.metadata["checks"]["input_sum_gap"] < 1e-5
    plain = FrozenRun.entering
    monkeypatch.setattr(FrozenRun, "entering", lambda run, layer: 1.1 * plain(run, layer) + 0.1)
    with pytest.raises(ResultError, match="the graph is not exact"):
        ag.trace(model, prompt, targets=ag.Direction(length * vector, 2))


def test_influence_counts_each_target_by_its_probability(traced_model: Build, prompt: list[int]) -> None:
    """By the inverse of a matrix; probabilities by the model's own softmax, after its soft cap."""
    model = traced_model("gemma2")
    graph = ag.trace(model, prompt, targets=[4, ag.At(3, 9), *FEATURES, *DIRECTIONS])
    with torch.no_grad():
        shares = model.hf_model(input_ids=torch.tensor([prompt])).logits[0].double().softmax(-1)
    weights = logits_of(graph)["probability"].to_numpy()
    np.testing.assert_allclose(weights, [float(shares[-1, 4]), float(shares[3, 9]), *[1.0] * 8], rtol=1e-4)
    sizes = abs(graph.adjacency.toarray()[:-1, :-1]).astype(np.float64)
    sums = sizes.sum(1, keepdims=True)
    B = np.divide(sizes, sums, out=np.zeros_like(sizes), where=sums > 0)
    w = graph.weights[:-1]
    assert w.sum() == pytest.approx(weights.sum())
    expected = w @ np.linalg.inv(np.eye(len(B)) - B) - w
    np.testing.assert_allclose(graph.nodes["influence"][:-1], expected, rtol=1e-5, atol=1e-9)


def test_where_nothing_is_given_the_most_probable_tokens_of_the_position_are_taken(
    traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model("llama")
    there = logits_of(ag.trace(model, prompt, targets=ag.At(4), desired_logit_prob=0.5))
    cut = logits_of(ag.trace(model, prompt[:5], desired_logit_prob=0.5))
    assert len(there) > 1 and there.index.equals(cut.index)
    np.testing.assert_allclose(there["probability"], cut["probability"], rtol=1e-5)
    last = ag.trace(model, prompt, targets=ag.At(-1))
    assert last.nodes.equals(ag.trace(model, prompt).nodes)


def test_one_token_at_two_positions_is_two_nodes_and_one_asked_for_twice_is_one(
    traced_model: Build, prompt: list[int]
) -> None:
    asked = [4, ag.At(-1, 4), ag.At(3, 4), FEATURES[0], FEATURES[0], ag.At(3, [4, 9])]
    graph = ag.trace(traced_model(), prompt, targets=asked)
    above = N_LAYERS + 1
    assert logits_of(graph).index.tolist() == [f"{above}_4_8", f"{above}_4_3", f"{above}_{D_VOCAB}_4", f"{above}_9_3"]


def test_features_are_chosen_by_their_influence_on_all_targets(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(n_features=300)
    graph = ag.trace(model, prompt, targets=TARGETS, max_feature_nodes=600)
    assert graph.metadata["selection"]["n_selected"] == 600
    assert graph.metadata["checks"]["input_sum_gap"] < 1e-4
    nodes, sums = logits_of(graph), rows_of(graph).sum(1)
    np.testing.assert_allclose(nodes["activation"], sums, rtol=1e-4, atol=1e-4)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (ag.At(9, 4), PromptError, "a target's position is 9; expected 0 to 8, or -1, the last, to -9"),
        (ag.At(-10), PromptError, "a target's position is -10"),
        (ag.At(2, []), TargetError, "no target given"),
        ([4, None], TargetError, "no target given"),
        (ag.At(2, ag.FeatureTarget(1, 2, 3)), TargetError, "At holds a FeatureTarget, which says itself where"),
        (ag.At(2, [ag.At(3, 4)]), TargetError, "At holds another At, which says"),
        (ag.FeatureTarget(3, 0), TargetError, "target 3/0: 3 layers; expected a layer and a feature, counted from 0"),
        (ag.FeatureTarget(1, 40), TargetError, f"target 1/40: layer 1 has {N_FEATURES} features"),
        (ag.Direction(torch.ones(3), 1), TargetError, "a direction of 3 numbers at layer 1; expected 24 numbers"),
        (ag.Direction(torch.ones(24), 4), TargetError, "a direction of 24 numbers at layer 4; .* from 0 to 3"),
        (ag.Direction(torch.ones(24), 1, slice(2)), TargetError, "expected one position, or None for the last"),
        (ag.Direction(torch.ones(24), 1, 9), PromptError, "a target's position is 9"),
    ],
)
def test_targets_that_are_nowhere_are_refused(
    targets: Any, error: type[Exception], message: str, traced_model: Build, prompt: list[int]
) -> None:
    with pytest.raises(error, match=message):
        ag.trace(traced_model(), prompt, targets=targets)


@pytest.mark.refusal
def test_a_features_target_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(TargetError, match="layer is -1; expected a whole number of at least 0"):
        ag.FeatureTarget(-1, 2, 3)
