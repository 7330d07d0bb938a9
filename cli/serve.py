"""`attrgraph serve`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.output import print_text, tell
from attrgraph.errors import AttrGraphError


def serve(
    choice: options.ModelOptions,
    name: Annotated[str | None, options.argument("MODEL", "The same as --model.")] = None,
    graphs: Annotated[Path | None, "FOLDER", "Its graphs and files of prompts (.jsonl) are listed."] = None,
    features: Annotated[Path | None, "FOLDER", "Pages of features (attrgraph features), shown with graphs."] = None,
    port: Annotated[int, "N", "Of this machine; 0: any that is free.", {"min": 0, "max": 65535}] = 8765,
    write: Annotated[bool, options.flag("Save traced graphs in the folder of --graphs.", "--write")] = False,
    time_limit: Annotated[int, "SECONDS", "For one trace, intervention, validation or page.", {"min": 1}] = 600,
) -> None:
    """Trace, explore and intervene in a browser, on this machine.

    Several people may use it; what they ask for is done one after the other. Open the address that it prints: the token
    in it lets nobody else in. Ctrl-C ends it.

    \b
    Example:
      attrgraph serve demo --graphs graphs
    """
    if write and graphs is None:
        raise typer.BadParameter("--write needs --graphs, the folder in which graphs are saved.")
    if graphs is not None and not graphs.is_dir():
        raise AttrGraphError(f"--graphs {graphs}: is no folder; make it first.")
    try:
        from attrgraph.serve.app import Site
        from attrgraph.serve.listen import listen
    except ModuleNotFoundError as e:
        if e.name not in ("starlette", "uvicorn"):
            raise
        raise AttrGraphError(f"attrgraph serve needs {e.name}; install it with: pip install 'attrgraph[serve]'.") from e
    from attrgraph.cli.progress import progress_bar
    from attrgraph.serve.shelf import Shelf
    from attrgraph.serve.worker import Worker

    with progress_bar():
        model = (choice if name is None else replace(choice, model=name)).load()
    site = Site(model, Shelf(graphs, is_written=write), Worker(time_limit), features)

    def ready(address: str) -> None:
        print_text(address)
        tell("attrgraph: open this address in a browser; Ctrl-C ends.")

    listen(site, port=port, ready=ready)
