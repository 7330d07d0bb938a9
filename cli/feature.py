"""`attrgraph feature`."""

from pathlib import Path
from typing import Annotated

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json, print_text


def feature(
    folder: Annotated[Path, options.argument("FOLDER", "Of pages, written by attrgraph features.")],
    name: Annotated[str, options.argument("FEATURE", "Layer and feature, such as 3/458.")],
    html: Annotated[Path | None, "FILE", "Write the page as one HTML file."] = None,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Show the page of a feature.

    \b
    Example:
      attrgraph feature pages 3/458
    """
    page = ag.FeaturePages.load(folder)[name]
    if html is not None:
        page.to_html(html, overwrite=force)
    if as_json:
        print_json(page.record)
    elif html is None:
        print_text(str(page))
    else:
        print_files([html])
