"""Reading and replacing what a model's components compute while it runs, by the names that patching uses.

Of block l, in the order in which a run computes them:

- `resid`: the stream that enters it, l = n_layers the stream that enters the final norm;
- `q`, `k`, `v`: what the projections give to each head, before norms and rotations;
- `head`: what each head mixes, which the output projection reads;
- `attn`: what attention adds to the stream, after a norm behind it;
- `resid_mid`: the stream between attention and MLP, which parallel blocks do not have;
- `mlp`: what the MLP adds to the stream, after a norm behind it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attrgraph.errors import InterventionError
from attrgraph.models.families import KEY, QUERY, VALUE
from attrgraph.models.hooks import on_input, on_output
from attrgraph.models.language_model import LanguageModel

# in the order of one block
KINDS = ("resid", "q", "k", "v", "head", "attn", "resid_mid", "mlp")
_PARTS = {"q": QUERY, "k": KEY, "v": VALUE}


@dataclass(frozen=True)
class Site:
    """One component of one block; see the module."""

    kind: str
    layer: int

    @property
    def order(self) -> tuple[int, int]:
        """Sites with a smaller one are computed before."""
        return self.layer, KINDS.index(self.kind)


# (site, [n_rows, n_pos, d_model], or of q, k, v and head [n_rows, n_pos, n_heads, d_head]) -> what takes its place, or
# None
See = Callable[[Site, Tensor], Tensor | None]


def sites_of(model: LanguageModel, kinds: Iterable[str] = KINDS) -> list[Site]:
    """The sites of these kinds that a model has, in the order of a run."""
    kinds, n = set(kinds), model.n_layers
    found = [Site(kind, layer) for layer in range(n) for kind in KINDS if kind in kinds]
    if model.family.is_parallel(model.config):
        found = [site for site in found if site.kind != "resid_mid"]
    return found + ([Site("resid", n)] if "resid" in kinds else [])


def check_site(model: LanguageModel, site: Site) -> None:
    """Raise InterventionError unless the model has the site."""
    n_layers = model.n_layers
    if site.kind not in KINDS:
        raise InterventionError(f"component {site.kind!r} is not known; expected one of {', '.join(KINDS)}.")
    if site.kind == "resid_mid" and model.family.is_parallel(model.config):
        raise InterventionError(
            f"resid_mid:{site.layer}: blocks of this model run attention and MLP in parallel, so that no stream lies "
            f"between them; take resid:{site.layer} or resid:{site.layer + 1}."
        )
    last = n_layers if site.kind == "resid" else n_layers - 1
    if not 0 <= site.layer <= last:
        raise InterventionError(f"{site.kind}:{site.layer}: the model has {site.kind} of layers 0 to {last}.")


@contextmanager
def observed(model: LanguageModel, sites: Iterable[Site], see: See) -> Iterator[None]:
    """While the context lasts, `see(site, x)` gets what each site computes, and what it returns takes its place.

    Gradients flow through. A replaced component acts on all that is computed after it.

    Raises:
        InterventionError: a site that the model does not have.
    """
    by_layer = dict[int, set[str]]()
    for site in sites:
        check_site(model, site)
        by_layer.setdefault(site.layer, set()).add(site.kind)
    with ExitStack() as stack:
        for layer in sorted(by_layer):
            _observe_layer(stack, model, layer, by_layer[layer], see)
        yield


def _observe_layer(stack: ExitStack, model: LanguageModel, layer: int, kinds: set[str], see: See) -> None:
    """Attach the hooks of one layer."""

    def at(kind: str, read: Callable[[Tensor], Tensor], write: Callable[[Tensor, Tensor], Tensor]) -> Any:
        """A hook that shows what it gets as the site has it, and puts back what takes its place."""

        def hook(_: int, x: Tensor) -> Tensor | None:
            changed = see(Site(kind, layer), read(x))
            return None if changed is None else write(x, changed)

        return hook

    same: Any = at("resid", lambda x: x, lambda _, changed: changed)
    if layer == model.n_layers:
        stack.enter_context(on_input([model.final_norm_module()], same))
        return
    if "resid" in kinds:
        stack.enter_context(on_input([model.layer_modules()[layer]], same))
    attention = model.attention_module(layer)
    for kind in kinds & _PARTS.keys():
        name = model.family.query_key_value[_PARTS[kind]]
        hook = at(kind, *_of_heads(model, _PARTS[kind]))
        stack.enter_context(on_output([attention.get_submodule(name)], hook))
    if "head" in kinds:
        n_heads = int(model.config.num_attention_heads)
        hook = at("head", lambda x: x.unflatten(-1, (n_heads, -1)), lambda _, changed: changed.flatten(-2))
        stack.enter_context(on_input([attention.get_submodule(model.family.attention_out)], hook))
    factor = model.family.residual_scale(model.config)
    added = (lambda x: factor * x, lambda _, changed: changed / factor)
    if "attn" in kinds:
        stack.enter_context(on_output([model.attention_end_module(layer)], at("attn", *added)))
    if "resid_mid" in kinds:
        _observe_middle(stack, model, layer, see)
    if "mlp" in kinds:
        stack.enter_context(on_output([model.mlp_module(layer)], at("mlp", *added)))


def _observe_middle(stack: ExitStack, model: LanguageModel, layer: int, see: See) -> None:
    """The stream between attention and MLP: what passes by the MLP can only be changed where attention adds to it."""
    factor, entered = model.family.residual_scale(model.config), list[Tensor]()

    def enter(_: int, stream: Tensor) -> None:
        entered[:] = [stream]

    def middle(_: int, out: Tensor) -> Tensor | None:
        changed = see(Site("resid_mid", layer), entered[0] + factor * out)
        return None if changed is None else (changed - entered[0]) / factor

    # called after the hooks of resid and of attn, which were attached before
    stack.enter_context(on_input([model.layer_modules()[layer]], enter))
    stack.enter_context(on_output([model.attention_end_module(layer)], middle))


def _of_heads(model: LanguageModel, part: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """To take queries, keys or values of all heads out of what a projection gives, and to put them back."""

    def places(x: Tensor) -> Tensor:  # [n_heads, d_head], wherever one module's outputs have them
        return model.family.split_heads(torch.arange(x.shape[-1], device=x.device), part, model.config)

    def put(x: Tensor, changed: Tensor) -> Tensor:
        return x.index_copy(-1, places(x).flatten(), changed.flatten(-2).to(x))

    return lambda x: x[..., places(x)], put
