"""Runs with components replaced, against plain hooks of torch; and first-order effects, against differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_model
from torch import Tensor, nn

import attrgraph as ag
from attrgraph.circuits.circuit_runs import CircuitRuns

FAMILIES = ("gpt2", "llama", "gemma3", "gpt_neox")
# of each family, the modules whose input is what heads mix, and whose output is what the MLP adds to the stream
MODULES: dict[str, tuple[str, str]] = {
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp"),
    "llama": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp"),
    "gemma3": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.post_feedforward_layernorm"),
    "falcon": ("transformer.h.{}.self_attention.dense", "transformer.h.{}.mlp"),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
}
CLEAN = [[1, 7, 12, 33, 9], [1, 8, 14, 33, 9], [1, 5, 6, 33, 9], [1, 3, 4, 5, 6, 7, 9], [1, 6, 5, 4, 6, 7, 9]]
CORRUPT = [[1, 9, 12, 30, 9], [1, 8, 12, 31, 9], [1, 4, 4, 33, 9], [1, 3, 8, 5, 6, 8, 9], [1, 2, 5, 3, 6, 7, 9]]
N_HEADS, N_LAYERS = 4, 3


def pairs_of(model: ag.LanguageModel) -> list[ag.PromptPair]:
    answers = [(20, 21), (22, 23), (24, 25), (26, 27), (28, 29)]
    return [
        ag.PromptPair.of(model, *prompts) for prompts in zip(CLEAN, CORRUPT, *zip(*answers, strict=True), strict=True)
    ]


def hooked(
    model: ag.LanguageModel, family: str, ids: list[int], act: Callable[[str, int, Tensor], Tensor | None]
) -> Tensor:
    """Logits at the end of a run in which `act(kind, layer, x)` sees and replaces components; torch's own hooks."""
    hooks = []
    for layer in range(N_LAYERS):
        head, mlp = (model.hf_model.get_submodule(name.format(layer)) for name in MODULES[family])

        def before(_: nn.Module, args: tuple[Any, ...], layer: int = layer) -> Any:
            changed = act("head", layer, args[0])
            return None if changed is None else (changed, *args[1:])

        def after(_: nn.Module, args: Any, out: Tensor, layer: int = layer) -> Any:
            return act("mlp", layer, out)

        hooks += [head.register_forward_pre_hook(before), mlp.register_forward_hook(after)]
    try:
        return model.hf_model(torch.tensor([ids])).logits[0, -1].detach()
    finally:
        for hook in hooks:
            hook.remove()


def recorded(model: ag.LanguageModel, family: str, ids: list[int]) -> dict[tuple[str, int], Tensor]:
    found = dict[tuple[str, int], Tensor]()

    def keep(kind: str, layer: int, x: Tensor) -> None:
        found[kind, layer] = x.detach().clone()

    hooked(model, family, ids, keep)
    return found


def by_hooks(
    model: ag.LanguageModel, family: str, ids: list[int], kept: set[str], instead: dict[tuple[str, int], Tensor]
) -> Tensor:
    """Logits with everything that is not kept replaced."""

    def act(kind: str, layer: int, x: Tensor) -> Tensor | None:
        if kind == "mlp":
            return None if f"mlp:{layer}" in kept else instead[kind, layer].clone()  # Falcon adds to it in place
        size, changed = x.shape[-1] // N_HEADS, x.clone()
        for head in range(N_HEADS):
            if f"head:{layer}.{head}" not in kept:
                at = slice(head * size, (head + 1) * size)
                changed[..., at] = instead[kind, layer][..., at]
        return changed

    return hooked(model, family, ids, act)


def random_sets(runs: CircuitRuns, n: int) -> np.ndarray:
    kept = np.random.default_rng(0).random((n, runs.n_parts)) < 0.5
    kept[0] = True
    return kept


