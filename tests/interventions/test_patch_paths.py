"""Path patching: edges are what plain hooks give; on a linear model a sender's edges sum to what patching it does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_hooks import MODULES, linear_model, place_of, recorded, run
from tiny import N_LAYERS, PROMPT, make_model
from torch import Tensor

import attrgraph as ag
from attrgraph.errors import AttrGraphError, InterventionError
from attrgraph.models.language_model import LanguageModel

CLEAN = list(PROMPT)
CORRUPT = [30 if pos == 2 else 9 if pos == 5 else token for pos, token in enumerate(PROMPT)]
METRIC = ag.LogitDifference(4, 9)
Place = tuple[str, bool]


def value(logits: Tensor) -> Tensor:
    return logits[4] - logits[9]


def receiver_of(name: str, row: Any) -> tuple[Place, Callable[[Tensor], Tensor]]:
    """Where a receiver's output is, and its part of it, a view."""
    if row.receiver_kind == "mlp":
        return place_of(name, "mlp", row.receiver_layer), lambda x: x
    block, part, head = f"{MODULES[name][0]}.{row.receiver_layer}", "qkv".index(row.receiver_kind), row.receiver_head
    if name == "gpt2":
        return (f"{block}.attn.c_attn", False), lambda x: x[..., 24 * part + 6 * head :][..., :6]
    if name == "gpt_neox":
        return (f"{block}.attention.query_key_value", False), lambda x: x[..., 18 * head + 6 * part :][..., :6]
    return (f"{block}.self_attn.{row.receiver_kind}_proj", False), lambda x: x[..., 8 * head :][..., :8]


def change_of(name: str, row: Any, source: dict[Place, Tensor]) -> tuple[Place, Callable[[Tensor], Tensor]]:
    """Where a sender is, and what puts the other run's there."""
    place = ("", False) if row.sender_kind == "embedding" else place_of(name, row.sender_kind, row.sender_layer)

    def put(x: Tensor) -> Tensor:
        x, new = x.clone(), source[place]
        where = slice(None)
        if row.sender_kind == "head":
            d_head = x.shape[-1] // 4
            where = slice(d_head * row.sender_head, d_head * (row.sender_head + 1))
        x[..., where] = new[..., where]
        return x

    return place, put


def by_hand(model: LanguageModel, name: str, row: Any, ids: list[int], base: dict, source: dict) -> float:
    """The effect of an edge with plain hooks: what the receiver makes of the changed sender, put into the base run."""
    hooks: dict[Place, Callable[[Tensor], Tensor | None]] = {}
    for layer in range(N_LAYERS):
        for kind in ("attn", "mlp"):
            if (row.sender_kind, row.sender_layer, kind) != ("head", layer, "attn"):
                place = place_of(name, kind, layer)
                hooks[place] = lambda x, place=place: base[place][None]
    told = dict[str, Tensor]()
    place, put = change_of(name, row, source)
    hooks[place] = put
    if row.receiver_kind != "answer":
        at, part = receiver_of(name, row)
        held = hooks.get(at)

        def keep(x: Tensor) -> Tensor | None:
            told["value"] = part(x).clone()
            return None if held is None else held(x)

        hooks[at] = keep
    logits = run(model, ids, hooks)
    before = value(run(model, ids, {}))
    if row.receiver_kind == "answer":
        return float(value(logits) - before)

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        part(x).copy_(told["value"])
        return x

    return float(value(run(model, ids, {at: change})) - before)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", MODULES)
def test_edges_are_those_of_plain_hooks(name: str, direction: str) -> None:
    model = make_model(name, dtype=torch.float64)
    source, ids = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    senders = ["embedding", "head:0.1", "head:1.3", "head:2.0", "attn:1", "mlp:0", "mlp:2"]
    edges = ag.patch_paths(model, CLEAN, CORRUPT, senders=senders, metric=METRIC, direction=direction)
    base, other = (recorded(model, name, tokens) for tokens in (ids, source))
    assert edges["is_exact"].all() and not edges[["sender", "receiver"]].duplicated().any()
    n_heads = sum(model.run(torch.tensor(CLEAN)).blocks[0].attention.W_V.shape[:1])
    # all heads and MLPs above embeddings, and the answer
    assert (edges["sender"] == "embedding").sum() == N_LAYERS * (4 + 2 * n_heads + 1) + 1
    is_parallel = name == "gpt_neox"
    assert (edges["sender"] == "head:1.3").sum() == 4 + 2 * n_heads + 1 + (not is_parallel) + 1
    assert (edges["sender"] == "mlp:2").sum() == 1
    for row in edges.itertuples():
        expected = by_hand(model, name, row, ids, base, other)
        assert row.effect == pytest.approx(expected, rel=1e-5, abs=1e-7), (row.sender, row.receiver)
    assert (edges["effect"].abs() > 1e-4).groupby(edges["receiver_kind"]).any().all()


