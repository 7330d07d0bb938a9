"""Rows of edges: into the logits, and into active features, the most influential first if not all fit."""

from bisect import bisect_right
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.sweep import EdgeSweep, ReadVectors, feature_reads, n_columns
from attrgraph.attribution.targets import LogitTargets
from attrgraph.errors import AttrGraphError
from attrgraph.kernels.influence_rows import influence_rows
from attrgraph.memory import in_words, large_empty
from attrgraph.progress import Progress

# Features expanded between two rankings when not all fit, and, if that is more, which share of those expanded so far:
# larger rounds rank less often, on older influence, and have more targets of similar positions to sweep together.
# Measured with 7,500 of 15,011 features at GPT-2's shape on two cores: 20 others than with 256 throughout, the share of
# influence left out .01676 instead of .01675, edges in 4.6 instead of 5.8 s. Fixed and recorded, so that the chosen set
# never depends on memory or chunking.
SELECTION_ROUND, SELECTION_GROWTH = 256, 0.25
# Rows looked at together, in memory that is used again: where a loop also keeps small things, the allocator may not
# reuse what is freed, and gigabytes add up.
_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class EdgeRows:
    """Edges into the chosen features and the logits.

    Columns: chosen features, errors layer by layer, token embeddings, bias. What features that were not chosen write
    is counted to the bias.
    """

    selected: Int[Tensor, " n_selected"]  # indices of active features, ascending
    features: Float[Tensor, "n_selected n_kept"]
    logits: Float[Tensor, "n_logits n_kept"]
    left_out: float  # influence-weighted share of nodes' input that comes from active features not chosen


def compute_rows(
    local: LocalReplacement,
    logits: LogitTargets,
    max_feature_nodes: int,
    report: Progress,
    *,
    memory_bytes: int,
) -> EdgeRows:
    """Edges into logits and features; if not all features fit, the most influential are expanded first, in rounds.

    Args:
        memory_bytes: what rows and sweeps may take together; the result does not depend on it.

    Raises:
        AttrGraphError: the rows alone take more.
    """
    n_active, n_logits = len(local.active), len(logits)
    n_selected = min(n_active, max_feature_nodes)
    memory_bytes -= check_memory(local, n_logits, n_selected, memory_bytes)
    rows = large_empty(local.run.embedding, n_logits + n_selected, n_columns(local)).zero_()
    # a function of its own: what the sweeps keep is free again before rows are copied
    selected = _fill(rows, EdgeSweep(local, memory_bytes=memory_bytes), local, logits, report)
    if n_selected == n_active:
        return EdgeRows(selected, rows[n_logits:], rows[:n_logits], left_out=0.0)
    left_out = _leave_out(local, logits, rows, selected)
    order = selected.argsort()
    kept = torch.cat([selected[order], torch.arange(n_active, rows.shape[1], device=rows.device)])
    rows = rows[torch.cat([order + n_logits, torch.arange(n_logits, device=rows.device)])[:, None], kept]
    return EdgeRows(selected[order], rows[:n_selected], rows[n_selected:], left_out)


def _fill(
    rows: Tensor, sweep: EdgeSweep, local: LocalReplacement, logits: LogitTargets, report: Progress
) -> Int[Tensor, " n_selected"]:
    """Write edges into the logits and then into as many features as there are rows; returns which, in their order."""
    n_active, n_logits = len(local.active), len(logits)
    n_selected, done = len(rows) - n_logits, 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        report("edges", done, len(rows))

    def fill(start: int, targets: ReadVectors) -> None:
        sweep.edges(targets, progress=advance, out=rows[start : start + len(targets)])

    fill(0, logits.reads)
    if n_selected == n_active:
        fill(n_logits, feature_reads(local))
        return torch.arange(n_active, device=rows.device)
    selected = torch.zeros(0, dtype=torch.int64, device=rows.device)
    for n_round in rounds(n_selected):
        best = most_influential(local, logits, rows, selected)[:n_round]
        fill(n_logits + len(selected), feature_reads(local, best))
        selected = torch.cat([selected, best])
    return selected


