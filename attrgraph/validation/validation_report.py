"""A validation as JSON, or as one HTML file that opens offline: no scripts, no links to elsewhere, figures embedded."""

import json
from base64 import b64encode
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from attrgraph.errors import AttrGraphError
from attrgraph.files import write_whole
from attrgraph.validation.report_figures import draw_all
from attrgraph.viz.figures import check_matplotlib
from attrgraph.viz.html_table import html_table

if TYPE_CHECKING:
    from attrgraph.validation.result import Validation

FORMATS = (".html", ".json")

# tables in the order in which they are shown
HEADINGS = {
    "agreement": "Agreement of predicted with measured changes",
    "by_depth": "Agreement on what features read, by layers above",
    "rankings": "Ways to rank features, against the effect of taking each out",
    "control": "The same of a dictionary whose decoder rows are exchanged",
    "necessity": "The top k features taken out",
    "sufficiency": "All but the top k features taken out",
    "doses": "Doses",
    "paths": "The strongest paths, followed one by one",
    "supernodes": "Supernodes",
    "nodes": "Nodes, one by one",
    "error_share": "Errors' share of influence by layer",
    "stability": "The pruned graph at other thresholds",
    "paraphrases": "Paraphrases",
    "compared": "Other transcoders",
}
# rows of a table that are shown; the JSON report has all of them
_MOST_ROWS = 60
_PAGE = Path(__file__).parent / "report.html"


def save(validation: "Validation", path: str | Path, *, overwrite: bool = True) -> None:
    """Write the report: one `.html` file with figures that opens offline (needs matplotlib), or `.json`.

    Raises:
        AttrGraphError: another ending, or no matplotlib for `.html`.
        GraphFileError: the file exists and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    check_report(path)
    if path.suffix == ".html":
        text = to_html(validation)
    else:
        text = json.dumps(validation.to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)


def check_report(path: Path) -> None:
    """Raise AttrGraphError unless a report can be written there: an unknown ending, or no matplotlib for figures."""
    if path.suffix not in FORMATS:
        raise AttrGraphError(f"{path}: unknown ending {path.suffix!r}; a report is written as {' or '.join(FORMATS)}.")
    if path.suffix == ".html":
        check_matplotlib()


def to_html(validation: "Validation") -> str:
    """The page. The same validation gives the same text, with the same matplotlib."""
    facts, answer = validation.facts, escape(str(validation.facts["answer"]))
    prompt = escape(" ".join(validation.graph.prompt_tokens))
    title = f"{prompt} → <b>{answer}</b> {facts['probability']:.3f}"
    verdict = "\n".join(
        f'<li class="{line.level}"><span class="level">{line.level}</span> {escape(line.text)}</li>'
        for line in validation.verdict
    )
    figures = "\n".join(_figure(escape(name), svg) for name, svg in draw_all(validation).items())
    tables = _tables(validation)
    parts = {"title": title, "verdict": verdict, "figures": figures, "tables": tables}
    parts |= {"mode": validation.settings["mode"], "provenance": escape(_provenance(validation))}
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(parts)


def _figure(title: str, svg: bytes) -> str:
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/svg+xml;base64,{b64encode(svg).decode()}">'


def in_notebook(validation: "Validation") -> str:
    """The verdict, and the tables to open below it."""
    lines = "".join(f"<li><b>{line.level}</b> {escape(line.text)}</li>" for line in validation.verdict)
    return f"<ul>{lines}</ul>{_tables(validation)}"


def _tables(validation: "Validation") -> str:
    return "\n".join(
        f"<details><summary>{HEADINGS[name]}</summary>{html_table(table, _MOST_ROWS, 'the JSON report')}</details>"
        for name in HEADINGS
        if len(table := validation.tables.get(name, ()))
    )


def _provenance(validation: "Validation") -> str:
    metadata = validation.graph.metadata
    parts = []
    for what in ("model", "transcoders"):
        source = metadata.get(what, {})
        parts.append(f"{what} {source.get('id')} ({source.get('revision') or source.get('digest') or 'in memory'})")
    parts += [f"{name} {version}" for name, version in metadata.get("versions", {}).items()]
    parts += [f"{name} {value}" for name, value in validation.settings.items()]
    return "; ".join(parts)
