"""Results on stdout: for people as text and tables, for programs as JSON or CSV."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from attrgraph.files import plain
from attrgraph.viz.text import visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

# where stdout is no terminal, or a terminal too narrow for a table, nothing is wrapped or cut at a terminal's width
_FILE_WIDTH, _NARROWEST = 1000, 40
# with what ends a colour
_TRAILING_BLANKS = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


def check_one_form(*, as_json: bool, as_csv: object) -> None:
    """Raise if stdout is to hold two forms of the same."""
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")


def print_json(values: Any) -> None:
    """One JSON value on one line; what is not a finite number is null, and a path is text."""
    text = json.dumps(plain(values), ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))  # JSON has escapes of its own
    print(text, flush=True)


def tell(message: str) -> None:
    """One line on stderr, whatever the message quotes."""
    print(visible(message), file=sys.stderr, flush=True)


def print_csv(table: "pd.DataFrame") -> None:
    """Plain CSV with a header, numbers in full, no text that a spreadsheet would compute; the index is left out."""
    from attrgraph.io.safe_text import for_spreadsheets

    print(for_spreadsheets(table).to_csv(index=False, lineterminator="\n"), end="")


def print_text(text: "str | Text") -> None:
    """Text that may hold anything, in one piece however wide the terminal is."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(text, soft_wrap=True)


def print_files(files: Iterable[Path | str]) -> None:
    """A line for each file that was written."""
    for file in files:
        print_text(f"wrote {visible(str(file))}")


def print_table(
    table: "pd.DataFrame", *, formats: Mapping[str, str] | None = None, right: bool = False, empty: str = "(none)"
) -> None:
    """Text to the left, numbers to the right; a line instead if there is no row.

    Args:
        table: its columns; the index is left out.
        formats: of numbers, by column; by default four digits. What is no number is a dash.
        right: text to the right, too.
        empty: what to print instead of a table without rows.
    """
    if table.empty:
        print_text(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal or console.width < _NARROWEST:
        console = Console(highlight=False, width=_FILE_WIDTH)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in table.columns:
        is_number = table[name].dtype.kind in "iuf"
        heading = Text(str(name).replace("_", " "))
        shown.add_column(heading, justify="right" if is_number or right else "left", overflow="fold")

    def cell(name: str, value: Any) -> Text:
        if isinstance(value, float):
            return Text(format(value, (formats or {}).get(name, ".4g")) if isfinite(value) else "-")
        return Text("\n".join(visible(line) for line in str(value).split("\n")) if right else visible(str(value)))

    for row in table.itertuples(index=False):
        shown.add_row(*(cell(name, value) for name, value in zip(table.columns, row, strict=True)))
    with console.capture() as lines:
        console.print(shown)
    print(_TRAILING_BLANKS.sub(r"\1", lines.get()), end="")
