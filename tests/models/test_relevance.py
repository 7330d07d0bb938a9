"""Gradients by relevance rules: those of a linear model written by hand; streams times gradients sum to the answer."""

import pytest
import torch
from tiny import FAMILY_CONFIGS, MORE_FAMILIES, PROMPT, make_model
from torch import Tensor
from torch.nn.functional import silu

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.components import Site, observed, sites_of
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.relevance import relevance_rules

IDS = torch.tensor([PROMPT])
EXPERTS = ["gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe"]
# whose logits are capped, which is no linear map
CAPPED = ["gemma2"]
LINEAR = sorted((FAMILY_CONFIGS | MORE_FAMILIES).keys() - {*EXPERTS, *CAPPED})


def streams_and_gradients(model: LanguageModel) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A logit difference, the streams of all blocks, and its gradients by the rules."""
    seen = dict[Site, Tensor]()

    def see(site: Site, x: Tensor) -> Tensor:
        seen[site] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site]

    with relevance_rules(model), observed(model, sites_of(model, ("resid",)), see):
        logits = model.logits(IDS, logits_to_keep=1)[0, -1]
    value = logits[4] - logits[9]
    return value.detach(), [x.detach() for x in seen.values()], list(torch.autograd.grad(value, list(seen.values())))


@pytest.mark.parametrize("name", LINEAR)
def test_streams_times_gradients_sum_to_the_answer_without_biases(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    for parameter_name, parameter in model.hf_model.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.zero_()
    plain = model.logits(IDS, logits_to_keep=1)[0, -1]
    value, streams, gradients = streams_and_gradients(model)
    # the run itself stays; some families' norms compute in float32
    torch.testing.assert_close(value, plain[4] - plain[9], rtol=1e-6, atol=1e-9)
    for stream, gradient in zip(streams, gradients, strict=True):
        assert float((stream * gradient).sum()) == pytest.approx(float(value), rel=1e-5)


def test_gradients_are_those_of_a_linear_model_written_by_hand() -> None:
    model = make_model("llama", dtype=torch.float64)
    hf = model.hf_model
    with model.eager():
        run = hf(input_ids=IDS, output_attentions=True, output_hidden_states=True, use_cache=False)

    def held(norm: torch.nn.Module, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt().detach()
        return x * scale * norm.weight

    embedding = run.hidden_states[0][0].clone().requires_grad_()
    x = embedding
    for layer, pattern in zip(hf.model.layers, run.attentions, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        values = attention.v_proj(held(layer.input_layernorm, x)).unflatten(-1, (2, 8)).repeat_interleave(2, dim=1)
        mixed = torch.einsum("hqk,khd->qhd", pattern[0], values)
        x = x + attention.o_proj(mixed.flatten(1))
        read = held(layer.post_attention_layernorm, x)
        gate, up = mlp.gate_proj(read), mlp.up_proj(read)
        active = gate * (silu(gate) / gate).detach()
        halves = (active * up.detach() + active.detach() * up) / 2
        product = halves + (active * up - halves).detach()
        x = x + mlp.down_proj(product)
    logits = hf.lm_head(held(hf.model.norm, x))[-1]
    # Llama's norms compute in float32
    torch.testing.assert_close(logits.detach(), run.logits[0, -1], rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(logits[4] - logits[9], embedding)[0]
    _, _, gradients = streams_and_gradients(model)
    torch.testing.assert_close(gradients[0][0], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.refusal
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_refused(name: str) -> None:
    with (
        pytest.raises(UnsupportedModelError, match="has experts, for which relp has no rule"),
        relevance_rules(make_model(name)),
    ):
        pass
