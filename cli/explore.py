"""`attrgraph explore`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_text
from attrgraph.files import check_writable


def explore(
    subject: Annotated[str, options.argument("GRAPH|PROMPT", "A graph (.safetensors or .json), or a prompt.")],
    output: Annotated[Path, options.output("The page: .html.")],
    choice: options.ModelOptions,
    reading: options.PromptOptions,
    features: Annotated[Path | None, "FOLDER", "Pages of features (attrgraph features), for those shown."] = None,
    validation: Annotated[Path | None, "FILE", "Of this graph: JSON that attrgraph validate wrote."] = None,
    force: options.Force = False,
) -> None:
    """Write a graph as a page to click: one file, for any browser.

    \b
    Examples:
      attrgraph explore dallas.safetensors -o dallas.html
      attrgraph explore "in texas the capital is" -o texas.html
    """
    from attrgraph.graph.explore import check_page_path

    check_page_path(output)
    check_writable(output, overwrite=force)
    # a path that exists is meant as a file: what is no graph is refused, and never read as a prompt
    if subject.endswith((".safetensors", ".json")) or ("/" in subject and os.path.exists(subject)):
        if replace(choice, labels=None) != options.ModelOptions():
            raise typer.BadParameter("with a graph, options of a model have no use, except --labels.")
        graph = options.NamedGraph(labels=choice.labels).load(Path(subject))
    else:
        graph = ag.trace(choice.load(), reading.read(subject), **reading.how())
    graph.explore(output, features=features, validation=validation, overwrite=force)
    print_text(str(output))
