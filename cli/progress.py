"""How far long work is, on stderr: a bar with phases on a terminal, elsewhere a line every few seconds."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread

# a log is then never silent for ten seconds
_LINE_EVERY_S = 9.0


@contextmanager
def spoken(now: str) -> Iterator[Callable[[str], None]]:
    """Yields `say(now)`; every few seconds, what was said last is written as a line, by a thread of its own.

    Args:
        now: what is being done until something else is said.
    """
    newest, has_ended = [now], Event()

    def speak() -> None:
        while not has_ended.wait(_LINE_EVERY_S):
            print(newest[0], file=sys.stderr, flush=True)

    thread = Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield partial(newest.__setitem__, 0)
    finally:
        has_ended.set()
        thread.join()


def as_text(phase: str, done: int, total: int) -> str:
    """Such as `measure: 3 of 12`."""
    return f"{phase}: {done:,} of {total:,}"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `progress(phase, done, total)`; until it is called, the phase is `load`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        with spoken("load") as say:
            yield lambda phase, done, total: say(as_text(phase, done, total))
        return
    columns = (TextColumn("{task.description:<6}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        # whoever shows progress loads something first
        tasks = {"load": bar.add_task("load", total=1)}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                bar.update(tasks["load"], completed=1)
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress
