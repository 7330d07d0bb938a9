"""A picture of a run's curves: error, active features, dead features and agreement against time."""

import json
from pathlib import Path
from typing import Any

from attrgraph.errors import TrainingError
from attrgraph.viz.figures import COLOURS, draw_figure


def draw_curves(metrics: str | Path, path: str | Path, *, asked_l0: float, overwrite: bool = False) -> None:
    """Draw what a `metrics.jsonl` holds as SVG, PNG or PDF.

    Args:
        metrics: the file.
        path: where to draw.
        asked_l0: shown beside the L0 that was reached.
        overwrite: replace an existing picture.

    Raises:
        TrainingError: the metrics cannot be read, or are too few to draw.
        AttrGraphError: an unknown ending, or matplotlib is not installed.
    """
    try:
        records = [json.loads(line) for line in Path(metrics).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as e:
        raise TrainingError(f"{metrics}: cannot be read as JSON lines ({type(e).__name__}).") from e
    if len(records) < 2:
        raise TrainingError(f"{metrics}: has {len(records)} records; a curve needs at least 2. Train for longer.")
    draw_figure(lambda figure: _fill(figure, records, asked_l0), path, size=(12.0, 3.2), overwrite=overwrite)


def _fill(figure: Any, records: list[dict[str, Any]], asked_l0: float) -> None:
    minutes = [record["seconds"] / 60 for record in records]
    error, active, dead, agreement = figure.subplots(1, 4)
    error.plot(minutes, [record["nmse"] for record in records], color=COLOURS[0])
    error.set(ylabel="NMSE, mean over layers", yscale="log")
    active.plot(minutes, [record["l0"] for record in records], color=COLOURS[0])
    active.axhline(asked_l0, color=COLOURS[1], linestyle="--", linewidth=1)
    active.set(ylabel=f"active a token (asked {asked_l0:g})", ylim=(0, None))
    dead.plot(minutes, [record["dead_fraction"] for record in records], color=COLOURS[0])
    dead.set(ylabel="share of dead features", ylim=(0, 1))
    watched = [
        (time, record["agreement"]) for time, record in zip(minutes, records, strict=True) if "agreement" in record
    ]
    agreement.plot(*zip(*watched, strict=True) if watched else ([], []), color=COLOURS[0], marker="o", markersize=3)
    agreement.set(ylabel="top-1 agreement, held out", ylim=(0, 1))
    for axes in (error, active, dead, agreement):
        axes.set(xlabel="minutes")
