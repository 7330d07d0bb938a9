"""Gradients by the rules of relevance propagation: what a run computes stays, what flows back is less bent.

- norms: their scales are held, as in attribution graphs;
- attention: patterns are held;
- activation functions: the secant through 0, f(z) / z, takes the place of the slope f'(z);
- gates: of a product each factor gets half.

Without biases, every stream times its gradient then sums to a logit. Soft-capping of logits keeps its slope.

Source: Jafari et al. 2025, "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching",
arxiv.org/abs/2508.21258
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attrgraph.errors import UnsupportedModelError
from attrgraph.models.components import observed, sites_of
from attrgraph.models.hooks import on_call, on_input
from attrgraph.models.language_model import LanguageModel

# whose classes are activation functions
_ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
# of |z|: below, a secant would divide rounding by rounding
_SMALLEST = 1e-6


@contextmanager
def relevance_rules(model: LanguageModel) -> Iterator[None]:
    """While the context lasts, gradients through a run of one row are those of the rules.

    Raises:
        UnsupportedModelError: the MLPs are experts, or their activation function is no module.
    """
    layers = range(model.n_layers)
    if model.family.mlp_out is None:
        raise UnsupportedModelError(f"{model.family.name} has experts, for which relp has no rule; take 'attribution'.")
    ends = [model.mlp_out_module(layer) for layer in layers]
    activations = [_activation(model, layer) for layer in layers]
    norms, activated = _norms(model), dict[int, Tensor]()

    def hold_scale(index: int, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        x = args[0] if args else kwargs["hidden_states"]
        rows = x.flatten(0, -2)
        return _with_gradient_of(model.frozen_norm(norms[index], rows.detach()).apply(rows).view_as(x), out)

    def take_secant(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        z = args[0] if args else next(iter(kwargs.values()))
        is_small = z.abs() < _SMALLEST
        secant = (out / z.masked_fill(is_small, 1.0)).detach() * z
        activated[layer] = _with_gradient_of(torch.where(is_small, out, secant), out)
        return activated[layer]

    def halve(layer: int, h: Tensor) -> Tensor | None:
        # what is not the activation function's output is that times a gate
        is_gated = not torch.equal(h.flatten(), activated[layer].flatten())
        return (h + h.detach()) / 2 if is_gated else None

    with (
        observed(model, sites_of(model, ("q", "k")), lambda _, x: x.detach()),
        on_call(norms, hold_scale),
        on_call(activations, take_secant),
        on_input(ends, halve),
    ):
        yield


def _with_gradient_of(x: Tensor, value: Tensor) -> Tensor:
    """What has this value, and the gradient of `x`."""
    return x.to(value) + (value - x.to(value)).detach()


def _norms(model: LanguageModel) -> list[nn.Module]:
    """All norms that the stream, or what is added to it, goes through, each once."""
    family = model.family
    names = (family.attention_norm, family.attention_post_norm, family.mlp_norm, family.mlp_post_norm)
    blocks = model.layer_modules()
    found = [block.get_submodule(name) for block in blocks for name in names if name is not None]
    return list(dict.fromkeys([*found, model.final_norm_module()]))


def _activation(model: LanguageModel, layer: int) -> nn.Module:
    """The MLP's activation function."""
    modules = model.layer_modules()[layer].modules()
    found = [module for module in modules if type(module).__module__ in _ACTIVATIONS]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"layer {layer} has {len(found)} activation functions that are modules, where one is expected, so that "
            "relp has no rule for it; take 'attribution'."
        )
    return found[0]
