"""Text that goes on with nodes changed: what `intervene` says, token by token, with a cache as without."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import BOS, FAMILY_CONFIGS, make_transcoders

import attrgraph as ag
from attrgraph.errors import InterventionError, ResultError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
SETS = [
    ag.Intervention((0, 3, slice(4, None)), value=4.0),
    ag.Intervention((1, 5, slice(-2, 11)), add=-2.0),
    ag.Intervention((1, 8, slice(1, None, 2)), scale=-3.0),
    ag.Intervention((1, 9, slice(-20, None, 2)), value=2.0),
    ag.Intervention((0, 7, 5), value=3.0),
    ag.Intervention("E_12_2", scale=0.5),
    ag.Intervention("0_-1_6", scale=0.0),
]
_LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [9.0] * 4,
    "factor": 32.0,
    "original_max_position_embeddings": 12,
}
_LOCAL = {"rope_type": "default", "rope_theta": 1e4}
ROPES: dict[str, dict[str, Any]] = {
    "longrope": _LONG,
    "by layer": {"full_attention": _LONG, "sliding_attention": _LOCAL},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 12,
    },
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
}


@pytest.mark.parametrize("cross_layer", [True, False], ids=["clt", "plt"])
@pytest.mark.parametrize("mode", ["constrained", "free"])
def test_a_cache_gives_the_same_text(
    family: str, mode: str, cross_layer: bool, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, cross_layer=cross_layer, dtype=torch.float64)
    texts = [
        ag.generate(model, prompt, SETS, max_new_tokens=8, mode=mode, use_cache=use_cache).token_ids
        for use_cache in (True, False)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 8
    assert texts[0] != ag.generate(model, prompt, max_new_tokens=8).token_ids


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("settings", [{}, {"activation": "topk"}, {"cross_layer": False, "read_point": "mlp.hook_in"}])
@pytest.mark.parametrize("mode", ["constrained", "free"])
def test_each_token_is_what_intervening_on_the_text_so_far_gives(
    name: str, mode: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(name, dtype=torch.float64, **settings)
    text = list(prompt)
    for _ in range(6):
        # what a scale finds inactive stays as it is, and a slice that counts from the prompt's end stays where it was
        sets = [*SETS[:1], ag.Intervention((1, 5, slice(7, 11)), add=-2.0), *SETS[3:]]
        text.append(int(ag.intervene(model, text, sets, mode=mode).logits_after.argmax()))
    sets = [*SETS[:2], *SETS[3:]]
    assert ag.generate(model, prompt, sets, max_new_tokens=6, mode=mode).token_ids == text[len(prompt) :]


def test_without_changes_the_model_speaks_for_itself(family: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(family)
    expected = model.hf_model.generate(
        torch.tensor([prompt]), max_new_tokens=7, do_sample=False, pad_token_id=0, attention_mask=torch.ones(1, 9)
    )
    assert ag.generate(model, prompt, max_new_tokens=7).token_ids == expected[0, len(prompt) :].tolist()


def test_it_says_how_far_it_is_before_each_token(traced_model: Build, prompt: list[int]) -> None:
    told: list[tuple[str, int, int]] = []
    found = ag.generate(traced_model(), prompt, max_new_tokens=3, progress=lambda *each: told.append(each))
    assert told == [("text", done, 3) for done in range(len(found.token_ids))] and told


def test_it_ends_with_the_context_or_the_end_of_text(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    longest = ag.generate(model, prompt, max_new_tokens=100).token_ids
    assert len(prompt) + len(longest) == model.n_context + 1  # the last token is predicted, not read
    first = longest.index(longest[4])
    for end in (longest[4], [48, longest[4]]):
        model.config.eos_token_id = end
        assert ag.generate(model, prompt, max_new_tokens=100).token_ids == longest[: first + 1]


@pytest.mark.parametrize("n_prompt", [5, 9, 14])  # the text comes to 12 tokens in between, at once, has more
@pytest.mark.parametrize("rope", ROPES)
def test_rotations_that_depend_on_the_length_are_the_same_with_a_cache(rope: str, n_prompt: int) -> None:
    kind, config = FAMILY_CONFIGS["gemma3" if rope == "by layer" else "llama"]
    hf_model = create_hf_model(kind, seed=0, **config, rope_parameters=ROPES[rope])
    for parameter in hf_model.parameters():
        parameter.data *= 10.0
    model, prompt = LanguageModel(hf_model.double()), [BOS, *range(5, 4 + n_prompt)]
    model.transcoders = make_transcoders()
    assert ag.trace(model, prompt, max_feature_nodes=5).metadata["checks"]["is_exact"]
    assert ag.explain_attention(model, prompt, 1, 1, n_prompt - 1, 1).deviation < 1e-4
    found = [
        ag.generate(model, prompt, SETS[:1], max_new_tokens=9, use_cache=use_cache).token_ids
        for use_cache in (True, False)
    ]
    text = list(prompt)
    for _ in range(9):
        text.append(int(ag.intervene(model, text, SETS[:1]).logits_after.argmax()))
    assert found == [text[n_prompt:]] * 2


@pytest.mark.refusal
def test_what_cannot_be_set_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    for sets, mode, message in (
        ([], "frozen", "can be generated in mode"),
        (ag.Intervention((9, 0, slice(3, None)), value=1.0), "free", "does not exist"),
        (ag.Intervention((0, 99, slice(3, None)), value=1.0), "free", "does not exist"),
        (
            [ag.Intervention((0, 3, slice(3, None)), value=1.0), ag.Intervention((0, 3, 5), value=1.0)],
            "free",
            "set twice",
        ),
        (ag.Intervention((0, 3, 0), value=1.0), "free", "is skipped"),
        (ag.Intervention([], value=1.0), "free", "nothing is set"),
        (ag.Intervention((0, 3, slice(100, None)), value=1.0), "free", "does not reach"),
        (ag.Intervention((0, 3, range(-3, 0)), value=1.0), "free", "does not reach"),
    ):
        with pytest.raises(InterventionError, match=message):
            ag.generate(model, prompt, sets, mode=mode)
    with pytest.raises(InterventionError, match="max_new_tokens is -1"):
        ag.generate(model, prompt, max_new_tokens=-1)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", [7, slice(7, None), slice(9, None)])
def test_no_text_is_made_of_a_run_that_overflows(
    positions: int | slice, use_cache: bool, traced_model: Build, prompt: list[int]
) -> None:
    """The squares do, not the logits: norms give 0 then."""
    model = traced_model("llama")
    for mode in ("constrained", "free"):
        with pytest.raises(ResultError, match="the changed run's activations overflow"):
            change = ag.Intervention((0, 3, positions), value=1e20)
            ag.generate(model, prompt, change, mode=mode, use_cache=use_cache, max_new_tokens=3)
