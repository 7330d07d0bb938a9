"""Somebody else's program, run in a child process whose time and memory are bounded: one operation may take both."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from attrgraph.errors import PromptError

# on top of what the process has
_MOST_BYTES = 500 * 2**20


def bounded(work: Callable[[], str], seconds: float) -> str:
    """What `work` returns, which takes at most so many seconds of processor time and 500 MB.

    Where processes cannot be forked, it is called here.

    Raises:
        PromptError: as `work` does, or it takes more.
    """
    if not hasattr(os, "fork"):
        return work()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # that other threads do not go on in the child, where nothing waits for them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _answer(work, seconds, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not said:
        raise PromptError(f"the chat template takes more than {seconds:g} s or {_MOST_BYTES >> 20} MB.")
    answer = json.loads(said)
    if "refused" in answer:
        raise PromptError(answer["refused"])
    return str(answer["text"])


def _answer(work: Callable[[], str], seconds: float, writing: int) -> None:
    """Of the child, which ends here."""
    try:
        _limit(seconds)
        try:
            answer = {"text": work()}
        except PromptError as e:
            answer = {"refused": str(e)}
        except Exception as e:  # of whatever kind, for messages that hold anything
            first, *_ = str(e).splitlines() or [""]
            answer = {"refused": f"the chat cannot be written ({type(e).__name__}: {first:.200})."}
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _limit(seconds: float) -> None:
    import resource

    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if sys.platform == "linux":
        n_pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = n_pages * resource.getpagesize() + _MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))