@pytest.mark.parametrize("ablation", ["counterfactual", "resample", "mean", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_kept_is_replaced_as_by_plain_hooks(family: str, ablation: str) -> None:
    model = make_model(family, dtype=torch.float64)
    pairs = pairs_of(model)
    runs = CircuitRuns(model, pairs, ablation=ablation)
    assert runs.n_parts == N_LAYERS * (N_HEADS + 1)
    kept = random_sets(runs, 4)
    found = runs.measure(kept)
    values = [recorded(model, family, ids) for ids in CLEAN]
    twins = [recorded(model, family, ids) for ids in CORRUPT]
    same = {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2], 3: [3, 4], 4: [3, 4]}  # of one length
    for i, pair in enumerate(pairs):
        options = {
            "counterfactual": [twins[i]],
            "resample": [values[j] for j in same[i] if j != i],
            "zero": [{at: torch.zeros_like(x) for at, x in values[i].items()}],
            "mean": [
                {at: sum(v[j][at] for j in same[i] for v in (values, twins)) / (2 * len(same[i])) for at in twins[i]}
            ],
        }[ablation]
        metrics = []
        for instead in options:
            logits = [
                by_hooks(model, family, CLEAN[i], {runs.parts[j].name for j in np.flatnonzero(row)}, instead)
                for row in kept
            ]
            metrics.append([float(each[pair.answers[0]] - each[pair.wrong_answers[0]]) for each in logits])
        errors = [np.abs(found.metric[:, i] - expected).max() for expected in metrics]
        assert min(errors) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_without_anything_the_answer_is_the_other_runs(family: str) -> None:
    model = make_model(family, dtype=torch.float64)
    pairs = pairs_of(model)
    runs = CircuitRuns(model, pairs)
    empty = runs.measure(np.zeros((1, runs.n_parts), dtype=bool)).metric[0]
    for ids, pair, found in zip(CORRUPT, pairs, empty, strict=True):
        logits = model.hf_model(torch.tensor([ids])).logits[0, -1]
        assert abs(float(logits[pair.answers[0]] - logits[pair.wrong_answers[0]]) - found) < 1e-10


# others compute norms or rotations in float32, whatever the model's type is, which differences do not bear
@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_first_order_effects_are_those_of_small_changes(family: str) -> None:
    model = make_model(family, dtype=torch.float64)
    pairs, step = pairs_of(model)[:1], 1e-5
    runs = CircuitRuns(model, pairs)
    everything = {part.name for part in runs.parts}
    clean, corrupt = recorded(model, family, CLEAN[0]), recorded(model, family, CORRUPT[0])

    def metric(ids: list[int], kept: set[str], instead: dict[tuple[str, int], Tensor]) -> float:
        logits = by_hooks(model, family, ids, kept, instead)
        return float(logits[pairs[0].answers[0]] - logits[pairs[0].wrong_answers[0]])

    attribution, direct = runs.attribution()[0], runs.attribution(is_direct=True)[0]
    keep = np.ones(runs.n_parts, dtype=bool)
    keep[[1, 4, 7]] = False
    removed = {runs.parts[i].name for i in (1, 4, 7)}
    harm = runs.harm(keep)
    for i, part in enumerate(runs.parts):
        at = (part.kind, part.layer)
        for found, is_direct in ((attribution, False), (direct, True)):
            ends = []
            for sign in (1, -1):
                # a little of the way; nothing else is changed
                moved = dict(corrupt)
                moved[at] = corrupt[at] + sign * step * (clean[at] - corrupt[at])
                if is_direct:
                    ends.append(metric(CORRUPT[0], set(), only(part.head, moved, corrupt, at)))
                else:
                    ends.append(metric(CORRUPT[0], everything - {part.name}, moved))
            assert abs((ends[0] - ends[1]) / (2 * step) - found[i]) < 1e-6
        if part.name not in removed:
            live = dict[tuple[str, int], Tensor]()

            def look(kind: str, layer: int, x: Tensor, live: dict = live) -> Tensor | None:
                if kind == "mlp":
                    live[kind, layer] = corrupt[kind, layer] if f"mlp:{layer}" in removed else x.clone()
                    return live[kind, layer].clone() if f"mlp:{layer}" in removed else None
                size, changed = x.shape[-1] // N_HEADS, x.clone()
                for head in range(N_HEADS):
                    if f"head:{layer}.{head}" in removed:
                        cut = slice(head * size, (head + 1) * size)
                        changed[..., cut] = corrupt[kind, layer][..., cut]
                live[kind, layer] = changed
                return changed

            hooked(model, family, CLEAN[0], look)
            ends = []
            for sign in (1, -1):
                moved = dict(corrupt)
                moved[at] = live[at] + sign * step * (corrupt[at] - live[at])
                if part.head is not None:  # heads of the layer that are removed stay so
                    size = moved[at].shape[-1] // N_HEADS
                    cut = slice(part.head * size, (part.head + 1) * size)
                    moved[at] = torch.cat(
                        [corrupt[at][..., : cut.start], moved[at][..., cut], corrupt[at][..., cut.stop :]], -1
                    )
                ends.append(metric(CLEAN[0], everything - removed - {part.name}, moved))
            assert abs(-(ends[0] - ends[1]) / (2 * step) - harm[i]) < 1e-6


def only(head: int | None, moved: dict, corrupt: dict, at: tuple[str, int]) -> dict:
    """The values in which of a layer's heads only one has moved."""
    if head is None:
        return moved
    size = moved[at].shape[-1] // N_HEADS
    x = corrupt[at].clone()
    x[..., head * size : (head + 1) * size] = moved[at][..., head * size : (head + 1) * size]
    return {**moved, at: x}


def test_metrics_are_those_of_right_against_wrong_answers() -> None:
    model = make_model("llama", dtype=torch.float64)
    pair = ag.PromptPair.of(model, CLEAN[0], CORRUPT[0], [20, 21], [22, 23, 24])
    logits = model.hf_model(torch.tensor([CLEAN[0]])).logits[0, -1]
    p = logits.softmax(-1)
    right, wrong = p[[20, 21]].sum(), p[[22, 23, 24]].sum()
    for metric, expected in (("logit-difference", (right / wrong).log()), ("probability", right - wrong)):
        runs = CircuitRuns(model, [pair], metric=metric)
        found = runs.measure(np.ones((1, runs.n_parts), dtype=bool)).metric[0, 0]
        assert abs(found - float(expected)) < 1e-6
