"""A picture of evaluations side by side: errors and active features by layer, and how often features are active."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attrgraph.errors import AttrGraphError
from attrgraph.evaluation.report import Evaluation
from attrgraph.evaluation.statistics import DENSITY_EDGES
from attrgraph.viz.figures import COLOURS, MARKERS, draw_figure

# told apart without colour too
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_NEVER_BELOW = 0.5  # where the histogram shows units that were never active: so far left of the rarest


def draw_evaluation(evaluations: Sequence[Evaluation], *, path: str | Path, overwrite: bool = True) -> None:
    """Draw NMSE by layer, active features by layer, and densities; SVG, PNG or PDF by the file's ending.

    The same evaluations give the same bytes, with the same matplotlib.

    Args:
        evaluations: of the same model and text, up to six.

    Raises:
        AttrGraphError: none or too many evaluations, an unknown ending, or matplotlib is not installed.
        GraphFileError: the file exists and `overwrite` is not set, or it cannot be written.
    """
    if not 1 <= len(evaluations) <= len(MARKERS):
        raise AttrGraphError(f"{len(evaluations)} evaluations cannot be drawn; expected 1 to {len(MARKERS)}.")
    draw_figure(lambda figure: _fill(figure, evaluations), path, size=(12.0, 3.6), overwrite=overwrite)


def _fill(figure: Any, evaluations: Sequence[Evaluation]) -> None:
    errors, active, densities = figure.subplots(1, 3)
    lowest = min(_rarest_bin(evaluation) for evaluation in evaluations)
    for number, evaluation in enumerate(evaluations):
        style = {"color": COLOURS[number], "linestyle": _DASHES[number], "marker": MARKERS[number], "markersize": 4}
        layers = [layer.layer for layer in evaluation.per_layer]
        errors.plot(layers, [layer.nmse for layer in evaluation.per_layer], label=evaluation.name, **style)
        active.plot(layers, evaluation.l0_by_layer, label=evaluation.name, **style)
        densities.plot(*_density(evaluation, lowest), label=evaluation.name, **style)
    errors.set(xlabel="layer", ylabel="normalised mean squared error", ylim=_from_zero(errors))
    active.set(xlabel="layer", ylabel="active a token", ylim=_from_zero(active))
    for axes in (errors, active):
        axes.xaxis.get_major_locator().set_params(integer=True)
    ticks = DENSITY_EDGES[lowest:][DENSITY_EDGES[lowest:] % 1 == 0]
    densities.set_xticks([DENSITY_EDGES[lowest] - _NEVER_BELOW, *ticks], ["never", *(f"{tick:.0f}" for tick in ticks)])
    densities.set(xlabel="log10 of the share of tokens where active", ylabel="share of all units")
    densities.set(ylim=_from_zero(densities))
    errors.legend(fontsize="small")
    first = evaluations[0]
    figure.suptitle(f"{first.model['id']}: {first.n_tokens} tokens of {first.n_documents} documents", fontsize="medium")


def _from_zero(axes: Any) -> tuple[float, float]:
    """Limits with a little room above the highest point; 0 to 1 if all are 0 or undefined."""
    highest = float(axes.dataLim.y1)
    return 0.0, 1.08 * highest if 0 < highest < np.inf else 1.0


def _rarest_bin(evaluation: Evaluation) -> int:
    """The bin of a unit that is active on one token; those below are empty."""
    return int(np.searchsorted(DENSITY_EDGES, -np.log10(evaluation.n_tokens), side="right").clip(1)) - 1


def _density(evaluation: Evaluation, lowest: int) -> tuple[np.ndarray, np.ndarray]:
    """Where to draw, and the share of all layers' units there: those never active, a gap, then bin by bin."""
    counts = np.sum([layer.density.counts for layer in evaluation.per_layer], axis=0)
    n_never = sum(layer.density.n_never for layer in evaluation.per_layer)
    centres = (DENSITY_EDGES[:-1] + DENSITY_EDGES[1:]) / 2
    shares = np.concatenate([[n_never, np.nan], counts[lowest:]]) / (n_never + counts.sum())
    return np.concatenate([[DENSITY_EDGES[lowest] - _NEVER_BELOW, np.nan], centres[lowest:]]), shares
