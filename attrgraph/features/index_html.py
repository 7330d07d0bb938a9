"""Features as a table in HTML: the best in a notebook, or all in one file that makes no request, to be searched."""

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrgraph.features.page_html import body_of, whole_page
from attrgraph.features.page_text import about, share
from attrgraph.viz.text import visible

if TYPE_CHECKING:
    import pandas as pd

# of a file: a row has 50 to 130 bytes, so it has some 10 MB at most; at most so many characters of a label
MOST_ROWS, _LONGEST = 100_000, 80
# rows that stand in the file as they are shown, and that the script shows at a time
_N_SHOWN = 200
_SCRIPT = Path(__file__).parent / "index.js"
_HEADINGS = ("feature", "label", "from", "score", "control", "fires", "max")


def table_html(best: "pd.DataFrame", n_features: int, card: Mapping[str, Any]) -> str:
    """These rows and what they are of, for a notebook."""
    these = f"the best {len(best):,} of " if len(best) < n_features else ""
    heading = f"<p>{these}{n_features:,} features; <code>.to_html(file)</code> lists all, to be searched</p>"
    return body_of(heading + _table(_rows(best)) + _about(card))


def index_html(best: "pd.DataFrame", n_features: int, card: Mapping[str, Any]) -> str:
    """A file with these rows and a field to search them."""
    rows, script = _rows(best), _SCRIPT.read_text(encoding="utf-8")
    # nothing in it can end the element
    data = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    rest = f"; {len(rows):,} are in this file" if len(rows) < n_features else ""
    body = (
        f"<h1>{n_features:,} features</h1>{_about(card)}"
        f"<p>The best labels stand first{rest}. Scores are balanced accuracies on held-out text; nobody measured names "
        "that were given. A feature's page: <code>attrgraph feature FOLDER 3/458</code></p>"
        "<p><input id='search' type='search' placeholder='a part of a label, 3/458, or 3/ for a layer' "
        "aria-label='search' autofocus> <span id='found' class='quiet' role='status'></span></p>"
        f"{_table(rows[:_N_SHOWN])}<script type='application/json' id='rows'>{data}</script><script>{script}</script>"
    )
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return whole_page(f"{n_features:,} features", body, scripts=f"; script-src 'sha256-{digest}'")


def _rows(table: "pd.DataFrame") -> list[list[str]]:
    return [
        [
            f"{row.layer}/{row.index_}",
            label if len(label := visible(row.label)) <= _LONGEST else f"{label[: _LONGEST - 1]}…",
            "" if row.label_source == "none" else row.label_source,
            *(f"{score:.2f}" if score == score else "" for score in (row.label_score, row.label_control)),
            share(row.activation_frequency),
            f"{row.act_max:.3g}",
        ]
        for row in table.rename(columns={"index": "index_"}).itertuples(index=False)
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading = "".join(f"<th>{name}</th>" for name in _HEADINGS)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{lines}</tbody></table>"


def _about(card: Mapping[str, Any]) -> str:
    return f"<p class='quiet'>{escape(about(card))}</p>"
