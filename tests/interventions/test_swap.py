"""Dose curves and swaps are interventions, laid out."""

from collections.abc import Callable

import pytest
import torch

import attrgraph as ag
from attrgraph.errors import InterventionError
from attrgraph.interventions.intervene import take_apart
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
NODES = [(0, 3, 4), (1, 5, 4)]


def test_a_dose_curve_is_an_intervention_a_dose(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(dtype=torch.float64)
    nodes = take_apart(model, prompt).active.places()[:3]
    curve = ag.dose_response(model, prompt, nodes, scales=(-1.0, 1.0, 2.5), mode="free")
    assert curve.index.tolist() == [-1.0, 1.0, 2.5]
    for scale, row in curve.iterrows():
        effect = ag.intervene(model, prompt, ag.Intervention(nodes, scale=float(scale)), mode="free")
        answer = int(effect.logits_before.argmax())
        change = effect.uncapped_change
        assert row["logit_change"] == pytest.approx(float(change[answer] - change.mean()))
        assert row["probability"] == pytest.approx(float(effect.logits_after.softmax(-1)[answer]))
        assert (row["kl"], row["top"]) == (pytest.approx(effect.kl, abs=1e-12), effect.top_after[0][0])
    assert curve.loc[1.0, "logit_change"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("align", ["end", "start"])
@pytest.mark.parametrize("dose", [1.0, 2.0])
def test_a_swap_sets_activations_by_its_formula(
    dose: float, align: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(dtype=torch.float64)
    other = [1, 5, *prompt[1:5], 9, *prompt[5:]]  # two tokens longer
    a, b = (take_apart(model, each).active for each in (prompt, other))
    a, b = (dict(zip(each.places(), each.activation.tolist(), strict=True)) for each in (a, b))
    shift = -2 if align == "end" else 0
    in_a = [key for key in a if key[2] == 5][:4]
    in_b = [key for key in b if key[2] == 5 - shift][:4]
    expected = {key: (1 - dose) * a[key] for key in in_a}
    for layer, feature, pos in in_b:
        key = (layer, feature, pos + shift)
        expected[key] = expected.get(key, a.get(key, 0.0)) + dose * b[layer, feature, pos]
    found = ag.swap(model, prompt, other, in_a, in_b, dose=dose, align=align)
    by_hand = ag.intervene(model, prompt, [ag.Intervention(key, value=value) for key, value in expected.items()])
    torch.testing.assert_close(found.effect.logits_after, by_hand.logits_after)
    answers = [model.token_text(int(take_apart(model, each).run.logits.argmax())) for each in (prompt, other)]
    assert [found.answer_a, found.answer_b] == answers
    assert found.is_swapped == (answers[0] != answers[1] and by_hand.top_after[0][0] == answers[1])


def test_swapping_a_city_for_another_changes_the_capital() -> None:
    model = ag.load_model("demo")
    prompts = [f"in the state containing {city} the capital is" for city in ("dallas", "fort rapids")]
    groups = []
    for prompt, pos in zip(prompts, (5, 6), strict=True):
        nodes = ag.trace(model, prompt).prune().nodes
        groups.append(nodes.index[(nodes["kind"] == "feature") & (nodes["pos"] == pos)].tolist())
    found = ag.swap(model, *prompts, *groups)
    assert found.is_swapped and found.answer_a == "austin"
    assert not ag.swap(model, *prompts, *groups, dose=0.0).is_swapped


@pytest.mark.refusal
def test_what_cannot_be_swapped_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    a = take_apart(model, prompt).active
    inactive = next((0, f, 4) for f in range(40) if (0, f, 4) not in a.places())
    active = next(key for key in a.places() if key[2] == 1)
    for features_b, align, message in (
        (["0_-1_3"], "end", "prompt_b: node .* is no active feature"),
        ([inactive], "end", "prompt_b: node .* is no active feature"),
        ([active], "middle", "align is 'middle'"),
        ([active], "end", "has no counterpart"),
    ):
        longer = [*prompt, 4, 5]
        with pytest.raises(InterventionError, match=message):
            ag.swap(model, prompt, longer, [], features_b, align=align)
