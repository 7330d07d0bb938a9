"""Families that are declarations only: a changed run, generated text, and attention scores, right or refused."""

from collections.abc import Callable

import pytest
import torch
from tiny import MORE_FAMILIES, make_model

import attrgraph as ag
from attrgraph.errors import ResultError
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
every_family = pytest.mark.parametrize("name", MORE_FAMILIES)


@every_family
def test_a_feature_that_stays_what_it_is_changes_nothing(name: str, traced_model: Build, prompt: list[int]) -> None:
    """In the live model, whose MLP may give several outputs."""
    model = traced_model(name)
    graph = ag.trace(model, prompt)
    feature = str(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    for mode in ("constrained", "free"):
        effect = ag.intervene(model, prompt, ag.Intervention(feature, scale=1.0), mode=mode)
        assert not effect.uncapped_change.abs().max()


@every_family
def test_logits_are_those_of_the_model_itself(name: str, prompt: list[int]) -> None:
    """Independent path: transformers' own call."""
    model = make_model(name)
    with torch.no_grad():
        expected = model.hf_model(input_ids=torch.tensor([prompt])).logits[0, -1]
    run = model.run(torch.tensor(prompt))
    torch.testing.assert_close(run.logits, expected)
    torch.testing.assert_close(run.uncapped_logits, expected, rtol=1e-4, atol=1e-4)


@every_family
def test_text_is_the_models_own_with_a_cache_and_without(name: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(name)
    texts = [ag.generate(model, prompt, [], max_new_tokens=4, use_cache=use).token_ids for use in (True, False)]
    assert texts[0] == texts[1]


@every_family
def test_attention_scores_are_right_or_refused(name: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(name)
    try:
        found = ag.explain_attention(model, prompt, 2, 1, 8, 7)
    except ResultError as e:
        assert "differ from the model's own" in str(e)
        assert name in ("cohere", "glm4", "gptj", "gpt_oss", "olmo2", "olmo3", "stablelm", "phi3")
    else:
        assert found.score == pytest.approx(float((found.query_vectors @ found.key_vectors.T).sum()), rel=1e-4)
