"""Components of a run that are set: what takes the place of what they compute, row by row of a batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.direction import Direction
from attrgraph.models.components import Site, observed
from attrgraph.models.frozen import widened
from attrgraph.models.language_model import LanguageModel

# from what a component computes at some positions to what takes its place; both in at least float32
Change = Callable[[Float[Tensor, "n width"]], Float[Tensor, "n width"]]


@dataclass(frozen=True, eq=False)
class ComponentChange:
    """How one component is changed where it is computed, so that of what is changed before it sees the effect."""

    site: Site
    head: int | None  # of q, k, v and head
    positions: range  # of the text, tokens to come included
    change: Change


def along(direction: Direction, activation: Callable[[Tensor], Tensor]) -> Change:
    """To set the coefficient of a direction's unit vector to what `activation` makes of it; all else stays."""
    unit = unit_of(direction)

    def change(stream: Tensor) -> Tensor:
        here = unit.to(stream)
        now: Tensor = stream @ here
        return stream + torch.outer(activation(now) - now, here)

    return change


def unit_of(direction: Direction) -> Float[Tensor, " d_model"]:
    """The direction at length 1, on the CPU."""
    vector = torch.as_tensor(direction.vector).detach().double().cpu()
    unit: Tensor = vector / vector.norm()
    return unit


def apply_changes(site: Site, x: Tensor, rows: Sequence[Iterable[ComponentChange]], start: int = 0) -> Tensor | None:
    """For `observed`: what a site computes with the changes of each row of the batch made, in their order.

    Args:
        site: which.
        x: what it computes; see `models.components`.
        rows: the changes of each row.
        start: the text's position that `x` begins with.
    """
    out: Tensor | None = None
    for row, changes in enumerate(rows):
        for one in changes:
            here = [pos - start for pos in one.positions if start <= pos < start + x.shape[1]]
            if one.site != site or not here:
                continue
            out = x.clone() if out is None else out
            at = (row, here) if one.head is None else (row, here, one.head)
            out[at] = one.change(widened(out[at])).to(out)
    return out


@torch.no_grad()
def recorded(model: LanguageModel, token_ids: Tensor, sites: Iterable[Site]) -> dict[Site, Tensor]:
    """What components compute in the unchanged run of one prompt, in at least float32: [n_pos, ...]."""
    seen, sites = dict[Site, Tensor](), set(sites)
    with observed(model, sites, lambda site, x: seen.__setitem__(site, widened(x[0]))):
        if sites:
            model.logits(token_ids[None], logits_to_keep=1)
    return seen
