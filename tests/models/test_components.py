"""What components compute, and what follows when something else takes their place."""

import pytest
import torch
from tiny import FAMILY_CONFIGS, MORE_FAMILIES, PROMPT, make_model
from torch import Tensor

from attrgraph.errors import InterventionError
from attrgraph.models.attention_scores import recorded_attention
from attrgraph.models.components import Site, observed, sites_of
from attrgraph.models.families import KEY, QUERY, VALUE, head_projection, output_projection
from attrgraph.models.language_model import LanguageModel

ALL = sorted(FAMILY_CONFIGS | MORE_FAMILIES)


def seen_in(model: LanguageModel) -> tuple[dict[Site, Tensor], Tensor]:
    """What every site computes on the prompt, and the logits."""
    found = dict[Site, Tensor]()
    with observed(model, sites_of(model), found.__setitem__):
        logits = model.logits(torch.tensor([PROMPT]))
    return {site: x[0] for site, x in found.items()}, logits


@pytest.mark.parametrize("name", ALL)
def test_components_add_up_to_the_streams(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    seen, logits = seen_in(model)
    is_parallel = model.family.is_parallel(model.config)
    torch.testing.assert_close(logits, model.logits(torch.tensor([PROMPT])), rtol=0, atol=0)
    for layer in range(model.n_layers):
        at = {kind: seen.get(Site(kind, layer)) for kind in ("resid", "resid_mid", "attn", "mlp")}
        assert (at["resid_mid"] is None) == is_parallel
        if not is_parallel:
            torch.testing.assert_close(at["resid_mid"], at["resid"] + at["attn"])
        torch.testing.assert_close(seen[Site("resid", layer + 1)], at["resid"] + at["attn"] + at["mlp"])
        if model.family.attention_post_norm is None:
            W_O, b_O = output_projection(model.attention_module(layer), model.family, model.config)
            out = torch.einsum("hdc,phc->pd", W_O, seen[Site("head", layer)])
            torch.testing.assert_close(at["attn"], out if b_O is None else out + b_O)


@pytest.mark.parametrize("name", ALL)
def test_queries_keys_and_values_are_what_the_projections_of_heads_give(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    seen, _ = seen_in(model)
    with recorded_attention(model, 1) as read:
        model.logits(torch.tensor([PROMPT]))
    assert read.stream is not None
    for kind, part in (("q", QUERY), ("k", KEY), ("v", VALUE)):
        W, b = head_projection(model.attention_module(1), model.family, model.config, part)
        expected = torch.einsum("hcd,pd->phc", W, read.stream)
        torch.testing.assert_close(seen[Site(kind, 1)], expected if b is None else expected + b)


@pytest.mark.parametrize("name", ALL)
def test_what_takes_a_components_place_is_what_the_run_goes_on_with(name: str) -> None:
    model = make_model(name, dtype=torch.float64)
    for site in sites_of(model):
        seen, new = dict[Site, Tensor](), dict[Site, Tensor]()

        def see(at: Site, x: Tensor, site: Site = site, seen: dict = seen, new: dict = new) -> Tensor | None:
            seen[at] = x
            if at != site:
                return None
            new[at] = x + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
            return new[at]

        with observed(model, sites_of(model), see):
            changed = model.logits(torch.tensor([PROMPT]))
        # keys of one query may move all its scores alike, so that nothing follows
        assert site.kind == "k" or not torch.allclose(changed, seen_in(model)[1])
        end, layer = seen[Site("resid", min(site.layer + 1, model.n_layers))], site.layer
        if site.kind == "resid_mid":
            torch.testing.assert_close(end, new[site] + seen[Site("mlp", layer)])
        if site.kind in ("attn", "mlp"):
            parts = {kind: new.get(Site(kind, layer), seen[Site(kind, layer)]) for kind in ("resid", "attn", "mlp")}
            torch.testing.assert_close(end, sum(parts.values()))
        if site.kind == "head" and model.family.attention_post_norm is None:
            W_O, b_O = output_projection(model.attention_module(layer), model.family, model.config)
            out = torch.einsum("hdc,phc->pd", W_O, new[site][0])
            torch.testing.assert_close(seen[Site("attn", layer)][0], out if b_O is None else out + b_O)


@pytest.mark.parametrize("name", ["gpt2", "falcon"])
def test_gradients_of_components_are_those_of_differences(name: str) -> None:
    model, generator = make_model(name, dtype=torch.float64), torch.Generator().manual_seed(0)
    read = torch.randn(model.d_vocab, generator=generator, dtype=torch.float64)
    for site in sites_of(model):

        def answer(change: Tensor | None, site: Site = site) -> tuple[Tensor, Tensor]:
            kept = list[Tensor]()

            def see(_: Site, x: Tensor) -> Tensor:
                kept.append((x if change is None else x + change).detach().requires_grad_(change is None))
                return kept[-1]

            with observed(model, [site], see):
                return model.logits(torch.tensor([PROMPT]))[0, -1] @ read, kept[0]

        value, leaf = answer(None)
        gradient = torch.autograd.grad(value, leaf)[0]
        step = 1e-6 * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        difference = (answer(step)[0] - answer(-step)[0]) / 2
        torch.testing.assert_close((gradient * step).sum(), difference, rtol=1e-4, atol=1e-12)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("site", "said"),
    [
        (Site("heads", 0), "component 'heads' is not known; expected one of resid, q, k, v, head"),
        (Site("head", 3), "head:3: the model has head of layers 0 to 2"),
        (Site("resid", 4), "resid:4: the model has resid of layers 0 to 3"),
        (Site("resid_mid", 0), "resid_mid:0: blocks of this model run attention and MLP in parallel"),
    ],
)
def test_sites_that_a_model_lacks_are_refused(site: Site, said: str) -> None:
    with pytest.raises(InterventionError, match=said), observed(make_model("gpt_neox"), [site], lambda *_: None):
        pass
