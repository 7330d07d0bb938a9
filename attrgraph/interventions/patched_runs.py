"""What a metric is when nodes are patched, each in a run of its own; and its gradient at what components compute."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.errors import InterventionError
from attrgraph.interventions.answer_metrics import Measure
from attrgraph.interventions.patch_sites import Patches, Recorded, observed_sites
from attrgraph.memory import budget_bytes
from attrgraph.models.components import Site
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress, silent

# What the rows of a batch take at most, if the memory budget allows it: chosen, not tuned.
_BATCH_BYTES = 2**28
# of a row: streams of a block and its MLP's neurons, in widths of the stream, and copies of the logits, one in float64
_BLOCK_STREAMS, _LOGIT_COPIES = 20, 5


class _Part(NamedTuple):
    """Some nodes of a batch, each in a row of its own."""

    first: int  # row
    patches: Patches
    some: Tensor


def rows_at_once(model: LanguageModel, n_pos: int, memory_budget: int | str | None, *, n_kept: int = 0) -> int:
    """How many runs go through together.

    Args:
        model: that runs.
        n_pos: tokens of the prompt.
        memory_budget: bytes, or text such as "8G"; by default half of what is free.
        n_kept: streams that are kept of every layer, as gradients need them.
    """
    memory = min(_BATCH_BYTES, budget_bytes(memory_budget, model.device))
    n_patterns = 3 * int(model.config.num_attention_heads) * n_pos**2 * max(1, model.n_layers * (n_kept > 0))
    n_streams = _BLOCK_STREAMS + n_kept * model.n_layers
    n_entries = n_patterns + n_streams * n_pos * model.d_model + _LOGIT_COPIES * model.d_vocab
    return max(1, memory // (4 * n_entries))


@torch.no_grad()
def measured(
    model: LanguageModel,
    base: Recorded,
    several: Sequence[Patches],
    measure: Measure,
    *,
    wanted: Sequence[Bool[Tensor, " _"]] | None = None,
    n_rows: int = 1,
    progress: Progress = silent,
) -> list[Float[Tensor, " n"]]:
    """The metric with each node patched alone minus the metric without, by patches; 0 where nothing changes.

    Args:
        model: that runs.
        base: the run that is patched into.
        several: the nodes.
        measure: the metric.
        wanted: which of the nodes, by patches; others are NaN. Default: all.
        n_rows: runs of a batch.
        progress: told how many runs are done.
    """
    unpatched = measure.of(base.logits[None])[0]
    if not several:
        return []
    effects = [unpatched.new_zeros(len(patches)) for patches in several]
    todo = list[tuple[int, Tensor]]()
    for number, patches in enumerate(several):
        is_run = patches.is_changed
        if wanted is not None:
            effects[number][~wanted[number]] = torch.nan
            is_run = is_run & wanted[number]
        todo.append((number, is_run.nonzero()[:, 0]))
    # by layer, so that few sites of a batch are observed
    todo.sort(key=lambda one: several[one[0]].layer)
    numbers = torch.cat([torch.full_like(some, number) for number, some in todo])
    rows = torch.cat([some for _, some in todo])
    for start in range(0, len(rows), n_rows):
        of_batch, some = numbers[start : start + n_rows], rows[start : start + n_rows]
        parts, first = list[_Part](), 0
        for number, count in zip(*of_batch.unique_consecutive(return_counts=True), strict=True):
            parts.append(_Part(first, several[int(number)], some[first : first + int(count)]))
            first += int(count)
        found = measure.of(_patched_logits(model, base, parts, first)) - unpatched
        for part, number in zip(parts, of_batch.unique_consecutive().tolist(), strict=True):
            effects[number][part.some] = found[part.first : part.first + len(part.some)]
        progress("patch", start + first, len(rows))
    return effects


def _patched_logits(model: LanguageModel, base: Recorded, parts: Sequence[_Part], n_rows: int) -> Tensor:
    """Logits of runs in each of which one node is patched."""

    def see(site: Site, x: Tensor) -> Tensor:
        x = x.clone()
        for first, patches, some in parts:
            if patches.site == site:
                patches.add_to(x, torch.arange(first, first + len(some), device=x.device), some)
        return x

    with observed_sites(model, {part.patches.site for part in parts}, see):
        return model.logits(base.token_ids.expand(n_rows, -1), logits_to_keep=1)[:, -1]


@torch.no_grad()
def measured_together(model: LanguageModel, base: Recorded, several: Sequence[Patches], measure: Measure) -> float:
    """The metric with all nodes of one site patched together, minus the metric without."""
    logits = _shared_logits(model, base, several, torch.ones(1))
    return float(measure.of(logits)[0] - measure.of(base.logits[None])[0])


def gradients(
    model: LanguageModel, base: Recorded, sites: Iterable[Site], measure: Measure
) -> dict[Site, Float[Tensor, "n_pos ..."]]:
    """The metric's gradient at what each site computes, in the run that is patched into: one pass forward, one back.

    Raises:
        InterventionError: the metric has no gradient.
    """
    seen = dict[Site, Tensor]()

    def see(site: Site, x: Tensor) -> Tensor:
        seen[site] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site]

    with torch.inference_mode(False), torch.enable_grad(), observed_sites(model, sites, see):
        logits = model.logits(base.token_ids[None], logits_to_keep=1)[:, -1]
        found = _gradients(measure, logits, list(seen.values()))
    return {site: gradient[0] for site, gradient in zip(seen, found, strict=True)}


def gradients_between(
    model: LanguageModel,
    base: Recorded,
    several: Sequence[Patches],
    measure: Measure,
    shares: Float[Tensor, " n_steps"],
) -> Float[Tensor, "n_steps n_pos ..."]:
    """The metric's gradient at one site, where shares of all its nodes' changes are added together.

    Raises:
        InterventionError: the metric has no gradient.
    """
    leaves = list[Tensor]()
    with torch.inference_mode(False), torch.enable_grad():
        logits = _shared_logits(model, base, several, shares, leaves)
        return _gradients(measure, logits, leaves)[0]


def _shared_logits(
    model: LanguageModel,
    base: Recorded,
    several: Sequence[Patches],
    shares: Tensor,
    leaves: list[Tensor] | None = None,
) -> Tensor:
    """Logits of runs to which shares of all changes at one site are added; what is changed is kept as a leaf."""

    def see(_: Site, x: Tensor) -> Tensor:
        x = x.detach().clone()
        for patches in several:
            _add_shares(x, patches, shares)
        if leaves is not None:
            leaves.append(x.requires_grad_())
        return x

    with observed_sites(model, {several[0].site}, see):
        return model.logits(base.token_ids.expand(len(shares), -1), logits_to_keep=1)[:, -1]


@torch.no_grad()
def _add_shares(x: Tensor, patches: Patches, shares: Tensor) -> None:
    """Add to each row its share of all changes, of which several may be at one position."""
    total = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
    index = (patches.at,) if patches.head is None else (patches.at, patches.head)
    every = torch.arange(len(patches), device=x.device)
    for some in every.split(4096):
        total.index_put_(tuple(i[some] for i in index), patches.vectors(some).to(total), accumulate=True)
    x += shares.to(total).view(-1, *[1] * total.ndim) * total


def _gradients(measure: Measure, logits: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    value = measure.of(logits).sum()
    if not value.requires_grad:
        raise InterventionError(
            f"metric {measure.name} has no gradient, which estimates need; compute it with torch alone, or patch with "
            "method='exact'."
        )
    return list(torch.autograd.grad(value, leaves))
