"""A model that runs otherwise than its configuration says is traced as it runs, and the graph says so."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import FAMILY_CONFIGS, MORE_FAMILIES, PROMPT, make_model, make_transcoders

import attrgraph as ag
from attrgraph.models.alterations import alterations
from attrgraph.models.language_model import LanguageModel


def twice(module: Any, args: Any, output: Any) -> Any:
    return 2 * output


def twice_before(module: Any, args: Any) -> Any:
    return (2 * args[0], *args[1:])


class Silent(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x


def _patch(module: Any) -> None:
    plain = module.forward
    module.forward = lambda x: 2 * plain(x)


# what is done to a block of a Llama, and what is said of it
ALTERED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hook": (lambda block: block.mlp.register_forward_hook(twice), "mlp has a hook (twice)"),
    "pre-hook": (
        lambda block: block.self_attn.q_proj.register_forward_pre_hook(twice_before),
        "self_attn.q_proj has a hook (twice_before)",
    ),
    "hook with arguments": (
        lambda block: block.post_attention_layernorm.register_forward_hook(partial(twice)),
        "post_attention_layernorm has a hook (twice)",
    ),
    "forward": (lambda block: _patch(block.mlp.up_proj), "mlp.up_proj has another forward (_patch.<locals>.<lambda>)"),
    "activation": (
        lambda block: setattr(block.mlp, "act_fn", torch.nn.ReLU()),
        "mlp.act_fn is a ReLU, not SiLUActivation",
    ),
    "module": (lambda block: setattr(block, "mlp", Silent()), "mlp is a Silent, not LlamaMLP"),
    "scaling": (lambda block: setattr(block.self_attn, "scaling", 0.5), "self_attn.scaling is 0.5, not 0.35"),
}


@pytest.fixture
def model() -> LanguageModel:
    model = make_model("llama")
    model.transcoders = make_transcoders()
    return model


@pytest.mark.parametrize(("alter", "said"), ALTERED.values(), ids=ALTERED)
def test_a_graph_says_what_ran_otherwise_and_of_which_model_it_is(
    alter: Callable[[Any], Any], said: str, model: LanguageModel
) -> None:
    plain = ag.trace(model, PROMPT, max_feature_nodes=5)
    assert "altered" not in plain.metadata["model"] and "notes" not in plain.metadata
    alter(model.hf_model.model.layers[1])
    graph = ag.trace(model, PROMPT, max_feature_nodes=5)
    [note] = graph.metadata["notes"]
    assert f"otherwise than its configuration says: model.layers.1.{said}" in note
    assert graph.metadata["model"]["digest"] != plain.metadata["model"]["digest"]
    assert any("on different models" in note for note in ag.diff(plain, graph).notes)


def test_what_is_for_all_modules_or_for_rotary_positions_is_told(model: LanguageModel) -> None:
    with torch.nn.modules.module.register_module_forward_hook(lambda *call: None):
        assert any("a hook on every module" in each for each in alterations(model.hf_model))
    model.hf_model.model.rotary_emb.attention_scaling = 1.5
    assert alterations(model.hf_model) == ["model.rotary_emb.attention_scaling is 1.5, not 1.0"]


def test_a_note_names_a_few_of_many(model: LanguageModel) -> None:
    for block in model.layer_modules():
        for name in ("q_proj", "k_proj"):
            block.self_attn.get_submodule(name).register_forward_hook(twice)
    [note] = ag.trace(model, PROMPT, max_feature_nodes=5).metadata["notes"]
    assert "k_proj has a hook (twice); model.layers.1.self_attn.q_proj has a hook (twice) and 3 more. The" in note


def test_a_configuration_that_no_model_can_have_is_told(model: LanguageModel) -> None:
    model.config.hidden_act = "no such"
    [said] = ag.trace(model, PROMPT, max_feature_nodes=5).metadata["model"]["altered"]
    assert said.startswith("its configuration makes no model (KeyError: ")


def test_without_the_hook_the_model_is_that_of_its_files_again(model: LanguageModel) -> None:
    model = LanguageModel(model.hf_model, source={"id": "owner/model", "revision": "abc"})
    before = model.source
    with model.layer_modules()[0].mlp.register_forward_hook(twice):
        assert model.source["changed"] and "revision" not in model.source
    assert model.source == before


@pytest.mark.parametrize("family", FAMILY_CONFIGS | MORE_FAMILIES)
def test_models_as_they_are_made_and_run_have_none(family: str) -> None:
    hf_model = make_model(family).hf_model
    with torch.no_grad():
        hf_model(torch.tensor([PROMPT]), output_hidden_states=True, output_attentions=True)
    for module in hf_model.modules():  # as accelerate does
        module._hf_hook, module._old_forward = SimpleNamespace(), module.forward
        module.forward = partial(module.forward)
    assert alterations(hf_model) == []
