"""Effects of patching estimated from gradients: in the run that is patched into, or between both runs."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.trace import trace
from attrgraph.errors import InterventionError
from attrgraph.interventions.patch_pair import PatchedPair
from attrgraph.interventions.patch_sites import OF_TRANSCODERS, Patches
from attrgraph.interventions.patched_runs import gradients, gradients_between, measured_together, rows_at_once
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.relevance import relevance_rules
from attrgraph.models.special import PromptOptions
from attrgraph.progress import Progress

# changes that exist at a time: chosen, not tuned
_AT_ONCE = 4096
# Of the midpoint rule: its error as a share of the measured or the total effect, whichever is larger, which the field's
# tests ask to be below 0.01; steps at first, and at most. Doubling them quarters the error where the metric is smooth.
_GAP, _FIRST_STEPS, _MOST_STEPS = 0.005, 16, 256
# of sums in the model's float32, as a share of what is added up; and so that nothing is divided by 0
_ROUNDING, _SMALLEST = 1e-5, 1e-30
# what a gradient needs of every layer, in widths of the stream; counted for a block whose MLP is four times as wide
_KEPT_STREAMS = 20


def attributed(model: LanguageModel, pair: PatchedPair, *, by_relevance: bool = False) -> list[Float[Tensor, " n"]]:
    """Each node's change times the metric's gradient in the run that is patched into, by patches.

    Args:
        by_relevance: take gradients by the rules of `models.relevance`.
    """
    if not pair.patches:
        return []
    with relevance_rules(model) if by_relevance else nullcontext():
        found = gradients(model, pair.base, {patches.site for patches in pair.patches}, pair.measure)
    return [_products(patches, found[patches.site]) for patches in pair.patches]


def integrated(
    model: LanguageModel, pair: PatchedPair, *, n_steps: int | None, memory_budget: int | str | None, progress: Progress
) -> tuple[list[Float[Tensor, " n"]], list[dict[str, Any]]]:
    """Each node's change times the mean gradient between both runs, by patches; and how complete each site's sum is.

    Effects of one site's nodes sum to the effect of patching them all, up to the error of the midpoint rule. Of models
    with experts, whose choice may jump on the way, they need not.

    Args:
        n_steps: of the rule; None for as many as bring that error below `_GAP`, at most `_MOST_STEPS`.
    """
    effects, found, cuts = dict[int, Tensor](), list[dict[str, Any]](), _cuts(pair.patches)
    n_rows = rows_at_once(model, len(pair.base.token_ids), memory_budget, n_kept=_KEPT_STREAMS)
    for done, cut in enumerate(cuts):
        several = [pair.patches[i] for i in cut]
        whole = measured_together(model, pair.base, several, pair.measure)
        steps = _FIRST_STEPS if n_steps is None else n_steps
        while True:
            products = _mean_products(model, pair, several, steps, n_rows)
            total, size = (float(sum(each.sum() for each in one)) for one in (products, [x.abs() for x in products]))
            # what cancels leaves the sum's rounding
            gap = abs(total - whole) / max(abs(whole), abs(pair.total_effect), _ROUNDING * size, _SMALLEST)
            if n_steps is not None or gap <= _GAP or steps >= _MOST_STEPS:
                break
            steps *= 2
        effects |= zip(cut, products, strict=True)
        about = {"nodes": "+".join(one.kind for one in several), "layer": several[0].layer, "n_steps": steps}
        found.append({**about, "sum": total, "measured": whole, "gap": gap})
        progress("integrate", done + 1, len(cuts))
    return [effects[i] for i in range(len(pair.patches))], found


def _mean_products(
    model: LanguageModel, pair: PatchedPair, several: Sequence[Patches], n_steps: int, n_rows: int
) -> list[Tensor]:
    """Changes of nodes of one site times the mean gradient at the middles of so many steps."""
    shares = (torch.arange(n_steps, device=pair.base.token_ids.device) + 0.5) / n_steps
    parts = (gradients_between(model, pair.base, several, pair.measure, some) for some in shares.split(n_rows))
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / n_steps
    return [_products(patches, mean) for patches in several]


def influences(
    model: LanguageModel, pair: PatchedPair, *, memory_budget: int | str | None, options: PromptOptions
) -> list[Float[Tensor, " n"]]:
    """Each node's influence in the attribution graph of the clean prompt, by patches; 0 of what is not in it.

    Raises:
        InterventionError: the metric is none that a graph explains.
        As `trace`.
    """
    targets = pair.measure.targets
    if targets is None:
        raise InterventionError(
            f"a graph explains logits, not {pair.measure.name}; give method 'graph' a LogitDifference or a "
            "LogProbability."
        )
    how: Any = {**options, "prepend": "none", "targets": targets, "memory_budget": memory_budget}
    found = trace(model, pair.clean.token_ids, **how).nodes["influence"]
    return [torch.from_numpy(found.reindex(patches.ids()).fillna(0.0).to_numpy(copy=True)) for patches in pair.patches]


def _cuts(patches: Sequence[Patches]) -> list[list[int]]:
    """Which patches are changed together: those of one kind and layer, features and errors of a layer as one."""

    def of(number: int) -> tuple[str, int]:
        one = patches[number]
        return ("of transcoders" if one.kind in OF_TRANSCODERS else one.kind), one.layer

    return [list(numbers) for _, numbers in groupby(sorted(range(len(patches)), key=of), key=of)]


@torch.no_grad()
def _products(patches: Patches, gradient: Float[Tensor, "n_pos ..."]) -> Float[Tensor, " n"]:
    """Changes times gradients, in float64."""
    index = (patches.at,) if patches.head is None else (patches.at, patches.head)
    parts = [
        (patches.vectors(some).double() * gradient[tuple(i[some] for i in index)].double()).sum(-1)
        for some in torch.arange(len(patches), device=patches.at.device).split(_AT_ONCE)
    ]
    return torch.cat(parts)
