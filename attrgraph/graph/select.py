"""Nodes by what their columns hold."""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from attrgraph.errors import AttrGraphError, is_real
from attrgraph.graph.selections import Selection
from attrgraph.schema import COLUMNS, KINDS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# as users state what a column must hold
Texts = str | re.Pattern[str] | Collection[str | re.Pattern[str]]
Numbers = int | float | Collection[int | float] | slice | tuple[int | float | None, int | float | None]


def select(
    graph: "Graph",
    *,
    kind: Texts | None = None,
    layer: Numbers | None = None,
    pos: Numbers | None = None,
    token: Texts | None = None,
    label: Texts | None = None,
    feature: Numbers | None = None,
    activation: Numbers | None = None,
    influence: Numbers | None = None,
) -> Selection:
    """The nodes whose columns meet every criterion that is given.

    Text must equal a string or match a compiled regular expression; a number must equal a number, or lie in a pair
    (low, high), ends included and None for open, or in a slice, end excluded; or either meets one of a list. Positions
    below 0 are counted from the end.

    Raises:
        AttrGraphError: a criterion that is none of these, or a kind that does not exist.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is")
        >>> len(graph.select(kind="feature", influence=(0.01, None)) & graph.select(pos=0))
        0
    """
    criteria = {"kind": kind, "token": token, "label": label, "layer": layer, "pos": pos}
    criteria |= {"feature": feature, "activation": activation, "influence": influence}
    mask = np.ones(len(graph.nodes), dtype=bool)
    for name, criterion in criteria.items():
        if criterion is None:
            continue
        if name == "pos":
            criterion = _counted(criterion, len(graph.prompt_tokens))
        meets = _meets_text if COLUMNS[name] == "str" else _meets_number
        mask &= meets(graph.nodes[name], criterion, name)
    return Selection(graph, mask)


def check_kinds(kinds: Iterable[str]) -> None:
    """Raise AttrGraphError for one that does not exist."""
    for kind in kinds:
        if kind not in KINDS:
            raise AttrGraphError(
                f"kind {kind!r:.60} does not exist; expected one of {', '.join(KINDS)}{meant(kind, KINDS)}"
            )


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message: what a wrong name may have meant."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _meets_text(column: "pd.Series[str]", criterion: Any, name: str) -> Bool[np.ndarray, " n_nodes"]:
    items = list(criterion) if isinstance(criterion, list | tuple | set | frozenset) else [criterion]
    if not all(isinstance(item, str | re.Pattern) for item in items):
        raise AttrGraphError(f"{name}={criterion!r}: expected text, a compiled regular expression, or a list of these.")
    texts = [item for item in items if isinstance(item, str)]
    if name == "kind":
        check_kinds(texts)
    mask: np.ndarray = column.astype(object).isin(texts).to_numpy(dtype=bool)
    for pattern in (item for item in items if isinstance(item, re.Pattern)):
        mask = mask | np.array([pattern.search(text) is not None for text in column], dtype=bool)
    return mask


def _counted(criterion: Any, n_pos: int) -> Any:
    """A criterion of positions, those below 0 counted from the end."""
    if isinstance(criterion, slice):
        start, stop = (_counted(end, n_pos) for end in (criterion.start, criterion.stop))
        return slice(start, stop, criterion.step)
    if isinstance(criterion, list | tuple | set | frozenset | range):
        return type(criterion if not isinstance(criterion, range) else [])(_counted(one, n_pos) for one in criterion)
    if not is_real(criterion) or criterion >= 0:
        return criterion
    if criterion < -n_pos:
        raise AttrGraphError(f"pos={criterion!r}: the prompt has {n_pos} positions; expected -{n_pos} or more.")
    return criterion + n_pos


def _meets_number(column: "pd.Series[float]", criterion: Any, name: str) -> Bool[np.ndarray, " n_nodes"]:
    values = column.to_numpy()
    match criterion:
        case slice(start=low, stop=high, step=None) if _are_bounds((low, high)):
            return _between(values, low, None) & (True if high is None else values < high)
        case (low, high) if isinstance(criterion, tuple) and _are_bounds(criterion):
            return _between(values, low, high)
        case list() | set() | frozenset() | range() if all(map(is_real, criterion)):
            return np.isin(values, list(criterion))
        case Real() if is_real(criterion):
            return np.asarray(values == criterion)
    raise AttrGraphError(
        f"{name}={criterion!r}: expected a number, a list of numbers, a pair (low, high), or a slice without a step."
    )


def _are_bounds(bounds: tuple[Any, ...]) -> bool:
    return all(bound is None or is_real(bound) for bound in bounds)


def _between(values: np.ndarray, low: Any, high: Any) -> Bool[np.ndarray, " n_nodes"]:
    above = np.ones(len(values), dtype=bool) if low is None else values >= low
    return np.asarray(above if high is None else above & (values <= high))
