"""Components and directions that are set: what plain hooks in the model give, and in frozen mode the graph.

The hooks here are written with torch alone, from the model's own modules.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from tiny import D_MODEL, N_LAYERS, make_model
from torch import Tensor, nn

import attrgraph as ag
from attrgraph.errors import InterventionError, TranscoderError
from attrgraph.models.frozen import FrozenRun
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]
Change = Callable[[Tensor], Tensor]
FAMILIES = ("gpt2", "llama", "gemma3", "gpt_neox")
OTHER = [1, 9, 30, 2, 44, 7, 11, 25, 8]
N_HEADS = 4
# of each family: blocks; in each what heads enter, what attention adds and what the MLP adds; the final norm
MODULES = {
    "gpt2": ("transformer.h", "attn.c_proj", "attn", "mlp", "transformer.ln_f"),
    "llama": ("model.layers", "self_attn.o_proj", "self_attn", "mlp", "model.norm"),
    "gemma3": (
        "model.layers",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "model.norm",
    ),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "attention", "mlp", "gpt_neox.final_layer_norm"),
}
# node without positions, its layer, its head
COMPONENTS = [
    ("head:1.2", "head", 1, 2),
    ("attn:1", "attn", 1, None),
    ("mlp:1", "mlp", 1, None),
    ("resid:1", "resid", 1, None),
    (f"resid:{N_LAYERS}", "resid", N_LAYERS, None),
    ("resid_mid:1", "resid_mid", 1, None),
]
PLACES: list[tuple[str, slice]] = [
    ("@5", slice(5, 6)),
    ("@-2", slice(7, 8)),
    ("@2:6", slice(2, 6)),
    ("@4:", slice(4, None)),
    ("", slice(None)),
]


@contextmanager
def hooked(family: str, hf: nn.Module, kind: str, layer: int, head: int | None, change: Change) -> Iterator[None]:
    """While the context lasts, `change` gets [n_pos, width] of what the component computes, and gives another."""
    blocks, heads, attention, mlp, final = MODULES[family]
    block = f"{blocks}.{layer}."
    entered = list[Tensor]()

    def entering(_: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        if kind == "resid_mid":
            entered[:] = [x]
            return None
        x = x.clone()
        if head is None:
            x[0] = change(x[0])
        else:
            width = x.shape[-1] // N_HEADS
            part = slice(head * width, (head + 1) * width)
            x[0, :, part] = change(x[0, :, part])
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def leaving(_: Any, args: Any, out: Any) -> Any:
        x = out[0] if isinstance(out, tuple) else out
        x = change((entered[0] + x)[0])[None] - entered[0] if kind == "resid_mid" else change(x[0])[None]
        return (x, *out[1:]) if isinstance(out, tuple) else x

    with ExitStack() as stack:
        if kind in ("resid", "resid_mid"):
            name = final if layer == N_LAYERS else block.removesuffix(".")
            stack.enter_context(hf.get_submodule(name).register_forward_pre_hook(entering, with_kwargs=True))
        if kind == "head":
            module = hf.get_submodule(block + heads)
            stack.enter_context(module.register_forward_pre_hook(entering, with_kwargs=True))
        if kind in ("attn", "mlp", "resid_mid"):
            module = hf.get_submodule(block + (mlp if kind == "mlp" else attention))
            stack.enter_context(module.register_forward_hook(leaving))
        yield


def plain(family: str, hf: nn.Module, ids: list[int], *changes: tuple[str, int, int | None, Change]) -> Tensor:
    """The last position's logits of the Hugging Face model with components changed."""
    with ExitStack() as stack:
        for kind, layer, head, change in changes:
            stack.enter_context(hooked(family, hf, kind, layer, head, change))
        return hf(input_ids=torch.tensor([ids])).logits[0, -1]  # type: ignore[no-any-return]


def seen(family: str, hf: nn.Module, ids: list[int], kind: str, layer: int, head: int | None) -> Tensor:
    """What a component computes: [n_pos, width]."""
    kept = list[Tensor]()

    def keep(x: Tensor) -> Tensor:
        kept.append(x.clone())
        return x

    plain(family, hf, ids, (kind, layer, head, keep))
    return kept[0]


