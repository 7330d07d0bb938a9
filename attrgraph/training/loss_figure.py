"""A picture of a run's curves: error, active features, dead features and agreement against time."""

import json
from pathlib import Path
from typing import Any

from attrgraph.errors import TrainingError
from attrgraph.viz.figures import COLOURS, draw_figure


def draw_curves(metrics: str | Path, path: str | Path, *, asked_l0: float, overwrite: bool = True) -> None:
    """Draw what a `metrics.jsonl` holds as SVG, PNG or PDF.

    Args:
        metrics: the file.
        path: where to draw.
        asked_l0: shown next to the L0 that was reached.
        overwrite: False refuses a picture that exists.

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
    panels = {
        "nmse": "NMSE, mean over layers",
        "l0": f"active a token (asked {asked_l0:g})",
        "dead_fraction": "share of dead features",
        "agreement": "top-1 agreement, held out",
    }
    for axes, (name, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        known = [record for record in records if name in record]  # agreement is measured now and then
        minutes, values = [record["seconds"] / 60 for record in known], [record[name] for record in known]
        axes.plot(minutes, values, color=COLOURS[0], marker="o" if name == "agreement" else None, markersize=3)
        axes.set(xlabel="minutes", ylabel=label)
        if name == "nmse":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None if name == "l0" else 1)
        if name == "l0":
            axes.axhline(asked_l0, color=COLOURS[1], linestyle="--", linewidth=1)
