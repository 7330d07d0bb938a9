"""What is wrong with a graph file, and what was repaired, in sentences that count and give examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "note"]
NEURONPEDIA, CIRCUIT_TRACER, ANTHROPIC = "Neuronpedia", "circuit-tracer's viewer", "Anthropic's viewer"
EVERY_VIEWER = (NEURONPEDIA, CIRCUIT_TRACER, ANTHROPIC)
US = "attrgraph"
EVERYONE = (US, *EVERY_VIEWER)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a graph file.

    Attributes:
        severity: `error`: every viewer shows the file wrongly or not at all, or it cannot be loaded here;
            `warning`: some viewers do; `note`: nothing breaks, but something is lost or unusual.
        code: a name for this kind of problem that does not change.
        message: what was found, how often, and the first examples.
        breaks: the viewers and loaders that need it otherwise.
    """

    severity: Severity
    code: str
    message: str
    breaks: tuple[str, ...]


class Findings:
    """Problems as they are found; a check that finds nothing adds nothing."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def by_severity(self) -> list[Problem]:
        """All problems, errors first."""
        return sorted(self.problems, key=lambda problem: get_args(Severity).index(problem.severity))

    def add(self, severity: Severity, code: str, message: str, *breaks: str) -> None:
        self.problems.append(Problem(severity, code, message, breaks))

    def add_each(self, severity: Severity, code: str, examples: Sequence[Any], what: str, *breaks: str) -> None:
        """One problem for all examples, if there are any: their number, what they are, the first three."""
        if examples:
            first = ", ".join(f"{example!s:.60}" for example in examples[:3])
            message = f"{len(examples)} {what}: {first}{', ...' if len(examples) > 3 else ''}"
            self.add(severity, code, message, *breaks)


def say_repaired(repairs: list[str], items: Sequence[str], noun: str, what: str) -> None:
    """Add `3 ids ('a', 'b', ...) left out`, if there are any items: how many, the first of them, what was done."""
    if items:
        first = ", ".join(f"{item!r:.60}" for item in items[:3])
        plural = "" if len(items) == 1 else "s"
        repairs.append(f"{len(items)} {noun}{plural} ({first}{', ...' if len(items) > 3 else ''}) {what}")
