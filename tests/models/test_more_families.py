"""Families that are declarations only: a changed run, generated text, and attention scores, right or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import D_MODEL, FAMILY_CONFIGS, MORE_FAMILIES, make_model, make_transcoders
from torch import Tensor
from transformers import PreTrainedModel

import attrgraph as ag
from attrgraph.data.corpus import TokenRows
from attrgraph.errors import ResultError, TranscoderError, UnsupportedModelError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps

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
        assert name.startswith(("cohere", "glm", "gptj", "gpt_oss", "olmo2", "olmo3", "phi3", "stablelm"))
    else:
        assert found.score == pytest.approx(float((found.query_vectors @ found.key_vectors.T).sum()), rel=1e-4)


@every_family
def test_rows_of_a_batch_are_seen_as_each_alone(name: str, prompt: list[int]) -> None:
    """OPT's MLPs get the rows one after the other; what is put in the output's place is put back so."""
    model, batch = make_model(name), torch.tensor([prompt, prompt[::-1]])

    def seen(token_ids: Tensor) -> list[Tensor]:
        outs: list[Tensor] = []

        def keep(layer: int, stream: Tensor, out: Tensor) -> Tensor:
            outs.append(stream + out)
            return 0.5 * out

        with torch.no_grad(), replaced_mlps(model, keep):
            return [model.logits(token_ids), *outs]

    together, alone = seen(batch), zip(*(seen(row[None]) for row in batch), strict=True)
    for found, rows in zip(together, alone, strict=True):
        torch.testing.assert_close(found, torch.cat(rows), rtol=1e-4, atol=1e-4)


def _state(hf_model: PreTrainedModel) -> dict[str, Any]:
    return {
        "config": hf_model.config.to_json_string(),
        "attention": hf_model.config._attn_implementation,
        "modes": [module.training for module in hf_model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf_model.modules()],
        "gradients": [(p.requires_grad, p.grad is None, p._version) for p in hf_model.parameters()],
    }


@pytest.mark.parametrize("name", [*FAMILY_CONFIGS, *MORE_FAMILIES])
def test_a_model_object_is_left_exactly_as_it_was(name: str, prompt: list[int]) -> None:
    hf_model = make_model(name).hf_model.requires_grad_(True)
    if type(hf_model)._supports_sdpa:
        hf_model.set_attn_implementation("sdpa")
    for module in hf_model.get_input_embeddings(), *hf_model.modules():
        module.train(module is hf_model.get_input_embeddings())  # drops nothing, so it may stay in either mode
    ids, before = torch.tensor([prompt]), _state(hf_model)
    with torch.no_grad():
        logits = hf_model(input_ids=ids).logits
    model = ag.load_model(hf_model, make_transcoders())
    graph = ag.trace(model, prompt)
    feature = str(graph.nodes.index[graph.nodes["kind"] == "feature"][0])
    ag.intervene(model, prompt, ag.Intervention(feature, scale=2.0), mode="free")
    ag.generate(model, prompt, [ag.Intervention(feature, scale=2.0)], max_new_tokens=2)
    assert _state(hf_model) == before
    with torch.no_grad():
        torch.testing.assert_close(hf_model(input_ids=ids).logits, logits, rtol=0, atol=0)


@pytest.mark.refusal
@pytest.mark.parametrize("name", ["olmo2", "olmo3"])
@pytest.mark.parametrize("read_point", ["ln2.hook_normalized", "tl2.ln2.hook_normalized", "tl3.ln2.hook_normalized"])
def test_features_that_read_behind_a_norm_need_one(name: str, read_point: str, prompt: list[int]) -> None:
    model = make_model(name)
    model.transcoders = make_transcoders(read_point=read_point)
    rows = TokenRows([torch.tensor(prompt)], [0], {})
    for call in (lambda: ag.trace(model, prompt), lambda: ag.evaluate(model, model.transcoders, rows)):
        with pytest.raises(TranscoderError, match=r"this model has no norm there; .* --read-point mlp\.hook_in"):
            call()
    model.transcoders = make_transcoders(read_point="mlp.hook_in")
    assert ag.trace(model, prompt, max_feature_nodes=5).metadata["checks"]["is_exact"]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("falcon", {"alibi": True}, "Falcon with alibi=True is not supported"),
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "layer 0 has no ln_attn"),
        ("opt", {"do_layer_norm_before": False}, "OPT with do_layer_norm_before=False"),
        ("opt", {"word_embed_proj_dim": 12}, "OPT with word_embed_proj_dim=12 and hidden_size=24"),
    ],
)
def test_variants_that_are_computed_otherwise_are_refused(kind: str, options: dict[str, Any], said: str) -> None:
    config = {"vocab_size": 20, "hidden_size": D_MODEL, "num_hidden_layers": 2, "num_attention_heads": 4}
    with pytest.raises(UnsupportedModelError, match=said):
        ag.load_model(create_hf_model(kind, seed=0, **config | options))


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe"])
def test_experts_run_in_float64_and_stay_as_they_were_set(family: str, prompt: list[int]) -> None:
    graphs = []
    for dtype in (torch.float32, torch.float64):
        model = make_model(family, dtype=dtype)
        model.transcoders, before = make_transcoders(), model.config._experts_implementation
        graphs.append(ag.trace(model, prompt, max_feature_nodes=20).adjacency.toarray())
        assert len(ag.generate(model, prompt, [], max_new_tokens=2).token_ids) == 2
        assert model.config._experts_implementation == before
    torch.testing.assert_close(*map(torch.from_numpy, graphs), rtol=1e-3, atol=1e-4)
