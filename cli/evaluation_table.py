"""Evaluations as tables, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from attrgraph.evaluation import Evaluation

# measure in the JSON report, its name in the table, format
_ROWS = (
    ("nmse", "NMSE", ".4f"),
    ("l0", "L0", ".1f"),
    ("dead_fraction", "dead", ".1%"),
    ("top1_agreement", "top-1 agreement", ".3f"),
    ("kl", "KL, nats", ".4f"),
    ("ce_recovered", "CE recovered", ".4f"),
    ("graph_replacement", "graph replacement", ".3f"),
    ("graph_completeness", "graph completeness", ".3f"),
)
# where stdout is no terminal, nothing is wrapped at a terminal's width
_FILE_WIDTH = 1000


def print_tables(found: "Mapping[str, Evaluation]", *, documents: str, files: Sequence[Path]) -> None:
    """Write to stdout: what was measured on, the measures with their intervals, and by layer what has no interval."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_FILE_WIDTH)
    first = next(iter(found.values()))
    heading = f"{first.n_tokens:,} tokens in {first.n_documents:,} documents: {documents}\n"
    console.print(Text(heading), soft_wrap=True)
    console.print(_measures(found))
    console.print()
    console.print(_by_layer(found))
    for path in files:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _measures(found: "Mapping[str, Evaluation]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in found:
        table.add_column(Text(name), justify="right", overflow="fold")
    for key, label, form in _ROWS:
        table.add_row(label, *(_with_interval(evaluation, key, form) for evaluation in found.values()))
    return table


def _with_interval(evaluation: "Evaluation", key: str, form: str) -> str:
    if key.startswith("graph_"):
        value: float | None = evaluation.graphs.to_dict()[key.removeprefix("graph_")]
    else:
        value = evaluation.headline()[key]
    if value is None:
        return "-"
    ends = evaluation.intervals.get(key)
    return f"{value:{form}}" + ("" if ends is None else f" ({ends[0]:{form}} to {ends[1]:{form}})")


def _by_layer(found: "Mapping[str, Evaluation]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nlayer", justify="right")
    for name in found:
        for above, measure in ((name, "NMSE"), ("", "L0"), ("", "dead")):
            table.add_column(Text(f"{above}\n{measure}"), justify="right", overflow="fold")
    for layers in zip(*(evaluation.per_layer for evaluation in found.values()), strict=True):
        cells = [(f"{layer.nmse:.4f}", f"{layer.l0:.1f}", f"{layer.dead_fraction:.1%}") for layer in layers]
        table.add_row(str(layers[0].layer), *(cell for of_set in cells for cell in of_set))
    return table
