"""The process's streams, whatever a shell has made of them."""

import io
import os
import re
import sys
from contextlib import suppress


class _Messages(io.TextIOWrapper):
    """stderr, on which nothing depends: where it is full or closed, the work goes on and the exit code tells."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Let streams hold any text: what their encoding lacks is escaped, as in Python."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the first file that is opened would get its number, and what is printed with it
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (open to the end)
    messages = open(os.devnull, "wb") if sys.stderr is None else sys.stderr.buffer  # noqa: SIM115
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    sys.stderr = _Messages(messages, encoding, "backslashreplace", line_buffering=True)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    for name in ("COLUMNS", "LINES"):  # rich takes whatever is made of digits for a number
        if not re.fullmatch("[1-9][0-9]{0,4}", os.environ.get(name, "80")):
            del os.environ[name]
