"""Attention scores: the sum over pairs of sources is the model's score, and a pair is what both ends bring to it."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILY_CONFIGS, N_LAYERS
from torch import Tensor

import attrgraph as ag
from attrgraph.attribution import qk
from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.errors import AttrGraphError, PromptError, ResultError, TranscoderError, UnsupportedModelError
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
N_HEADS, QUERY, KEY = 4, 8, 6

# families whose attention differs from what tests/support/tiny.py has
_GEMMA2, _GPT2, _NEOX = (FAMILY_CONFIGS[name] for name in ("gemma2", "gpt2", "gpt_neox"))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2_uncapped": ("gemma2", _GEMMA2[1] | {"attn_logit_softcapping": None, "query_pre_attn_scalar": 50}),
    "gpt2_unscaled": ("gpt2", _GPT2[1] | {"scale_attn_weights": False}),
    "gpt2_by_layer": ("gpt2", _GPT2[1] | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox_unbiased": ("gpt_neox", _NEOX[1] | {"attention_bias": False}),
    "llama_one_key_head": ("llama", FAMILY_CONFIGS["llama"][1] | {"num_key_value_heads": 1}),
}
SCORED = sorted((set(FAMILY_CONFIGS) | set(VARIANTS)) - {"gemma2"})


@pytest.fixture(autouse=True)
def variants(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in VARIANTS.items():
        monkeypatch.setitem(FAMILY_CONFIGS, name, config)


@pytest.fixture(params=SCORED)
def scored(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exactness(model: LanguageModel) -> float:
    """Of scores in float64: norms without a mean compute in float32 in transformers, whatever the model's type."""
    return 1e-5 if model.family.is_rms else 1e-9