def at(where: slice, change: Change) -> Change:
    """The change at some positions."""

    def run(x: Tensor) -> Tensor:
        out = x.clone()
        out[where] = change(x[where])
        return out

    return run


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kinds_of(family: str) -> list[tuple[str, str, int, int | None]]:
    return [one for one in COMPONENTS if family != "gpt_neox" or one[1] != "resid_mid"]


def close(found: Tensor, expected: Tensor) -> None:
    # Gemma's norms compute in float32, whatever the model's type
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["constrained", "free"])
@pytest.mark.parametrize("has_transcoders", [True, False])
def test_components_are_what_plain_hooks_give(
    family: str, mode: str, has_transcoders: bool, traced_model: Build, prompt: list[int]
) -> None:
    model = (traced_model if has_transcoders else make_model)(family, dtype=torch.float64)
    before = model.hf_model(input_ids=torch.tensor([prompt])).logits[0, -1]
    for node, kind, layer, head in kinds_of(family):
        width = seen(family, model.hf_model, prompt, kind, layer, head).shape[1]
        row = random(width)
        ways: list[tuple[dict[str, Any], Change]] = [
            ({"scale": 0.0}, torch.zeros_like),
            ({"scale": -1.5}, lambda x: -1.5 * x),
            ({"value": row}, lambda x, row=row: row.expand_as(x)),
            ({"add": row.tolist()}, lambda x, row=row: x + row),
        ]
        places = PLACES if has_transcoders else PLACES[-1:]
        for text, where in places:
            several = [[ag.Intervention(node + text, **way)] for way, _ in ways]
            for effect, (_, change) in zip(ag.intervene_many(model, prompt, several, mode=mode), ways, strict=True):
                expected = plain(family, model.hf_model, prompt, (kind, layer, head, at(where, change)))
                close(effect.logits_before, before)
                close(effect.logits_after, expected)
                # what is set at the last position alone, or before it, changes the answer
                if (kind, layer) != ("resid", N_LAYERS) or where.stop is None:
                    assert not torch.allclose(before, expected, atol=1e-3), (node, text)
                assert has_transcoders or effect.features.empty


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_and_values_are_set_where_projections_give_them(
    family: str, traced_model: Build, prompt: list[int]
) -> None:
    """Of each head its rows of the projections' weights: taking them out is a model whose weights are 0 there."""
    model = traced_model(family, dtype=torch.float64)
    for kind in ("q", "k", "v"):
        effect = ag.intervene(model, prompt, ag.Intervention(f"{kind}:1.1", scale=0.0), mode="free")
        other = traced_model(family, dtype=torch.float64).hf_model
        for parameter in _rows(family, other, kind, 1):
            parameter.data.zero_()
        expected = other(input_ids=torch.tensor([prompt])).logits[0, -1]
        close(effect.logits_after, expected)
        # keys of one query may move all its scores alike, so that nothing follows
        assert kind == "k" or not torch.allclose(expected, effect.logits_before, atol=1e-3)


