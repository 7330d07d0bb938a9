"""`attrgraph diff`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrgraph.cli.options import AsJson, Force
from attrgraph.cli.writing import PICTURES, check_outputs
from attrgraph.errors import GraphFileError

if TYPE_CHECKING:
    import pandas as pd

    from attrgraph.graph.comparison import Diff

_TABLES = ("nodes", "edges")


def diff(
    left: Annotated[Path, typer.Argument(help="A graph file.")],
    right: Annotated[Path, typer.Argument(help="Another, of the same model and transcoders.")],
    align: Annotated[
        str, typer.Option(help="Which positions correspond: counted from the end, by position, or equal tokens.")
    ] = "end",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A picture of both: .dot .svg .png .pdf.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Nodes in the table of the largest changes.")] = 10,
    as_csv: Annotated[str | None, typer.Option("--csv", help="Print this table instead: nodes or edges.")] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Compare two graphs: which nodes and edges both have, and which only one.

    Example: attrgraph diff dallas.json chicago.json --align tokens -o both.svg
    """
    if as_csv is not None and (as_json or as_csv not in _TABLES):
        raise typer.BadParameter("--csv prints nodes or edges, and not together with --json.")
    if output is not None:
        if output.suffix not in (".dot", *PICTURES):
            raise GraphFileError(f"{output}: a picture is one of .dot, {', '.join(PICTURES)}.")
        check_outputs([output], profile="neuronpedia", force=force)
    from attrgraph.graph.comparison import diff as compare
    from attrgraph.graph.load_graph import load_graph
    from attrgraph.viz.diff_dot import draw_diff

    found = compare(load_graph(left), load_graph(right), align=align)
    if output is not None:
        draw_diff(found, output, overwrite=force)
    if as_csv is not None:
        table = found.nodes.reset_index() if as_csv == "nodes" else found.edges
        print(table.to_csv(index=False), end="")
        return
    _print(found, as_json=as_json, n_top=top, files=[output] if output is not None else [])


def _print(found: "Diff", *, as_json: bool, n_top: int, files: list[Path]) -> None:
    summary = found.summary()
    changed = found.nodes[found.nodes["influence_delta"] != 0].reset_index()
    changed = changed.sort_values("influence_delta", key=abs, ascending=False, kind="stable").head(n_top)
    if as_json:
        values = {**summary, "changed": _records(changed), "files": [str(path) for path in files]}
        print(json.dumps(values, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"answers    {summary['left_answer']}, {summary['right_answer']}"))
    for name in _TABLES:
        counts = summary[name]
        console.print(
            f"{name:<10} {counts['common']} common, {counts['left']} left only, {counts['right']} right only; "
            f"Jaccard {_number(counts['jaccard'])}"
        )
    console.print(f"influence  {_number(summary['influence_overlap'])} of it in common")
    console.print(f"weights    of common edges correlate by {_number(summary['edge_correlation'])}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("left", "right", "change"):
        table.add_column(name, justify="right")
    for name in ("node", "label"):
        table.add_column(name)
    for row in changed.itertuples():
        sides = ("-" if value != value else f"{value:.4f}" for value in (row.influence_left, row.influence_right))
        table.add_row(*sides, f"{row.influence_delta:+.4f}", Text(row.node), Text(row.label))
    console.print("influence that changed most")
    console.print(table if len(changed) else "(none changed)")
    for path in files:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows for JSON, which has no NaN."""
    rows = table.to_dict("records")
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
