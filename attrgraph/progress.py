"""How long work says how far it is, and how it is stopped."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# called as progress(phase, done, total)
Progress = Callable[[str, int, int], None]


def silent(phase: str, done: int, total: int) -> None:
    """Tells nobody."""


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
