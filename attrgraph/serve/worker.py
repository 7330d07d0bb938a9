"""One thread that does what is asked, one job after the other: there is one model, and it needs the whole machine."""

import logging
from collections import deque
from collections.abc import Callable
from math import inf
from threading import Condition, Thread
from time import monotonic
from typing import Any

from attrgraph.errors import AttrGraphError
from attrgraph.progress import Progress

logger = logging.getLogger(__name__)


class _Ended(Exception):
    """A job that goes on no longer; the message says why."""


class Job:
    """What is asked, how far it is, and, once it is done, the answer: `result`, or `error` in one line."""

    def __init__(self, work: Callable[[Progress], Any]) -> None:
        self._work, self._ends, self._limit_s, self.is_cancelled = work, inf, 0.0, False
        self.progress = ("wait", 0, 0)
        self._answer: dict[str, Any] | None = None

    def run(self, limit_s: float | int) -> None:
        """Do it; nothing is raised."""
        self._ends, self._limit_s = monotonic() + limit_s, float(limit_s)
        try:
            self.report("start", 0, 1)
            self._answer = {"result": self._work(self.report)}
        except (_Ended, AttrGraphError) as e:
            self._answer = {"error": str(e)}
        except OSError as e:
            self._answer = {"error": f"{e.strerror or 'the system refused'}."}
        except Exception:
            logger.exception("a job failed")
            self._answer = {"error": "the server failed at this; the terminal in which it runs says why."}

    @property
    def answer(self) -> dict[str, Any] | None:
        """At the time limit it is there, even while the work has not yet come to where it ends."""
        return self._answer or ({"error": self._too_long} if monotonic() > self._ends else None)

    @property
    def _too_long(self) -> str:
        return f"stopped after {self._limit_s:,.0f} s, the time limit of this server; ask for less."

    def report(self, phase: str, done: int, total: int) -> None:
        """Note how far it is; here it also ends early."""
        if self.is_cancelled:
            raise _Ended("cancelled.")
        if monotonic() > self._ends:
            raise _Ended(self._too_long)
        self.progress = (phase, done, total)


class Worker:
    """The thread and its queue.

    Args:
        limit_s: seconds that a job may take.
    """

    def __init__(self, limit_s: float | int) -> None:
        self.limit_s, self._changed = limit_s, Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        Thread(target=self._run, daemon=True).start()

    @property
    def n_waiting(self) -> int:
        """How many jobs wait for the one that runs."""
        return len(self._waiting)

    def add(self, work: Callable[[Progress], Any]) -> Job:
        """Have something done after what waits."""
        job = Job(work)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one; 0 if it runs, or has run."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Take it out of the queue; one that runs ends when it next says how far it is."""
        with self._changed:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: bool(self._waiting))
                job = self._running = self._waiting.popleft()
            job.run(self.limit_s)
