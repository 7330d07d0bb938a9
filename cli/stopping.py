"""A verb that is stopped, by Ctrl-C or a polite kill, says in one line what it leaves."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """A verb was stopped; the message says what is left. `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM, which then stops a verb as Ctrl-C does."""


def listen_to_kill() -> None:
    """Let SIGTERM raise `Terminated`, unless the process was started to ignore it."""

    def stop(*_: Any) -> None:
        raise Terminated

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


@contextmanager
def leaving(what: Callable[[], str]) -> Iterator[None]:
    """Where the body is stopped, raises `Stopped` with what is left then."""
    try:
        yield
    except KeyboardInterrupt as e:
        number = signal.SIGTERM if isinstance(e, Terminated) else signal.SIGINT
        raise Stopped(f"stopped{what()}", 128 + number) from e
