"""Heat maps of patching: layers by heads, and layers by positions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrgraph.errors import AttrGraphError
from attrgraph.viz.figures import draw_figure
from attrgraph.viz.text import typed

# Of the largest effect of a panel: below, a negative cell has no dash, as all dashes would hide what matters; above, a
# cell is so dark that its dash is white.
_SHOWN_SIGN, _DARK = 0.02, 0.6
_PANEL_WIDTH, _PANEL_HEIGHT, _IN_A_ROW = 4.6, 3.4, 3


def draw_patch(table: pd.DataFrame, path: str | Path, *, overwrite: bool = True) -> None:
    """Draw a table of `patch`; SVG, PNG or PDF by the file's ending.

    A panel a kind of nodes, layers upwards and positions rightwards; of heads also one with heads rightwards. A cell is
    the sum of its rows' effects: of all features of a layer at a position, of a head at all positions. Colours are
    symmetric about 0; what is below 0 and not small has a dash.

    Args:
        table: what `patch` returned, whole or with fewer rows.

    Raises:
        AttrGraphError: a table without rows, an unknown ending, or matplotlib is not installed.
        GraphFileError: the file exists and `overwrite` is not set, or it cannot be written.
    """
    if table.empty:
        raise AttrGraphError("a table without rows cannot be drawn.")
    panels = list[tuple[str, str]]()
    for kind in table["kind"].unique():
        panels += [(kind, "head"), (kind, "pos")] if (table.loc[table["kind"] == kind, "head"] >= 0).any() else []
        panels += [] if (kind, "pos") in panels else [(kind, "pos")]
    n_columns = min(_IN_A_ROW, len(panels))
    n_rows = -(-len(panels) // n_columns)

    def fill(figure: Any) -> None:
        axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
        for (kind, across), each in zip(panels, axes, strict=False):
            _panel(figure, each, table, kind, across)
        for each in axes[len(panels) :]:
            each.remove()
        about = table.attrs
        parts = [about.get("metric", "mean effect"), about.get("direction"), about.get("method")]
        figure.suptitle(", ".join(str(part) for part in parts if part).replace("$", r"\$"), fontsize="medium")

    size = (_PANEL_WIDTH * n_columns, _PANEL_HEIGHT * n_rows)
    draw_figure(fill, path, size=size, overwrite=overwrite)


def _panel(figure: Any, axes: Any, table: pd.DataFrame, kind: str, across: str) -> None:
    rows = table[table["kind"] == kind]
    by_name = across == "pos" and (rows["pos"] < 0).any()  # positions that differ between pairs have names only
    columns = rows["node"].str.rpartition("@")[2] if by_name else rows[across]
    cells = rows.groupby(["layer", columns], sort=not by_name)["effect"].sum().unstack(fill_value=0.0).sort_index()
    values = cells.to_numpy()
    most = float(np.abs(values).max()) or 1.0
    image = axes.imshow(
        values, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest"
    )
    for y, x in np.argwhere(values < -_SHOWN_SIGN * most):
        colour = "white" if values[y, x] < -_DARK * most else "black"
        axes.text(x, y, "\N{EN DASH}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes)
    names = [str(column) for column in cells.columns]
    tokens = table.attrs.get("clean_tokens")
    if across == "pos" and tokens and not by_name:
        names = [f"{typed(tokens[int(pos)])} {pos}" for pos in cells.columns]
    _ticks(axes.xaxis, [name.replace("$", r"\$") for name in names], most=24 if across == "pos" else 16)
    _ticks(axes.yaxis, ["" if layer < 0 else str(layer) for layer in cells.index], most=16)
    if across == "pos":
        axes.tick_params(axis="x", labelrotation=90, labelsize="small")
    summed = {"head": ", sum over positions", "pos": ", sum over heads"}[across] if rows["head"].max() >= 0 else ""
    axes.set(
        title=f"{kind}{summed}",
        ylabel="layer" if cells.index.max() >= 0 else "",
        xlabel="head" if across == "head" else "",
    )


def _ticks(axis: Any, names: list[str], *, most: int) -> None:
    """Names of rows or columns; of many only some."""
    step = -(-len(names) // most)
    axis.set_ticks(range(0, len(names), step), names[::step])
