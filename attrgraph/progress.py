"""How long work says how far it is, and how it is stopped."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from time import monotonic
from typing import Any

# called as progress(phase, done, total)
Progress = Callable[[str, int, int], None]


# in a notebook: work that takes less shows no bar; and how often one is drawn
_SHOWN_AFTER_S, _DRAWN_EVERY_S = 0.5, 0.1


def silent(phase: str, done: int, total: int) -> None:
    """Tells nobody."""


def shown(progress: Progress | None) -> Progress:
    """Whom to tell: who was given; without one, a bar in a notebook's cell, and elsewhere nobody."""
    if progress is not None:
        return progress
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return _NotebookBar.of(shell) if hasattr(shell, "kernel") else silent


class _NotebookBar:
    """One output of a cell, which is written over; all work of the cell shares it, be it a loop over many prompts.

    It needs no widgets, so it is the same in Jupyter, VS Code and Colab.
    """

    newest: "_NotebookBar | None" = None

    def __init__(self, cell: tuple[int, int]) -> None:
        self.cell, self.began, self.drawn, self.handle = cell, monotonic(), 0.0, None

    @staticmethod
    def of(shell: Any) -> "_NotebookBar":
        """That of the cell which runs."""
        cell = (id(shell), shell.execution_count)
        if _NotebookBar.newest is None or _NotebookBar.newest.cell != cell:
            _NotebookBar.newest = _NotebookBar(cell)
        return _NotebookBar.newest

    def __call__(self, phase: str, done: int, total: int) -> None:
        now, is_done = monotonic(), done >= total
        if now - self.began < _SHOWN_AFTER_S or (now - self.drawn < _DRAWN_EVERY_S and not is_done):
            return
        text = f"{phase}: {done:,} of {total:,}, {now - self.began:,.0f} s"
        bar = f'<progress value="{done}" max="{max(total, 1)}" aria-label="{escape(phase)}"></progress>'
        content = {"text/plain": text, "text/html": f"{bar} {escape(text)}"}
        if self.handle is None:
            self.handle = import_module("IPython.display").display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)
        self.drawn = now


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """While the body runs, a first Ctrl-C is only noted in the list that this yields, so that work can be kept.

    It is raised when the body has ended; a second one at once. The same holds of SIGTERM where something handles it.
    """
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    noted = list[int]()

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        if len(noted) > 1:
            handlers[number](number, frame)

    # only the main thread may set what happens
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: handler for number, handler in handlers.items() if is_main and callable(handler)}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield noted
    except KeyboardInterrupt:
        if not noted:
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if noted:
        handlers[noted[0]](noted[0], None)
        raise KeyboardInterrupt  # a handler that only notes the signal: what was not finished must not look so