def _rows(family: str, hf: nn.Module, kind: str, head: int) -> Iterator[Tensor]:
    """Weight and bias of the queries, keys or values of one head of block 1, as views of the model's."""
    part, width = "qkv".index(kind), 8 if family in ("llama", "gemma3") else D_MODEL // N_HEADS
    if family in ("llama", "gemma3"):
        module = hf.get_submodule(f"model.layers.1.self_attn.{kind}_proj")
        rows = slice(head * width, (head + 1) * width)
        yield module.weight[rows]
    elif family == "gpt2":
        module = hf.get_submodule("transformer.h.1.attn.c_attn")
        rows = slice(part * D_MODEL + head * width, part * D_MODEL + (head + 1) * width)
        yield module.weight[:, rows]
    else:
        module = hf.get_submodule("gpt_neox.layers.1.attention.query_key_value")
        rows = slice((3 * head + part) * width, (3 * head + part + 1) * width)
        yield module.weight[rows]
    if module.bias is not None:
        yield module.bias[rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_are_projected_out_clamped_and_added_to(family: str, traced_model: Build, prompt: list[int]) -> None:
    model, vector = traced_model(family, dtype=torch.float64), 3.0 * random(D_MODEL)
    unit = vector / vector.norm()
    ways: list[tuple[dict[str, Any], Change]] = [
        ({"scale": 0.0}, lambda x: x - torch.outer(x @ unit, unit)),
        ({"scale": 2.0}, lambda x: x + torch.outer(x @ unit, unit)),
        ({"value": 2.5}, lambda x: x - torch.outer(x @ unit - 2.5, unit)),
        ({"add": -4.0}, lambda x: x - 4.0 * unit),
    ]
    for layer in (0, 2, N_LAYERS):
        for pos, where in ((None, slice(None)), (-1, slice(8, 9)), (slice(3, 20), slice(3, 20))):
            for way, change in ways:
                for each in (vector, vector.numpy()):
                    one = ag.Intervention(ag.Direction(each, layer=layer, pos=pos), **way)
                    effect = ag.intervene(model, prompt, one, mode="free")
                expected = plain(family, model.hf_model, prompt, ("resid", layer, None, at(where, change)))
                close(effect.logits_after, expected)
                assert not torch.allclose(effect.logits_before, expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_means_and_other_prompts_are_what_hooks_record(family: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(family, dtype=torch.float64)
    texts, where = [OTHER, [1, 5, 40, 3]], slice(3, 7)
    for node, kind, layer, head in kinds_of(family):
        recorded = [seen(family, model.hf_model, ids, kind, layer, head) for ids in texts]
        mean = torch.cat([x[1:] for x in recorded]).mean(0)  # position 0 is BOS
        same = recorded[0]
        for setting, change in (
            ({"mean": texts}, at(where, lambda x, mean=mean: mean.expand_as(x))),
            ({"mean": OTHER}, at(where, lambda x, same=same: same[1:].mean(0).expand_as(x))),
            ({"from_prompt": OTHER}, lambda x, same=same: torch.cat([x[:3], same[3:7], x[7:]])),
        ):
            effect = ag.intervene(model, prompt, ag.Intervention(f"{node}@3:7", **setting), mode="free")  # type: ignore[arg-type]
            close(effect.logits_after, plain(family, model.hf_model, prompt, (kind, layer, head, change)))
    # a direction's coefficient
    vector = random(D_MODEL)
    unit, stream = vector / vector.norm(), seen(family, model.hf_model, OTHER, "resid", 1, None)
    for setting, now in (
        ({"mean": OTHER}, (stream @ unit)[1:].mean().expand(9)),
        ({"from_prompt": OTHER}, stream @ unit),
    ):
        effect = ag.intervene(model, prompt, ag.Intervention(ag.Direction(vector, layer=1), **setting), mode="free")  # type: ignore[arg-type]
        expected = plain(
            family,
            model.hf_model,
            prompt,
            ("resid", 1, None, lambda x, now=now: x + torch.outer(now - x @ unit, unit)),
        )
        close(effect.logits_after, expected)


@pytest.mark.parametrize("mode", ["frozen", "frozen-attention", "constrained", "free"])
def test_features_errors_and_embeddings_come_from_other_prompts_too(
    mode: str, traced_model: Build, prompt: list[int]
) -> None:
    """As `value` of what the other prompt's run is taken apart into."""
    model = traced_model("llama", dtype=torch.float64, activation="jumprelu")
    texts = [OTHER, [1, 5, 40, 3]]
    runs = [ag.intervene(model, ids, ag.Intervention("attn:0@0", scale=1.0)) for ids in texts]
    features = [run.features.set_index(["layer", "feature", "pos"])["before"] for run in runs]
    key = next(key for key in features[0].index if key[0] == 1 and key[2] == 5)
    mean = (
        sum(
            float(each.get((1, key[1], pos), 0.0))
            for each, n in zip(features, (9, 4), strict=True)
            for pos in range(1, n)
        )
        / 11
    )
    streams = [seen("llama", model.hf_model, ids, "resid", 0, None) for ids in texts]
    pairs: list[tuple[ag.Intervention, ag.Intervention]] = [
        (ag.Intervention(key, from_prompt=OTHER), ag.Intervention(key, value=float(features[0][key]))),
        (ag.Intervention((1, key[1], slice(4, 6)), mean=texts), ag.Intervention((1, key[1], slice(4, 6)), value=mean)),
        (
            ag.Intervention(f"E_{prompt[5]}_5", from_prompt=OTHER),
            ag.Intervention(f"E_{prompt[5]}_5", value=streams[0][5]),
        ),
        (
            ag.Intervention(f"E_{prompt[5]}_5", mean=texts),
            ag.Intervention(
                f"E_{prompt[5]}_5",
                add=torch.cat([x[1:] for x in streams]).mean(0)
                - model.hf_model.get_input_embeddings().weight[prompt[5]],
            ),
        ),
    ]
    for asked, expected in pairs:
        found, same = (ag.intervene(model, prompt, one, mode=mode) for one in (asked, expected))
        close(found.logits_after, same.logits_after)
        assert found.kl > 1e-9
    # an error from the same prompt is what it was; from another, not
    assert ag.intervene(model, prompt, ag.Intervention("1_-1_5", from_prompt=prompt), mode=mode).kl < 1e-12
    assert ag.intervene(model, prompt, ag.Intervention("1_-1_5", from_prompt=OTHER), mode=mode).kl > 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_several_are_set_where_they_are_computed(family: str, traced_model: Build, prompt: list[int]) -> None:
    """A multiple is one of what the changes below have made of it; held MLPs stay, unless they are set themselves."""
    model = traced_model(family, dtype=torch.float64, cross_layer=False)
    hf, row = model.hf_model, random(D_MODEL, seed=2)
    sets = [
        ag.Intervention(["head:0.1@3:", "head:0.3@2", "attn:2"], scale=-2.0),
        ag.Intervention("mlp:0@4", add=row),
        ag.Intervention(ag.Direction(row, layer=1), scale=0.0),
        ag.Intervention("mlp:2@8", scale=0.5),
    ]
    unit = row / row.norm()
    changes: list[tuple[str, int, int | None, Change]] = [
        ("head", 0, 1, at(slice(3, None), lambda x: -2 * x)),
        ("head", 0, 3, at(slice(2, 3), lambda x: -2 * x)),
        ("attn", 2, None, lambda x: -2 * x),
        ("mlp", 0, None, at(slice(4, 5), lambda x: x + row)),
        ("resid", 1, None, lambda x: x - torch.outer(x @ unit, unit)),
        ("mlp", 2, None, at(slice(8, 9), lambda x: 0.5 * x)),
    ]
    for mode in ("free", "constrained"):
        close(ag.intervene(model, prompt, sets, mode=mode).logits_after, plain(family, hf, prompt, *changes))
    held = [seen(family, hf, prompt, "mlp", layer, None) for layer in range(N_LAYERS)]
    fixed: list[tuple[str, int, int | None, Change]] = [
        ("mlp", layer, None, lambda _, out=out: out) for layer, out in enumerate(held)
    ]
    effect = ag.intervene(model, prompt, sets, mode="constrained", upto_layer=N_LAYERS - 1)
    close(effect.logits_after, plain(family, hf, prompt, *fixed, *changes))
    # with a feature of layer 1, whose write is added to the MLP's output
    weights = model.need_transcoders().layers[1]
    value = 3.0
    feature = next(f for f in range(40) if f"1_{f}_6" not in ag.trace(model, prompt).nodes.index)
    # which the changes below may have made active: it ends at its value all the same
    met = ag.intervene(model, prompt, sets, mode="free").features.query(
        "layer == 1 and feature == @feature and pos == 6"
    )
    missing = value - float(met["after"].sum())
    write = ("mlp", 1, None, at(slice(6, 7), lambda x: x + missing * weights.W_dec[feature, 0]))
    sets.append(ag.Intervention((1, feature, 6), value=value))
    close(ag.intervene(model, prompt, sets, mode="free").logits_after, plain(family, hf, prompt, *changes, write))
    write = ("mlp", 1, None, at(slice(6, 7), lambda x: x + value * weights.W_dec[feature, 0]))
    effect = ag.intervene(model, prompt, sets, mode="constrained")
    close(effect.logits_after, plain(family, hf, prompt, *fixed[:2], *changes, write))


GENERATED: list[tuple[ag.Intervention, tuple[str, int, int | None, Change]]] = [
    (ag.Intervention("head:1.2", scale=-3.0), ("head", 1, 2, lambda x: -3 * x)),
    (ag.Intervention("attn:0@4:", scale=2.0), ("attn", 0, None, at(slice(4, None), lambda x: 2 * x))),
    (ag.Intervention("mlp:2@-2:11", scale=0.0), ("mlp", 2, None, at(slice(7, 11), torch.zeros_like))),
    (
        ag.Intervention("mlp:1@10", add=random(D_MODEL)),
        ("mlp", 1, None, at(slice(10, 11), lambda x: x + random(D_MODEL))),
    ),
    (
        ag.Intervention(ag.Direction(random(D_MODEL, seed=5), layer=2), add=4.0),
        (
            "resid",
            2,
            None,
            lambda x: x + 4.0 * random(D_MODEL, seed=5) / random(D_MODEL, seed=5).norm(),
        ),
    ),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["constrained", "free"])
@pytest.mark.parametrize("has_transcoders", [True, False])
def test_text_goes_on_as_with_plain_hooks_with_a_cache_and_without(
    family: str, mode: str, has_transcoders: bool, traced_model: Build, prompt: list[int]
) -> None:
    model = (traced_model if has_transcoders else make_model)(family, dtype=torch.float64)
    for some in ([GENERATED[0]], GENERATED[1:2], GENERATED[2:4], GENERATED[4:], GENERATED):
        text = list(prompt)
        for _ in range(6):
            text.append(int(plain(family, model.hf_model, text, *(change for _, change in some)).argmax()))
        sets = [one for one, _ in some]
        for use_cache in (True, False):
            found = ag.generate(model, prompt, sets, max_new_tokens=6, mode=mode, use_cache=use_cache)
            assert found.token_ids == text[len(prompt) :]
    assert text[len(prompt) :] != ag.generate(model, prompt, max_new_tokens=6).token_ids


def test_text_goes_on_with_means_and_other_prompts(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("gpt2", dtype=torch.float64)
    recorded = seen("gpt2", model.hf_model, OTHER, "attn", 1, None)
    text = list(prompt)
    for _ in range(5):
        changes = (
            ("attn", 1, None, at(slice(5, None), lambda x: recorded[1:].mean(0).expand_as(x))),
            ("attn", 1, None, at(slice(2, 5), lambda _: recorded[2:5])),
        )
        text.append(int(plain("gpt2", model.hf_model, text, *changes).argmax()))
    sets = [ag.Intervention("attn:1@5:", mean=OTHER), ag.Intervention("attn:1@2:5", from_prompt=OTHER)]
    for use_cache in (True, False):
        assert ag.generate(model, prompt, sets, max_new_tokens=5, use_cache=use_cache).token_ids == text[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_one_after_the_other(family: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(family, dtype=torch.float64)
    several = [
        [ag.Intervention("head:0.1@4", scale=0.0)],
        [ag.Intervention("mlp:1", scale=2.0), ag.Intervention((0, 3, 4), value=3.0)],
        [ag.Intervention(ag.Direction(random(D_MODEL), layer=2), value=1.0)],
        [ag.Intervention(f"E_{prompt[3]}_3", scale=0.0)],
    ]
    for mode in ("frozen", "frozen-attention", "constrained", "free"):
        together = ag.intervene_many(model, prompt, several, mode=mode)
        for one, effect in zip(several, together, strict=True):
            close(effect.logits_after, ag.intervene(model, prompt, one, mode=mode).logits_after)
    curve = ag.dose_response(model, prompt, "head:0.1@4", scales=[0.0, 1.0])
    assert curve["kl"].tolist() == pytest.approx([together[0].kl, 0.0], abs=1e-9)


def frozen_by_hand(
    model: LanguageModel, run: FrozenRun, kind: str, layer: int, head: int | None, change: Change, *, recomputes: bool
) -> Tensor:
    """Uncapped logits of the last position, patterns and norms as recorded, and MLPs too, but for their features."""

    def seen(here: int, what: str, x: Tensor) -> Tensor:
        if (here, what) != (layer, kind):
            return x
        if head is None:
            return change(x)
        x = x.clone()
        x[:, head] = change(x[:, head])
        return x

    stream = run.embedding if run.position_embedding is None else run.embedding + run.position_embedding
    for here, block in enumerate(run.blocks):
        stream = seen(here, "resid", stream)
        heads = block.attention
        values = torch.einsum("vcd,pd->pvc", heads.W_V, block.attention_norm.apply(stream))
        values = seen(here, "v", values if heads.b_V is None else values + heads.b_V)
        shared = values[:, torch.arange(N_HEADS) * len(heads.W_V) // N_HEADS]
        mixed = seen(here, "head", torch.einsum("hqk,khc->qhc", heads.pattern, shared))
        out = torch.einsum("phc,hdc->pd", mixed, heads.W_O)
        out = out if heads.b_O is None else out + heads.b_O
        attended = out if block.attention_post_norm is None else block.attention_post_norm.apply(out)
        entered, middle = stream, stream + seen(here, "attn", attended)
        middle = seen(here, "resid_mid", middle)
        weights, written = model.need_transcoders().layers[here], block.written("hook_mlp_out").clone()

        def decoded(x: Tensor, weights: Any = weights) -> Tensor:
            return (x @ weights.W_enc.T + weights.b_enc).relu() @ weights.W_dec[:, 0]

        if recomputes:  # but at BOS
            written[1:] += (decoded(entered if block.is_parallel else middle) - decoded(block.mlp_stream))[1:]
        stream = middle + seen(here, "mlp", written)
    return run.W_U @ run.final_norm.apply(seen(N_LAYERS, "resid", stream))[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["frozen", "frozen-attention"])
def test_frozen_modes_hold_patterns_norms_and_mlps(
    family: str, mode: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, dtype=torch.float64, cross_layer=False)
    run = model.run(torch.tensor(prompt))
    how: dict[str, Any] = {"recomputes": mode == "frozen-attention"}
    before = frozen_by_hand(model, run, "", 0, None, lambda x: x, **how)
    close(before, run.uncapped_logits)
    for node, kind, layer, head in [*kinds_of(family), ("v:1.0", "v", 1, 0)]:
        width = D_MODEL if head is None else run.blocks[0].attention.W_O.shape[-1]
        for text, where in PLACES:
            for way, change in (
                ({"scale": -1.5}, lambda x: -1.5 * x),
                ({"value": random(width)}, lambda x, width=width: random(width).expand_as(x)),
                ({"add": random(width)}, lambda x, width=width: x + random(width)),
            ):
                effect = ag.intervene(model, prompt, ag.Intervention(node + text, **way), mode=mode)  # type: ignore[arg-type]
                after = frozen_by_hand(model, run, kind, layer, head, at(where, change), **how)
                close(effect.uncapped_change, after - before)
                assert (kind, layer) == ("resid", N_LAYERS) or effect.uncapped_change.abs().max() > 1e-4
    vector = random(D_MODEL)
    unit = vector / vector.norm()
    effect = ag.intervene(model, prompt, ag.Intervention(ag.Direction(vector, layer=1), scale=0.0), mode=mode)
    after = frozen_by_hand(model, run, "resid", 1, None, lambda x: x - torch.outer(x @ unit, unit), **how)
    close(effect.uncapped_change, after - before)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_frozen_mode_components_add_what_edges_of_the_graph_say(
    family: str, traced_model: Build, prompt: list[int]
) -> None:
    """A feature taken out is its write taken off what the MLP adds, and off the stream above it."""
    model = traced_model(family, dtype=torch.float64, cross_layer=False)
    graph = ag.trace(model, prompt, targets=[4, 9])
    is_logit = (graph.nodes["kind"] == "logit").to_numpy()

    def moved(one: ag.Intervention) -> Tensor:
        change = ag.intervene(model, prompt, one, mode="frozen").uncapped_change
        return (change - change.mean())[[4, 9]]

    def edges(node: str) -> Tensor:
        return torch.tensor(graph.adjacency[:, [graph.nodes.index.get_loc(node)]].toarray()[is_logit, 0]).double()

    features = graph.nodes[(graph.nodes["kind"] == "feature") & (graph.nodes["layer"] == 1)]
    for node, row in features.iloc[::9].iterrows():
        write = row["activation"] * model.need_transcoders().layers[1].W_dec[row["feature"], 0]
        for name in (f"mlp:1@{row['pos']}", f"resid:2@{row['pos']}"):
            close(moved(ag.Intervention(name, add=-write)), -edges(str(node)))
    if family != "gpt2":  # whose stream has position embeddings too
        close(moved(ag.Intervention("resid:0@5", scale=-1.0)), -2 * edges(f"E_{prompt[5]}_5"))


@pytest.mark.refusal
def test_what_cannot_be_set_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model, direction = traced_model("llama"), ag.Direction(random(D_MODEL), layer=1)
    for nodes, setting, message in (
        ("heads:1.0@8", {"scale": 0.0}, "component 'heads' is not known; expected head:LAYER.HEAD"),
        ("head:1@8", {"scale": 0.0}, "head:1@8 names no head; expected head:LAYER.HEAD, such as head:2.0@8"),
        ("attn:1.0@8", {"scale": 0.0}, "attn:1.0@8 names a head; expected attn:LAYER, such as attn:2@8"),
        ("head:1.4@8", {"scale": 0.0}, "head:1.4@8: the model has head of heads 0 to 3"),
        ("v:1.2@8", {"scale": 0.0}, "v:1.2@8: the model has v of heads 0 to 1"),
        ("head:3.0@8", {"scale": 0.0}, "head:3: the model has head of layers 0 to 2"),
        ("resid:4", {"scale": 0.0}, "resid:4: the model has resid of layers 0 to 3"),
        ("attn:1@9", {"scale": 0.0}, "attn:1@9: the text of positions 0 to 8 reaches none of these"),
        ("attn:1@12:", {"scale": 0.0}, "attn:1@12:: the text of positions 0 to 8 reaches none"),
        ("attn:1@3-5", {"scale": 0.0}, "'attn:1@3-5' is not in this prompt's graph; .* or a component: expected head:"),
        ("attn:1@3", {"value": 0.0}, "attn:1@3 is a vector of 24 numbers; .* with so many; got one number"),
        ("head:1.0@3", {"add": [1.0] * 7}, "head:1.0@3 is a vector of 8 numbers; .* got 7 numbers"),
        ("0_3_4", {"value": [1.0, 2.0]}, r"\(0, 3, 4\) \(a feature\) is one number; .* got 2 numbers"),
        (direction, {"value": [1.0, 2.0]}, "Direction.* is one number; .* got 2 numbers"),
        (ag.Direction(random(5), layer=1), {"scale": 0.0}, "has 5 numbers; the model's stream has 24"),
        (ag.Direction(random(D_MODEL), layer=7), {"scale": 0.0}, "resid:7: the model has resid of layers 0 to 3"),
        ("embedding@20:", {"scale": 0.0}, "embedding: the prompt of positions 0 to 8 reaches none of"),
        (["embedding@3", "E_33_3"], {"scale": 0.0}, "node E_33_3 is set twice"),
        (["attn:1@3:6", "attn:1@5"], {"scale": 0.0}, "attn:1@5 is set twice"),
        ([direction, direction], {"scale": 0.0}, r"Direction\(..., layer=1, pos=None\) is set twice"),
        (
            "attn:1",
            {"from_prompt": [1, 2, 3]},
            "from_prompt has 3 tokens, the prompt 9; .* a prompt of the same length",
        ),
        ("attn:1", {"mean": []}, "mean is .*; expected a text, or a list of texts"),
        ("attn:1", {"mean": [1]}, "all positions of a text are skipped"),
        ("head:1.4@8", {"mean": OTHER}, "head:1.4@8: the model has head of heads 0 to 3"),
        ("head:1.4@8", {"from_prompt": OTHER}, "head:1.4@8: the model has head of heads 0 to 3"),
        ((1, 3, 0), {"from_prompt": OTHER}, "from_prompt has no features at position 0: it is skipped there"),
    ):
        with pytest.raises(InterventionError, match=message):
            ag.intervene(model, prompt, ag.Intervention(nodes, **setting))  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="blocks of this model run attention and MLP in parallel"):
        ag.intervene(make_model("gpt_neox"), prompt, ag.Intervention("resid_mid:1", scale=0.0))
    for mode in ("frozen", "frozen-attention"):
        for node in ("q:1.0@8", "k:1.1"):
            with pytest.raises(InterventionError, match="with attention patterns frozen, nothing follows"):
                ag.intervene(model, prompt, ag.Intervention(node, scale=0.0), mode=mode)
        with pytest.raises(TranscoderError, match="transcoders"):
            ag.intervene(make_model("llama"), prompt, ag.Intervention("attn:1", scale=0.0), mode=mode)
    for node in ("0_3_4", "0_-1_4", (0, 3, slice(None))):
        with pytest.raises(TranscoderError, match="transcoders"):
            ag.intervene(make_model("llama"), prompt, ag.Intervention(node, scale=0.0))
    for setting in ({"value": 1.0, "scale": 2.0}, {"mean": OTHER, "from_prompt": OTHER}, {}):
        with pytest.raises(InterventionError, match="set by one of value, scale, add, mean and from_prompt; got"):
            ag.Intervention("attn:1", **setting)  # type: ignore[arg-type]
    for setting in ({"value": [1.0, float("nan")]}, {"add": []}, {"scale": [1.0, 2.0]}, {"value": "much"}):
        with pytest.raises(ag.AttrGraphError, match=r"expected a finite number|expected a number"):
            ag.Intervention("attn:1", **setting)  # type: ignore[arg-type]


@pytest.mark.refusal
def test_what_cannot_be_set_in_new_text_is_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    for nodes, setting, message in (
        ("attn:1", {"from_prompt": OTHER}, "attn:1: from_prompt has no tokens beyond position 8; name positions"),
        ("attn:1@50:", {"scale": 0.0}, "attn:1@50:: the text of positions 0 to 28 reaches none"),
        (["attn:1@3:", "attn:1@12"], {"scale": 0.0}, "attn:1@12 is set twice"),
        ("embedding", {"scale": 0.0}, "embedding: embeddings are set at positions of the prompt, 0 to 8"),
        ("1/-1@5:", {"scale": 0.0}, "1/-1: errors are set at positions of the prompt, 0 to 8"),
        ((1, 3, slice(5, None)), {"value": [1.0, 2.0]}, "is one number"),
    ):
        with pytest.raises(InterventionError, match=message):
            ag.generate(model, prompt, ag.Intervention(nodes, **setting))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_set_where_tokens_are_embedded(family: str, prompt: list[int]) -> None:
    model, row = make_model(family, dtype=torch.float64), random(D_MODEL)
    table = model.hf_model.get_input_embeddings()
    factor = D_MODEL**0.5 if family == "gemma3" else 1.0
    embedded = [factor * table.weight[ids] for ids in (prompt, OTHER)]
    ways: list[tuple[dict[str, Any], Tensor]] = [
        ({"scale": -1.0}, -embedded[0]),
        ({"value": row}, row.expand(9, -1)),
        ({"add": row}, embedded[0] + row),
        ({"mean": [OTHER]}, embedded[1][1:].mean(0).expand(9, -1)),
        ({"from_prompt": OTHER}, embedded[1]),
    ]
    for text, where in PLACES:
        for way, new in ways:

            def change(x: Tensor, where: slice = where, new: Tensor = new) -> Tensor:
                return x + torch.zeros_like(x).index_add(0, torch.arange(9)[where], (new - embedded[0])[where])

            effect = ag.intervene(model, prompt, ag.Intervention("embedding" + text, **way))
            close(effect.logits_after, plain(family, model.hf_model, prompt, ("resid", 0, None, change)))
    by_name = [ag.Intervention(f"E_{prompt[pos]}_{pos}", scale=-1.0) for pos in (2, 3)]
    one = ag.Intervention("embedding@2:4", scale=-1.0)
    for use_cache in (True, False):
        texts = [ag.generate(model, prompt, sets, max_new_tokens=4, use_cache=use_cache) for sets in (one, by_name)]
        assert texts[0] == texts[1]


def test_errors_at_several_positions_are_set_in_new_text(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama", dtype=torch.float64)
    several = ag.generate(model, prompt, ag.Intervention("1/-1@3:6", scale=-9.0), max_new_tokens=5)
    one_by_one = ag.Intervention(["1_-1_3", "1_-1_4", "1_-1_5"], scale=-9.0)
    assert several == ag.generate(model, prompt, one_by_one, max_new_tokens=5)
    assert several != ag.generate(model, prompt, max_new_tokens=5)


def test_a_half_precision_component_scaled_by_one_changes_nothing(
    family: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family, dtype=torch.bfloat16)
    sets = [ag.Intervention(["head:0.1", "attn:1", "mlp:2", "resid:1"], scale=1.0)]
    sets.append(ag.Intervention(ag.Direction(random(D_MODEL), layer=2), scale=1.0))
    for mode in ("frozen", "frozen-attention", "constrained", "free"):
        assert not ag.intervene(model, prompt, sets, mode=mode).uncapped_change.abs().max()
