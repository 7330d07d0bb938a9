"""A table as HTML, for reports and notebooks."""

from typing import Any

import pandas as pd


def html_table(table: pd.DataFrame, most_rows: int, rest: str) -> str:
    """The first rows; `rest` says where the others are. Texts are escaped."""
    shown = table.head(most_rows).rename(columns=lambda name: str(name).replace("_", " "))
    with pd.option_context("display.max_colwidth", None):
        html = shown.to_html(index=False, border=0, na_rep="-", formatters=dict.fromkeys(shown.columns, _cell))
    n_more = len(table) - most_rows
    more = f"<p class=small>{n_more} more rows are in {rest}.</p>" if n_more > 0 else ""
    return f'<div class="wide">{html}</div>{more}'


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
