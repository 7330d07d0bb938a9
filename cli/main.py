"""`attrgraph VERB ...`: dispatch, and errors as one line."""

import gc
import logging
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from attrgraph.cli import options
from attrgraph.cli.output import tell
from attrgraph.cli.shell import shell_of
from attrgraph.cli.stopping import Stopped, listen_to_kill
from attrgraph.cli.streams import prepare_streams
from attrgraph.errors import AttrGraphError
from attrgraph.viz.text import visible

# in the order of the help; each is the function of its name in the module of its name
_VERBS = """
trace estimate info check prune convert render explore serve intervene swap patch validate
heads train evaluate transcoders features feature query paths effect group diff union
""".split()

app = typer.Typer(
    help="Why did the language model say that? Exact attribution graphs from transcoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help needs less room, and marks flags by having no value
)
for verb in _VERBS:
    app.command()(options.with_groups(getattr(import_module(f"attrgraph.cli.{verb}"), verb)))


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(version("attrgraph"))
        raise typer.Exit
    return is_wanted


@app.callback()
def before_the_verb(
    traceback: Annotated[bool, options.flag("Show the whole traceback of an error.", "--traceback")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb; `main` looks for --traceback itself."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb. 0: done; 1: an error, told in one line on stderr; 2: wrong usage; 128 + n: stopped by signal n."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        app(args=arguments, prog_name="attrgraph")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0
    except Stopped as e:
        tell(f"attrgraph: {e}")
        return e.code
    except (AttrGraphError, OSError) as e:
        if "--traceback" in arguments:
            raise
        tell(f"attrgraph: {visible(str(e))}" if isinstance(e, AttrGraphError) else _of_system(e))  # may quote anything
        return 1
    return 0


def _of_system(error: OSError) -> str:
    """What the system says, such as that a disk is full: of a file, or, where it names none, of stdout."""
    return f"attrgraph: {error.filename or 'the output'}: {error.strerror or error}."


app.command()(shell_of(app, main))


def run() -> None:
    """The console script."""
    # Collecting garbage while modules are imported finds hardly any and takes a seventh of the start; what runs long
    # loads a model, which turns it on again (`options.load_model`).
    gc.disable()
    logging.getLogger("attrgraph").setLevel(logging.ERROR)  # what verbs lack they say themselves
    prepare_streams()
    listen_to_kill()
    if sys.stdout is None:
        tell("attrgraph: the output is closed; send it to a file or to /dev/null.")
        os._exit(1)
    code = main()
    # Taking the interpreter apart after torch takes half a second, and no verb leaves anything open.
    try:
        sys.stdout.flush()
    except OSError as e:
        # whoever read the output has left, or an error has been told before
        if code == 0 and not isinstance(e, BrokenPipeError):
            tell(_of_system(e))
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    run()
