"""`attrgraph feature`."""

from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json, print_table, print_text


def feature(
    folder: Annotated[Path, options.argument("FOLDER", "Of pages, written by attrgraph features.")],
    name: Annotated[str | None, options.argument("FEATURE", "Such as 3/458; without it, a table of features.")] = None,
    html: Annotated[Path | None, "FILE", "Write the page, or all features to search, as one HTML file."] = None,
    top: options.Top = 20,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Show the page of a feature, or which features there are.

    \b
    Example:
      attrgraph feature pages 3/458
      attrgraph feature pages --html features.html
    """
    pages = ag.FeaturePages.load(folder)
    shown = pages if name is None else pages[name]
    if html is not None:
        shown.to_html(html, overwrite=force)
    if as_json:
        print_json(pages.best(top).to_dict("records") if name is None else pages[name].record)
    elif html is not None:
        print_files([html])
    elif name is None:
        print_best(pages, top)
    else:
        print_text(str(shown))


def print_best(pages: "ag.FeaturePages", n: int) -> None:
    """The features with the best labels."""
    best = pages.best(n)
    best.insert(0, "feature", best["layer"].astype(str) + "/" + best["index"].astype(str))
    # short headings leave room for labels
    shown = {"feature": "feature", "label": "label", "label_source": "from", "label_score": "score"}
    shown |= {"label_control": "control", "activation_frequency": "fires", "act_max": "max"}
    formats = {"score": ".2f", "control": ".2f", "fires": ".3%"}
    print_table(best[list(shown)].rename(columns=shown), formats=formats)
    print_text(
        f"the best {len(best)} of {len(pages):,} features; their scores are balanced accuracies on held-out text"
    )