def most_influential(
    local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor
) -> Int[Tensor, " n_active"]:
    """The active features by their influence through the rows known so far; those already expanded at the end."""
    influence = _influence(local, logits, rows, selected)[0][: len(local.active)]
    influence[selected] = -1.0
    return influence.argsort(descending=True, stable=True)


def rounds(n_selected: int) -> list[int]:
    """How many features are expanded after each ranking, if not all active ones are."""
    sizes, done = list[int](), 0
    while done < n_selected:
        sizes.append(min(max(SELECTION_ROUND, int(SELECTION_GROWTH * done)), n_selected - done))
        done += sizes[-1]
    return sizes


def check_memory(local: LocalReplacement, n_logits: int, n_selected: int, memory_bytes: int) -> int:
    """What rows of edges take; raises AttrGraphError if that is more than there is.

    If not all features fit, in the end there are the rows with all columns and those with columns of chosen features.
    """
    n_active = len(local.active)

    def bytes_of(n: int) -> int:
        n_kept = 0 if n == n_active else n_columns(local) - n_active + n
        return (n_logits + n) * (n_columns(local) + n_kept) * local.run.embedding.element_size()

    n_bytes = bytes_of(n_selected)
    if n_bytes > memory_bytes:
        # all features take less than nearly all of them
        n_fitting = bisect_right(range(n_selected), memory_bytes, key=bytes_of) - 1
        fewer = f"set max_feature_nodes to {n_fitting} or less, or " if n_fitting > 0 else ""
        raise AttrGraphError(
            f"{n_logits + n_selected} rows of edges from {n_active} active features take {in_words(n_bytes)}, the "
            f"memory budget is {in_words(memory_bytes)}; {fewer}raise the budget."
        )
    return n_bytes


def _influence(local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """Of every column but the bias through the rows known so far, and the flow into these."""
    n_logits, known = len(logits), rows[: len(logits) + len(selected), :-1]
    column = torch.cat([torch.full((n_logits,), -1, device=rows.device), selected])
    level = torch.cat([logits.reads.layer, local.active.layer[selected]])
    weight = torch.cat([logits.probability, logits.probability.new_zeros(len(selected))])
    return influence_rows(known, column, level, weight)


def _leave_out(local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor) -> float:
    """Count to the bias what features that were not chosen write; returns their influence-weighted share of inputs."""
    _, flow = _influence(local, logits, rows, selected)
    n_active = len(local.active)
    unselected = rows.new_ones(n_active)
    unselected[selected] = 0.0
    shares, held = [], rows.new_empty(min(_ROWS_AT_ONCE, len(rows)), rows.shape[1] - 1)
    for some in rows.split(_ROWS_AT_ONCE):
        size = torch.abs(some[:, :-1], out=held[: len(some)])
        shares.append(size[:, :n_active] @ unselected / size.sum(1).clamp_min(torch.finfo(some.dtype).tiny))
        some[:, -1] += some[:, :n_active] @ unselected
    return float((flow * torch.cat(shares)).sum() / flow.sum())


def input_sum_gap(local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> float:
    """Largest gap between a node's summed inputs and what it reads, relative to the larger of its size and the mean.

    What a direction reads is in units of its own, and may be small beside what it sums: there that is the measure.
    """
    own_units = rows.features.new_zeros(len(rows.selected) + len(logits), dtype=torch.bool)
    own_units[len(rows.selected) :] = own_units.new_tensor(logits.are_directions)
    expected = torch.cat([local.active.activation[rows.selected], logits.value])
    gap = torch.cat([rows.features.sum(1), rows.logits.sum(1)]) - expected
    size, terms = expected.abs(), torch.cat([expected[: len(rows.selected)], rows.logits.abs().sum(1)])
    # if all that is read is exactly zero, the gap is an absolute one
    mean = float(size[~own_units].mean()) if not bool(own_units.all()) else 0.0
    size = torch.where(own_units, torch.maximum(size, terms), size.clamp_min(mean))
    return float((gap.abs() / torch.where(size > 0, size, 1.0)).max())
