"""A table of results on stdout: for people, as CSV, or as one JSON value."""

import csv
import json
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

AsCsv = Annotated[bool, typer.Option("--csv", help="Print as CSV.")]


def check_one_form(*, as_json: bool, as_csv: bool) -> None:
    """Raise if stdout is to hold two forms of the same."""
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")


def print_json(values: dict[str, Any]) -> None:
    """One JSON value; what is not a finite number is null."""
    print(json.dumps(_with_nulls(values), ensure_ascii=False, allow_nan=False))


def print_csv(table: "pd.DataFrame") -> None:
    """Plain CSV with a header, numbers in full; the index is left out."""
    # the csv module quotes line feeds only, and readers take a carriage return for the end of a line too
    texts = [table[name] for name in table if table[name].dtype.kind not in "biuf"]
    has_returns = any(text.astype(str).str.contains("\r", regex=False).any() for text in texts)
    quoting = csv.QUOTE_NONNUMERIC if has_returns else csv.QUOTE_MINIMAL
    print(table.to_csv(index=False, lineterminator="\n", quoting=quoting), end="")


def print_table(table: "pd.DataFrame", *, empty: str) -> None:
    """Numbers to the right with four digits, text to the left; or a line that says that there is nothing."""
    if table.empty:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from attrgraph.viz.text import visible

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in table.columns:
        shown.add_column(name.replace("_", " "), justify="right" if table[name].dtype.kind in "if" else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(f"{value:.4g}" if isinstance(value, float) else visible(str(value))) for value in row))
    Console(highlight=False).print(shown)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nulls(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
