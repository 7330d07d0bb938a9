"""The figures of a validation report, as SVG."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrgraph.viz.figures import COLOURS, MARKERS, figure_bytes

if TYPE_CHECKING:
    from attrgraph.validation.result import Validation


def draw_all(validation: "Validation") -> dict[str, bytes]:
    """SVG by title."""
    tables = validation.tables
    drawings: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
        "Predicted and measured effects on the answer, a point a node": (
            lambda figure: _scatter(figure, tables["nodes"], validation.settings["modes"]),
            (3.1 * len(validation.settings["modes"]), 3.2),
        ),
        "What features read: agreement by depth": (lambda figure: _by_depth(figure, tables["by_depth"]), (8.0, 3.0)),
        "Necessity and sufficiency": (
            lambda figure: _sets(figure, tables["necessity"], tables["sufficiency"], validation.settings["mode"]),
            (8.0, 3.0),
        ),
        "Doses": (lambda figure: _doses(figure, tables["doses"]), (11.0, 5.2)),
        "Rankings, and errors by layer": (
            lambda figure: _bars(figure, tables["rankings"], tables["error_share"]),
            (8.0, 2.8),
        ),
    }
    with warnings.catch_warnings():
        # in SVG text stays text: browsers have the letters that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return {title: figure_bytes(draw, "svg", size=size) for title, (draw, size) in drawings.items()}


def _scatter(figure: Any, nodes: pd.DataFrame, modes: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(nodes["kind"]))
    for axes, mode in zip(np.atleast_1d(figure.subplots(1, len(modes))), modes, strict=True):
        x, y = nodes[f"predicted_{mode}"], nodes[f"measured_{mode}"]
        ends = [min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 0.0)]
        axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
        for number, kind in enumerate(kinds):
            at = nodes["kind"] == kind
            axes.scatter(x[at], y[at], s=12, color=COLOURS[number], marker=MARKERS[number], label=kind, alpha=0.7)
        axes.set(title=mode, xlabel="predicted change of the logit")
    figure.axes[0].set_ylabel("measured")
    figure.axes[0].legend(fontsize="small")


def _by_depth(figure: Any, table: pd.DataFrame) -> None:
    cosine, error = figure.subplots(1, 2)
    for number, (mode, rows) in enumerate(table.groupby("mode", sort=False)):
        for axes, name in ((cosine, "cosine"), (error, "normalised_error")):
            values = rows[[name, f"{name}_low", f"{name}_high"]].astype(float)
            style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
            axes.plot(rows["depth"], values[name], label=mode, **style)
            axes.fill_between(rows["depth"], *values.iloc[:, 1:].to_numpy().T, color=COLOURS[number], alpha=0.15, lw=0)
    cosine.set(xlabel="layers above", ylabel="cosine")
    error.set(xlabel="layers above", ylabel="normalised error", ylim=(0, min(2.0, 1.1 * error.dataLim.y1 + 0.05)))
    for axes in (cosine, error):
        axes.xaxis.get_major_locator().set_params(integer=True)
    cosine.legend(fontsize="small")


def _sets(figure: Any, necessity: pd.DataFrame, sufficiency: pd.DataFrame, mode: str) -> None:
    necessity = necessity[necessity["mode"] == mode]
    titles = ("taken out", "kept, all others taken out")
    for axes, table, title in zip(figure.subplots(1, 2), (necessity, sufficiency), titles, strict=True):
        axes.plot(table["k"], table["probability"], color=COLOURS[0], marker="o", label="most influential")
        axes.plot(
            table["k"], table["control_probability"], color="0.5", marker="s", linestyle="--", label="random, mean"
        )
        axes.set(xscale="log", xlabel=f"features {title}", ylabel="probability of the answer", ylim=(-0.02, 1.02))
        axes.set_xticks(table["k"], [str(k) for k in table["k"]], minor=False)
        axes.minorticks_off()
    figure.axes[0].legend(fontsize="small")


def _doses(figure: Any, table: pd.DataFrame) -> None:
    groups = list(table.groupby("nodes", sort=False))
    n_columns = min(4, len(groups))
    grid = np.atleast_1d(figure.subplots(-(-len(groups) // n_columns), n_columns)).ravel()
    for axes in grid[len(groups) :]:
        axes.remove()
    for axes, (name, rows) in zip(grid, groups, strict=False):
        axes.plot(rows["scale"], rows["predicted"], color="0.5", linestyle="--", label="predicted")
        axes.plot(rows["scale"], rows["measured"], color=COLOURS[0], marker="o", markersize=3, label="measured")
        axes.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        # XML has no control characters, and a dollar would begin a formula
        title = "".join(c if c.isprintable() else " " for c in str(name)).replace("$", r"\$")
        axes.set_title(title, fontsize="small")
        axes.set(xlabel="times its activation", ylabel="change of the logit")
    grid[0].legend(fontsize="small")


def _bars(figure: Any, rankings: pd.DataFrame, errors: pd.DataFrame) -> None:
    left, right = figure.subplots(1, 2)
    values = rankings[["spearman", "spearman_low", "spearman_high"]].astype(float).fillna(0.0)
    around = [values["spearman"] - values["spearman_low"], values["spearman_high"] - values["spearman"]]
    left.barh(rankings["ranking"], values["spearman"], xerr=np.clip(around, 0, None), color=COLOURS[0], ecolor="0.3")
    left.invert_yaxis()
    left.set(xlabel="Spearman correlation with the effect")
    right.bar(errors["layer"], errors["share"], color=COLOURS[1])
    right.set(xlabel="layer", ylabel="errors' share of influence")
    right.xaxis.get_major_locator().set_params(integer=True)
