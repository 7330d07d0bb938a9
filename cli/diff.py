"""`attrgraph diff`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import check_one_form, print_csv, print_files, print_json, print_table, print_text
from attrgraph.cli.writing import check_picture
from attrgraph.files import check_writable
from attrgraph.viz.text import typed, visible

_TABLES = ("nodes", "edges")


def diff(
    left: Annotated[Path, options.argument("LEFT", "A graph file.")],
    right: Annotated[Path, options.argument("RIGHT", "Another, of the same model and transcoders.")],
    align: Annotated[str, "WAY", "Positions counted from the end, from the start, or by equal tokens."] = "end",
    output: Annotated[Path | None, options.output("Both: a picture (.svg .png .pdf .dot), or .html to click.")] = None,
    top: options.Top = 10,
    as_csv: Annotated[str | None, "TABLE", "Print this table as CSV: nodes or edges.", "--csv"] = None,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Compare two graphs: what both have, and what only one.

    \b
    Example:
      attrgraph diff dallas.json chicago.json --align tokens -o both.svg
    """
    check_one_form(as_json=as_json, as_csv=as_csv)
    if as_csv not in (None, *_TABLES):
        raise typer.BadParameter(f"--csv is {as_csv!r}; expected nodes or edges.")
    files = [] if output is None else [output]
    for file in files:
        if file.suffix == ".html":
            check_writable(file, overwrite=force)
        else:
            check_picture(file, force=force)
    from attrgraph.viz.diff_dot import draw_diff

    found = ag.diff(ag.load_graph(left), ag.load_graph(right), align=align)
    for file in files:
        if file.suffix == ".html":
            found.explore(file, overwrite=force)
        else:
            draw_diff(found, file, overwrite=force)
    if as_csv is not None:
        print_csv(found.nodes.reset_index() if as_csv == "nodes" else found.edges)
        for note in found.notes:
            print(f"attrgraph: note: {visible(note)}", file=sys.stderr)
    else:
        _print(found, as_json=as_json, n_top=top, files=files)


def _print(found: "ag.Diff", *, as_json: bool, n_top: int, files: list[Path]) -> None:
    summary = found.summary()
    changed = found.nodes[found.nodes["influence_delta"] != 0].reset_index()
    changed = changed.sort_values("influence_delta", key=abs, ascending=False, kind="stable").head(n_top)
    if as_json:
        print_json({**summary, "changed": changed.to_dict("records"), "files": files})
        return
    print_text(f"answers    {typed(str(summary['left_answer']))}, {typed(str(summary['right_answer']))}")
    for name in _TABLES:
        counts = summary[name]
        print_text(
            f"{name:<10} {counts['common']} common, {counts['left']} left only, {counts['right']} right only; "
            f"Jaccard {_number(counts['jaccard'])}"
        )
    print_text(f"influence  {_number(summary['influence_overlap'])} of it in common")
    print_text(f"weights    of common edges correlate by {_number(summary['edge_correlation'])}")
    for note in summary["notes"]:
        print_text(f"note       {visible(note)}")
    print_text("\ninfluence that changed most")
    names = {"influence_left": "left", "influence_right": "right", "influence_delta": "change"}
    shown = changed[[*names, "node", "label"]].rename(columns=names)
    print_table(shown, formats={"left": ".4f", "right": ".4f", "change": "+.4f"}, empty="(none changed)")
    print_files(files)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
