"""A feature's page as HTML: one file that makes no request, or a part of a notebook."""

from collections.abc import Mapping, Sequence
from html import escape
from math import frexp
from pathlib import Path
from string import Template
from typing import Any

from attrgraph.features.page_text import about, label_lines, neighbour, new_examples, plainly, quoted, share
from attrgraph.viz.text import visible

_PAGE = Path(__file__).parent / "page.html"
_NAMES = {
    "token": "Fires on",
    "previous": "Fires after",
    "last 3": "Fires at the end of",
    "says": "Fires where the model says",
    "next": "Fires before",
    "position": "Fires at position",
}
# of the histogram, in pixels
_X0, _BAR, _TOP, _HEIGHT = 56, 12, 4, 48
_NEIGHBOURS = {
    "together": ("Fires together with", "cosine of the activations over sampled tokens"),
    "inputs": ("Comes from", "what a feature of a lower layer adds to it at the same token, on average where it fires"),
    "outputs": (
        "Leads to",
        "what it adds to a feature of a higher layer at the same token, on average where that fires",
    ),
}


def page_html(record: Mapping[str, Any], *, is_whole: bool, names: Mapping[str, str], card: Mapping[str, Any]) -> str:
    """The page; unless it is whole, only what stands in its body.

    Args:
        record: of the feature.
        is_whole: as a file.
        names: labels of its neighbours.
        card: of the folder that it is in.
    """
    title = f"Feature {record['layer']}/{record['index']}"
    parts = [_head(record, title, card), _promoted(record), _fires(record), _neighbours(record, names)]
    body = "\n".join([*parts, _examples(record)])
    return whole_page(title, body) if is_whole else body_of(body)


def whole_page(title: str, body: str, *, scripts: str = "") -> str:
    """A file that makes no request; `scripts` is the part of its policy that allows a script of its own."""
    template = Template(_PAGE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body=body, scripts=scripts)


def body_of(body: str) -> str:
    """A part of a notebook, with its style."""
    whole = whole_page("", "")
    style = whole[whole.index("<style>") : whole.index("</style>") + len("</style>")]
    return f"{style}<div class='ag-feature'>{body}</div>"


def _head(record: Mapping[str, Any], title: str, card: Mapping[str, Any]) -> str:
    label = escape(visible(record["label"])) or "<em>no label</em>"
    trust, made_of = (
        escape("; ".join(label_lines(record))),
        f"<p class='quiet'>{escape(about(card))}</p>" if card else "",
    )
    numbers = (
        f"fires on {share(record['activation_frequency'])} of {record['n_tokens']:,} tokens · "
        f"{record['act_mean']:.3g} on average · {record['act_max']:.3g} at most"
    )
    heading = f"<h1>{escape(title)}: {label}</h1>{made_of}<p class='quiet'>{trust}</p>"
    return f"{heading}<p>{numbers}</p>{_histogram(record)}"


def _histogram(record: Mapping[str, Any]) -> str:
    heights, edges = record["histogram"], record["histogram_edges"]
    if not heights:
        return ""
    bars = "".join(
        f"<rect x='{_X0 + _BAR * i}' y='{_TOP + _HEIGHT * (1 - n / max(heights)):.1f}' width='{_BAR - 1}' "
        f"height='{_HEIGHT * n / max(heights):.1f}'><title>{n:,} firings of {low:.3g} to {high:.3g}</title></rect>"
        for i, (n, low, high) in enumerate(zip(heights, edges, edges[1:], strict=False))
    )
    numbers = [(_X0 - 6, _TOP + 8, "end", f"{max(heights):,}"), (_X0 - 6, _TOP + _HEIGHT, "end", "0")]
    # whole octaves, every second where numbers are long, and the ends where there is room
    places = [i for i, edge in enumerate(edges) if frexp(edge)[0] == 0.5]
    places = places[:: 2 if any(len(f"{edges[i]:.3g}") > 6 for i in places) else 1]
    places += [i for i in (0, len(edges) - 1) if all(abs(i - place) > 2 for place in places)]
    numbers += [(_X0 + _BAR * i, _TOP + _HEIGHT + 14, "middle", f"{edges[i]:.3g}") for i in places]
    texts = "".join(f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{text}</text>" for x, y, anchor, text in numbers)
    base = f"<path d='M{_X0} {_TOP + _HEIGHT + 0.5}h{_BAR * len(heights)}'/>"
    return (
        f"<figure><svg width='{_X0 + _BAR * len(heights) + 30}' height='{_TOP + _HEIGHT + 18}' role='img' "
        f"aria-label='histogram of activations'>{bars}{base}{texts}</svg>"
        "<figcaption>firings by activation, four bins an octave</figcaption></figure>"
    )


def _promoted(record: Mapping[str, Any]) -> str:
    rows = [
        ("Promotes", record["top_logits"], record["top_logit_values"]),
        ("Suppresses", record["bottom_logits"], record["bottom_logit_values"]),
        *(
            (f"Promotes through layer {one['layer']}", one["top_logits"], one["top_values"])
            for one in record["logits_by_layer"]
        ),
    ]
    return _definitions(
        [(name, _chips(tokens, [f"{value:+.3g}" for value in values])) for name, tokens, values in rows]
    )


def _fires(record: Mapping[str, Any]) -> str:
    rows = []
    for kind, name in _NAMES.items():
        found = record["tokens"][kind]
        notes = [
            f"{one['share_of_firings']:.0%} of its firings; it fires at {one['fires_there']:.0%} of them"
            for one in found
        ]
        if found:
            rows.append(
                (name, _chips([one["value"] for one in found], notes, [one["share_of_firings"] for one in found]))
            )
    return _definitions(rows)


def _neighbours(record: Mapping[str, Any], names: Mapping[str, str]) -> str:
    rows = [
        (
            f"<span title='{escape(what, quote=True)}'>{name}</span>",
            " ".join(
                f"<span class='chip'>{escape(neighbour(one, names))} <small>{one['weight']:+.2g}</small></span>"
                for one in record[key]
            ),
        )
        for key, (name, what) in _NEIGHBOURS.items()
        if record[key]
    ]
    return _definitions(rows)


def _definitions(rows: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>" if rows else ""


def _chips(tokens: Sequence[Any], notes: Sequence[str], shares: Sequence[float] | None = None) -> str:
    small = notes if shares is None else [f"{each:.0%}" for each in shares]
    return " ".join(
        f"<span class='chip' title='{escape(note, quote=True)}'>{escape(quoted(token))} "
        f"<small>{escape(few)}</small></span>"
        for token, note, few in zip(tokens, notes, small, strict=True)
    )


def _examples(record: Mapping[str, Any]) -> str:
    largest = record["act_max"] or 1.0
    parts = []
    for name, examples, n_again in new_examples(record):
        lines = "".join(f"<li>{_tokens(one, largest)}</li>" for one in examples)
        again = f" <small>and {n_again} that are shown already</small>" if n_again else ""
        parts.append(f"<h2>{escape(name)}{again}</h2><ol>{lines}</ol>")
    return "".join(parts)


def _tokens(one: Mapping[str, Any], largest: float) -> str:
    spans = []
    for i, (token, act) in enumerate(zip(one["tokens"], one["tokens_acts_list"], strict=True)):
        mark = " class='here'" if i == one["train_token_ind"] else ""
        depth = min(1.0, abs(act) / largest)
        color = f" style='--depth:{0.15 + 0.7 * depth:.2f}' title='{act:.3g}'" if act else ""
        spans.append(f"<span{mark}{color}>{escape(plainly(token))}</span>")
    return "".join(spans)