def test_on_a_linear_model_edges_of_a_sender_sum_to_its_effect() -> None:
    model = linear_model()
    senders = ["embedding", "head", "mlp"]
    edges = ag.patch_paths(model, CLEAN, CORRUPT, senders=senders, metric=METRIC)
    estimated = ag.patch_paths(model, CLEAN, CORRUPT, senders=senders, metric=METRIC, method="attribution")
    assert list(edges["sender"] + edges["receiver"]) == list(estimated["sender"] + estimated["receiver"])
    scale = edges["effect"].abs().max()
    assert scale > 1e-2 and (edges["effect"] - estimated["effect"]).abs().max() < 1e-6 * scale
    nodes = ag.patch(model, CLEAN, CORRUPT, nodes=senders, metric=METRIC)
    nodes["name"] = nodes["node"].str.partition("@")[0].where(nodes["kind"] != "embedding", "embedding")
    expected, sums = nodes.groupby("name")["effect"].sum(), edges.groupby("sender")["effect"].sum()
    assert set(sums.index) == set(expected.index)
    assert (sums - expected[sums.index]).abs().max() < 1e-6 * scale


def test_estimates_are_gradients_times_what_receivers_are_told() -> None:
    name = "llama"
    model = make_model(name, dtype=torch.float64)
    estimated = ag.patch_paths(model, CLEAN, CORRUPT, senders="head:0.2", metric=METRIC, method="attribution")
    exact = ag.patch_paths(model, CLEAN, CORRUPT, senders="head:0.2", metric=METRIC)
    is_answer = estimated["receiver"] == "answer"
    assert list(estimated["is_exact"]) == list(is_answer) and set(estimated.loc[~is_answer, "method"]) == {
        "attribution"
    }
    assert estimated["effect"][is_answer].item() == pytest.approx(exact["effect"][is_answer].item())
    assert (estimated["effect"] - exact["effect"]).abs().max() > 1e-6
    assert estimated["effect"].corr(exact["effect"]) > 0.8


def test_named_positions_only_are_sent() -> None:
    model, positions = make_model("gpt2", dtype=torch.float64), {"changed": (5, 5)}
    how = {"senders": "mlp:0", "receivers": ["mlp:2", "answer"], "metric": METRIC}
    edges = ag.patch_paths(model, CLEAN, CORRUPT, positions=positions, **how).set_index("receiver")
    # the answer is read at the end alone
    assert edges["effect"]["answer"] == pytest.approx(0, abs=1e-12)
    assert abs(ag.patch_paths(model, CLEAN, CORRUPT, **how).set_index("receiver")["effect"]["answer"]) > 1e-4
    assert edges.attrs["positions"] == positions and edges.attrs["metric"] == "logit '<4>' - '<9>'"


def test_batches_do_not_change_edges() -> None:
    model, told = make_model("qwen3", dtype=torch.float64), list[tuple[str, int, int]]()
    how = {"senders": ["head:0", "mlp:0"], "metric": METRIC}
    one = ag.patch_paths(model, CLEAN, CORRUPT, progress=lambda *now: told.append(now), **how)
    other = ag.patch_paths(model, CLEAN, CORRUPT, memory_budget="200K", **how)
    assert list(one["sender"] + one["receiver"]) == list(other["sender"] + other["receiver"])
    assert (one["effect"] - other["effect"]).abs().max() < 1e-7
    assert told[-1] == ("paths", 5, 5)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"senders": "resid"}, "senders has 'resid'; expected some of embedding, head, attn, mlp"),
        ({"receivers": "head"}, "receivers has 'head'; expected some of q, k, v, mlp, answer"),
        ({"senders": "head:3.0"}, "head:3: the model has head of layers 0 to 2"),
        ({"senders": "head:1.4"}, "head:1.4: the layer has head of heads 0 to 3"),
        ({"receivers": "k:1.2"}, "k:1.2: the layer has k of heads 0 to 1"),
        ({"senders": "mlp:1.0"}, "there is only one mlp there"),
        ({"receivers": "answer:2"}, "there is only one answer there"),
        ({"senders": []}, "senders is empty"),
        ({"method": "ig"}, "method is 'ig'; expected one of exact, attribution"),
        ({"direction": "up"}, "direction is 'up'"),
    ],
)
def test_what_is_no_edge_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(InterventionError, match=said):
        ag.patch_paths(make_model("llama"), CLEAN, CORRUPT, metric=METRIC, **how)


@pytest.mark.refusal
def test_several_pairs_are_refused() -> None:
    with pytest.raises(AttrGraphError, match="a prompt is"):
        ag.patch_paths(make_model("llama"), [CLEAN, CLEAN], [CORRUPT, CORRUPT], metric=METRIC)
