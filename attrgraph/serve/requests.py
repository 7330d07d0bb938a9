"""What a page asks for, checked: JSON of a known form, and not too much of anything."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from attrgraph.attribution.trace_settings import DEFAULTS
from attrgraph.errors import AttrGraphError, whole_number
from attrgraph.interventions.intervention import Intervention
from attrgraph.interventions.setting import parse_setting

R = TypeVar("R")

MOST_FEATURES, MOST_TOKENS, MOST_NEW_TOKENS, MOST_CHANGES = 20_000, 1000, 200, 1000
MOST_VALIDATED, MOST_CONTROLS = 1000, 100


@dataclass(frozen=True)
class ToTrace:
    """A prompt, the tokens to explain (none: the most probable ones), and the most features of the graph."""

    prompt: str
    targets: list[str]
    max_feature_nodes: int = DEFAULTS.max_feature_nodes

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_texts("targets", self.targets)
        _check_number("max_feature_nodes", self.max_feature_nodes, MOST_FEATURES)


@dataclass(frozen=True)
class ToSet:
    """Nodes of a graph's prompt that are set, as `attrgraph intervene --set` takes them."""

    graph: str
    changes: list[str]
    mode: str = "constrained"
    new_tokens: int = 0
    version: str = ""  # of the graph's file, as its page has it

    def __post_init__(self) -> None:
        _check_text("graph", self.graph)
        _check_text("version", self.version)
        _check_text("mode", self.mode)
        _check_texts("changes", self.changes)
        _check_number("new_tokens", self.new_tokens, MOST_NEW_TOKENS)

    @property
    def sets(self) -> list[Intervention]:
        """The changes."""
        return [parse_setting(one) for one in self.changes]


@dataclass(frozen=True)
class ToValidate:
    """A graph, how many of its nodes are taken out one by one, and how many controls each set of features has.

    Both are fewer than in a terminal, as others wait: the demo takes less than a minute on two cores.
    """

    graph: str
    n_nodes: int = 16
    n_controls: int = 5
    version: str = ""  # of the graph's file, as its page has it

    def __post_init__(self) -> None:
        _check_text("graph", self.graph)
        _check_text("version", self.version)
        _check_number("n_nodes", self.n_nodes, MOST_VALIDATED, least=1)
        _check_number("n_controls", self.n_controls, MOST_CONTROLS)


def read_request(kind: Callable[..., R], body: bytes) -> R:
    """What a body asks for.

    Args:
        kind: one of the classes above.

    Raises:
        AttrGraphError: it is something else.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise AttrGraphError("the body is not JSON.") from e
    if not isinstance(given, dict) or not set(given) <= set(names):
        raise AttrGraphError(f"the body is not an object with {', '.join(names)}.")
    try:
        return kind(**given)
    except TypeError as e:
        raise AttrGraphError(f"the body lacks some of {', '.join(names)}.") from e


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise AttrGraphError(f"{name} is {value!r:.60}; expected text.")


def _check_texts(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) > MOST_CHANGES:
        raise AttrGraphError(f"{name} is {value!r:.60}; expected a list of at most {MOST_CHANGES:,} texts.")


def _check_number(name: str, value: Any, most: int, *, least: int = 0) -> None:
    if whole_number(name, value, least=least) > most:
        raise AttrGraphError(f"{name} is {value!r:.60}; expected at most {most:,} on this server.")