def test_the_sum_over_pairs_is_the_models_score(scored: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(scored, dtype=torch.float64)
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            found = ag.explain_attention(model, prompt, layer, head, QUERY, KEY)
            assert found.deviation <= exactness(model)
            whole = (found.query_vectors @ found.key_vectors.T).numpy()
            for total in (found.by_kind(), found.by_query_source()["contribution"], whole):
                assert float(np.sum(np.asarray(total))) == pytest.approx(found.score, abs=exactness(model))
            np.testing.assert_allclose(found.by_query_source().loc[found.sources.index, "contribution"], whole.sum(1))
            np.testing.assert_allclose(found.by_key_source().loc[found.sources.index, "contribution"], whole.sum(0))


def test_scores_of_two_keys_differ_as_the_logarithms_of_their_weights(
    scored: str, traced_model: Build, prompt: list[int]
) -> None:
    """A softmax keeps differences: the recorded pattern knows the model's own scores up to a constant."""
    model = traced_model(scored, dtype=torch.float64)
    run = model.run(torch.tensor(prompt))
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            keys = (5, 8)
            found = [ag.explain_attention(model, prompt, layer, head, QUERY, key) for key in keys]
            weights = run.blocks[layer].attention.pattern[head, QUERY, list(keys)]
            assert [one.weight for one in found] == weights.tolist()
            differences = np.diff([one.score for one in found])
            # the softmax and some norms are computed in float32
            np.testing.assert_allclose(differences, weights.log().diff().numpy(), rtol=1e-5, atol=2e-6)


def rotary_of(model: LanguageModel, layer: int, prompt: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What a layer's attention reads, and the tables with which it rotates, from a plain hook."""
    kept: dict[str, Any] = {}

    def hook(_: Any, args: Any, kwargs: Any) -> None:
        kept.update(kwargs, x=args[0] if args else kwargs["hidden_states"])

    block = model.layer_modules()[layer]
    module = block.get_submodule(model.family.attention)
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    model.hf_model(input_ids=torch.tensor([prompt]))
    handle.remove()
    cos, sin = kept.get("position_embeddings") or (torch.ones(0), torch.zeros(0))
    return kept["x"][0], cos, sin


def frozen_score(
    model: LanguageModel, layer: int, head: int, prompt: list[int], at_query: Tensor, at_key: Tensor
) -> float:
    """By the model's own modules: of two inputs of attention, each a vector, with head norms at their true scales."""
    kind = model.config.model_type
    attention: Any = model.layer_modules()[layer].get_submodule(model.family.attention)
    x, cos, sin = rotary_of(model, layer, prompt)
    d_head = int(getattr(model.config, "head_dim", None) or model.d_model // N_HEADS)

    def heads(x: Tensor) -> tuple[Tensor, Tensor]:
        if kind == "gpt2":
            query, key, _ = attention.c_attn(x[None])[0].split(model.d_model, dim=-1)
        elif kind == "gpt_neox":
            fused = attention.query_key_value(x).view(len(x), N_HEADS, 3, d_head)
            return fused[:, :, 0].transpose(0, 1), fused[:, :, 1].transpose(0, 1)
        else:
            query, key = attention.q_proj(x), attention.k_proj(x)
        return query.view(len(x), -1, d_head).transpose(0, 1), key.view(len(x), -1, d_head).transpose(0, 1)

    changed = x.clone()
    changed[KEY] = at_key
    _, keys = heads(changed)
    changed[QUERY] = at_query
    queries, _ = heads(changed)
    if hasattr(attention, "q_norm"):
        for states, true, norm in zip((queries, keys), heads(x), (attention.q_norm, attention.k_norm), strict=True):
            scale = (true.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
            states *= scale * (1 + norm.weight if model.family.adds_one_to_weight else norm.weight)
    if kind != "gpt2":
        rotate = import_module(type(attention).__module__).apply_rotary_pos_emb
        queries, keys = (part[0] for part in rotate(queries[None], keys[None], cos, sin))
    scale = attention.scaling if kind != "gpt2" else d_head**-0.5
    if getattr(model.config, "scale_attn_weights", True) is False:
        scale = 1.0
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        scale = d_head**-0.5 / (layer + 1)
    key_head = head // (N_HEADS // len(keys))
    return float(scale * (queries[head, QUERY] @ keys[key_head, KEY]))


def stream_below(local: LocalReplacement, layer: int, without: str | None = None) -> Tensor:
    """What attention of a layer reads, added up anew with patterns and scales held, and with a source left out."""
    run, active, transcoders = local.run, local.active, local.transcoders
    factors, errors, embedding = torch.ones_like(active.activation), local.errors.clone(), run.embedding.clone()
    if without is not None:
        first, feature, pos = without.split("_")
        if first == "E":
            embedding[int(pos)] = 0
        elif feature == "-1":
            errors[int(first), int(pos)] = 0
        else:
            is_it = (active.layer == int(first)) & (active.pos == int(pos)) & (active.feature == int(feature))
            assert int(is_it.sum()) == 1
            factors[is_it] = 0.0
    stream = embedding if run.position_embedding is None else embedding + run.position_embedding
    outs = errors + local.constants
    for one in range(layer):
        block = run.blocks[one]
        attended = block.attend(stream)
        middle = stream if block.is_parallel else stream + attended
        norm, after = local.read_norm(one), local.write_norm(one)
        rows = active.in_layer(one)
        written = transcoders.written(one, active, active.activation[rows] * factors[rows], run.n_pos)
        for i in range(written.shape[1]):
            outs[one + i] += written[:, i]
        skip = transcoders.skip(one, middle if norm is None else norm.apply(middle))
        out = outs[one] if skip is None else outs[one] + skip
        stream = stream + attended + (out if after is None else after.apply(out))
    read: Tensor = run.blocks[layer].attention_norm.apply(stream)
    return read


SETTINGS: list[dict[str, Any]] = [
    {"cross_layer": False, "activation": "jumprelu", "skip": True},
    {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"},
]


@pytest.mark.parametrize(
    ("scored", "settings"),
    # transcoders of other kinds where norms or positions differ
    [*((name, {}) for name in SCORED), *product(("gpt2", "gemma2_uncapped", "gpt_neox", "qwen3"), SETTINGS)],
    ids=str,
)
def test_a_pair_is_what_the_score_loses_beyond_each_alone(
    scored: str, settings: dict[str, Any], traced_model: Build, prompt: list[int]
) -> None:
    """Independent path: leave a source out of the query's stream, one out of the key's, or both, all else held.

    A product loses (q_s . k) + (q . k_t) - (q_s . k_t).
    """
    model = traced_model(scored, dtype=torch.float64, **settings)
    assert model.transcoders is not None
    is_bos = torch.arange(len(prompt)) == 0
    local = build_replacement(model.run(torch.tensor(prompt)), model.transcoders, is_bos)
    for layer, head in ((0, 3), (2, 1)):
        found = ag.explain_attention(model, prompt, layer, head, QUERY, KEY)
        kinds = found.sources["kind"]
        ends = [f"E_{prompt[QUERY]}_{QUERY}", f"E_{prompt[KEY]}_{KEY}"]
        if layer:
            ends += [f"1_-1_{KEY}", "0_-1_2", *kinds.index[kinds == "feature"][[3, 40, -1]]]
        place = {name: i for i, name in enumerate(found.sources.index)}
        whole = found.query_vectors @ found.key_vectors.T

        @cache
        def score(at_query: str | None, at_key: str | None, layer: int = layer, head: int = head) -> float:
            streams = (stream_below(local, layer, source) for source in (at_query, at_key))
            ends = [stream[pos] for stream, pos in zip(streams, (QUERY, KEY), strict=True)]
            return frozen_score(model, layer, head, prompt, *ends)

        everything = score(None, None)
        # float64 rounding of sums of some hundred terms
        assert everything == pytest.approx(float(whole.sum()), rel=1e-9, abs=1e-9)
        for at_query in ends:
            for at_key in ends[::2]:
                pair = score(at_query, at_key) - score(at_query, None) - score(None, at_key) + everything
                got = float(whole[place[at_query], place[at_key]])
                assert got == pytest.approx(pair, rel=1e-7, abs=1e-9 * float(whole.abs().max()) + 1e-12)
            alone = everything - score(at_query, None)
            assert found.by_query_source().loc[at_query, "contribution"] == pytest.approx(alone, rel=1e-7, abs=1e-9)


def test_sources_are_the_nodes_of_the_graph_below_the_layer(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("gpt2")
    found = ag.explain_attention(model, prompt, 2, 0, QUERY, KEY)
    nodes = ag.trace(model, prompt).nodes
    below = nodes[(nodes["layer"] < 2) & (nodes["pos"] <= QUERY)]
    assert list(found.sources.index) == list(below.index)
    columns = list(found.sources.columns)
    pd.testing.assert_frame_equal(found.sources, below[columns], check_dtype=False)
    # nothing after the key reaches it
    assert not found.key_vectors.numpy()[(found.sources["pos"] > KEY).to_numpy()].any()


def test_nothing_lies_below_the_lowest_layer_but_tokens_and_constants(traced_model: Build, prompt: list[int]) -> None:
    """GPT-2 adds position embeddings, which are constant, and its projections and norms have biases."""
    model = traced_model("gpt2", dtype=torch.float64)
    found = ag.explain_attention(model, prompt, 0, 1, QUERY, KEY)
    assert list(found.sources["kind"].unique()) == ["embedding", "bias"]
    assert list(found.query_vectors.any(1).nonzero()[:, 0]) == [QUERY, len(prompt)]
    run = model.run(torch.tensor(prompt))
    block, hf = run.blocks[0], model.layer_modules()[0].get_submodule("attn")
    at = torch.tensor([KEY])
    weight, bias = (x.split(model.d_model, dim=-1)[1][..., 6:12] for x in (hf.c_attn.weight, hf.c_attn.bias))  # type: ignore[union-attr, operator]
    token = block.attention_norm.linear(run.embedding[at], at)[0] @ weight
    assert run.position_embedding is not None and block.attention_norm.bias is not None
    constant = block.attention_norm.linear(run.position_embedding[at], at)[0] + block.attention_norm.bias
    torch.testing.assert_close(found.key_vectors[KEY], token)
    torch.testing.assert_close(found.key_vectors[-1], constant @ weight + bias)


def test_features_of_skipped_positions_count_as_constants(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(dtype=torch.float64)
    with_bos, without = (
        ag.explain_attention(model, prompt, 2, 1, QUERY, KEY, skip_positions=skipped) for skipped in ("none", "auto")
    )
    at_bos = with_bos.sources.index[(with_bos.sources["pos"] == 0) & (with_bos.sources["kind"] != "embedding")]
    moved = with_bos.by_query_source()["contribution"]
    assert set(at_bos) - set(without.sources.index)
    expected = moved[["B", *at_bos]].sum()
    assert without.by_query_source().loc["B", "contribution"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 5000, 10**7])
def test_the_strongest_pairs_come_first_whatever_the_blocks(
    size: int, traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qk, "PAIRS_AT_ONCE", size)
    found = ag.explain_attention(traced_model("llama", dtype=torch.float64), prompt, 1, 2, QUERY, KEY)
    whole = (found.query_vectors @ found.key_vectors.T).numpy()
    names = found.sources.index.to_numpy()
    for n in (0, 1, 20, whole.size + 1):
        pairs = found.pairs(n)
        assert len(pairs) == min(n, int((whole != 0).sum()))
        expected = np.sort(np.abs(whole[whole != 0]))[::-1][:n]
        np.testing.assert_allclose(pairs["contribution"].abs(), expected, rtol=1e-9)
        for row in pairs.head(5).itertuples():
            i, j = (int(np.flatnonzero(names == name)[0]) for name in (row.query_source, row.key_source))
            assert row.contribution == pytest.approx(whole[i, j], rel=1e-9)
            assert row.query_label == found.sources["label"].iloc[i] and row.key_pos == found.sources["pos"].iloc[j]
    assert "layer 1, head 2, 8 -> 6" in repr(found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3", "gpt_neox"])
def test_half_precision_is_explained_to_its_own_rounding(name: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(name)
    model = LanguageModel(model.hf_model.to(torch.bfloat16), transcoders=model.transcoders)
    for layer in range(N_LAYERS):
        found = ag.explain_attention(model, prompt, layer, 1, QUERY, KEY)
        # bfloat16 has 8 bits; streams, queries and keys are each rounded several times a layer
        assert found.deviation < 0.2 * max(1.0, abs(found.score))


def test_dynamic_rotations_are_the_models_own(traced_model: Build, prompt: list[int], monkeypatch: Any) -> None:
    """Rotary tables that are stretched and scaled come from the model, not from a formula here."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    kind, config = FAMILY_CONFIGS["llama"]
    for key in ("rope_scaling", "rope_parameters"):
        monkeypatch.setitem(FAMILY_CONFIGS, "llama_yarn", (kind, config | {key: scaling}))
    model = traced_model("llama_yarn", dtype=torch.float64)
    found = ag.explain_attention(model, prompt, 1, 1, QUERY, 1)
    assert found.pattern_deviation < 1e-6 and found.deviation < 1e-5


def test_positions_may_be_counted_from_the_end(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    found, same = (ag.explain_attention(model, prompt, 1, 1, *place) for place in ((-1, -3), (8, 6)))
    assert (found.query, found.key, found.score) == (8, 6, same.score)


@pytest.mark.refusal
def test_scores_that_the_model_does_not_compute_are_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("mistral")
    for place, error, message in (
        ((3, 0, 8, 6), AttrGraphError, "layer is 3; expected 0 to 2"),
        ((-1, 0, 8, 6), AttrGraphError, "layer is -1; expected 0 to 2"),
        ((0, 4, 8, 6), AttrGraphError, "head is 4; expected 0 to 3"),
        ((0, 0, 9, 6), PromptError, "query is 9; expected 0 to 8"),
        ((0, 0, 8, -10), PromptError, "key is -10; expected 0 to 8"),
        ((0, 0, 6, 8), AttrGraphError, "key 8 comes after query 6"),
        ((0, 0, 8, 4), AttrGraphError, "a sliding window of 4 positions: query 8 sees keys 5 to 8, not 4"),
    ):
        with pytest.raises(error, match=message):
            ag.explain_attention(model, prompt, *place)
    gemma = traced_model("gemma3")
    assert ag.explain_attention(gemma, prompt, 1, 0, 8, 0).weight > 0  # that layer sees everything
    with pytest.raises(AttrGraphError, match="layer 2 has a sliding window"):
        ag.explain_attention(gemma, prompt, 2, 0, 8, 4)
    with pytest.raises(UnsupportedModelError, match=r"soft-caps its attention scores at 50\.0"):
        ag.explain_attention(traced_model("gemma2"), prompt, 1, 0, 8, 4)
    with pytest.raises(TranscoderError, match="has no transcoders"):
        ag.explain_attention(LanguageModel(model.hf_model), prompt, 0, 0, 8, 6)
    with pytest.raises(AttrGraphError, match="n is -1"):
        ag.explain_attention(model, prompt, 0, 0, 8, 6).pairs(-1)


@pytest.mark.refusal
def test_an_unknown_way_to_compute_scores_is_noticed(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    attention: Any = model.layer_modules()[1].get_submodule("self_attn")
    scaling, forward = attention.scaling, attention.forward

    def differently(*args: Any, **kwargs: Any) -> Any:
        attention.scaling = 2 * scaling
        try:
            return forward(*args, **kwargs)
        finally:
            attention.scaling = scaling

    attention.forward = differently
    with pytest.raises(ResultError, match="differ from the model's own"):
        ag.explain_attention(model, prompt, 1, 0, QUERY, KEY)
