"""Rows of edges: into the logits, and into active features, the most influential first if not all fit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attrgraph.adjoint import ReadVectors, edge_matrix, feature_reads
from attrgraph.influence import influence_of_rows
from attrgraph.replacement import LocalReplacement
from attrgraph.targets import LogitTargets

# Features expanded between two rankings when not all fit: a larger round ranks less often, on older influence. A
# choice, not tuned; fixed and recorded, so that the chosen set never depends on memory or chunking.
SELECTION_ROUND = 256
# (phase, done, total)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EdgeRows:
    """Edges into the chosen features and the logits; columns as in `adjoint.n_columns`.

    What features that were not chosen write is in the bias column, and their own columns are zero.
    """

    selected: Int[Tensor, " n_selected"]  # indices of active features, ascending
    features: Float[Tensor, "n_selected n_columns"]
    logits: Float[Tensor, "n_logits n_columns"]
    left_out: float  # influence-weighted share of nodes' input that comes from active features not chosen


def compute_rows(
    local: LocalReplacement, logits: LogitTargets, max_feature_nodes: int, batch_size: int | None, report: Progress
) -> EdgeRows:
    """Edges into logits and features; if not all features fit, the most influential are expanded first, in rounds."""
    n_active = len(local.active)
    n_selected = min(n_active, max_feature_nodes)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        report("edges", done, n_selected + len(logits))

    def edges(targets: ReadVectors) -> Tensor:
        return edge_matrix(local, targets, batch_size=batch_size, progress=advance)

    logit_rows = edges(logits.reads)
    if n_selected == n_active:
        everything = torch.arange(n_active, device=logit_rows.device)
        return EdgeRows(everything, edges(feature_reads(local)), logit_rows, left_out=0.0)

    rows = torch.cat([logit_rows, logit_rows.new_zeros(n_selected, logit_rows.shape[1])])
    selected = torch.zeros(0, dtype=torch.int64, device=rows.device)
    while len(selected) < n_selected:
        influence = _partial_influence(local, logits, rows, selected)[:n_active]
        influence[selected.cpu().numpy()] = -1.0  # already expanded
        n_round = min(SELECTION_ROUND, n_selected - len(selected))
        best = torch.from_numpy(np.argsort(-influence, kind="stable")[:n_round].copy()).to(rows.device)
        start = len(logits) + len(selected)
        rows[start : start + n_round] = edges(feature_reads(local, best))
        selected = torch.cat([selected, best])
    unselected = torch.ones(n_active, dtype=torch.bool, device=rows.device)
    unselected[selected] = False
    left_out = _unselected_share(local, logits, rows, selected, unselected)
    rows[:, -1] += rows[:, :n_active][:, unselected].sum(1)
    rows[:, :n_active][:, unselected] = 0
    order = selected.argsort()
    return EdgeRows(selected[order], rows[len(logits) :][order], rows[: len(logits)], left_out)


def _expanded(
    local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Known rows without the bias column but with logit columns, their nodes, their layers, and weights by node."""
    n_known, n_sources = len(logits) + len(selected), rows.shape[1] - 1
    known = np.pad(rows[:n_known, :-1].cpu().numpy(), ((0, 0), (0, len(logits))))
    row_nodes = np.concatenate([n_sources + np.arange(len(logits)), selected.cpu().numpy()])
    row_layers = np.concatenate([logits.reads.layer.cpu().numpy(), local.active.layer[selected].cpu().numpy()])
    weights = np.zeros(n_sources + len(logits))
    weights[n_sources:] = logits.probability.cpu().numpy()
    return known, row_nodes, row_layers, weights


def _partial_influence(local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor) -> np.ndarray:
    """Influence of every node through the rows known so far."""
    return influence_of_rows(*_expanded(local, logits, rows, selected))


def _unselected_share(
    local: LocalReplacement, logits: LogitTargets, rows: Tensor, selected: Tensor, unselected: Tensor
) -> float:
    known, row_nodes, row_layers, weights = _expanded(local, logits, rows, selected)
    flow = (influence_of_rows(known, row_nodes, row_layers, weights) + weights)[row_nodes]
    inputs = np.abs(known)
    left_out = inputs[:, : len(unselected)][:, unselected.cpu().numpy()].sum(1)
    return float((flow * left_out / np.maximum(inputs.sum(1), np.finfo(np.float32).tiny)).sum() / flow.sum())


def input_sum_gap(local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> float:
    """Largest gap between a node's summed inputs and what it reads, relative to the larger of its size and the mean."""
    expected = torch.cat([local.active.activation[rows.selected], logits.value])
    gap = torch.cat([rows.features, rows.logits]).sum(1) - expected
    return float((gap.abs() / expected.abs().clamp_min(float(expected.abs().mean()))).max())
