"""What can go wrong through no fault of this package. Every message says what, got, expected, and what to do.

Numbers that a caller gives are refused, or made Python's own, where they come in: files and JSON hold no others.
"""

import os
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial, wraps
from inspect import Parameter, signature
from itertools import islice
from math import isfinite
from numbers import Integral, Real
from operator import index
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin

C = TypeVar("C", bound=Callable[..., Any])

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a path"}
_WORDS[type(None)] = "None"
_CONTAINERS: dict[Any, str] = {Mapping: "a dictionary", dict: "a dictionary", Sequence: "a list", Collection: "a list"}
_CONTAINERS |= {Iterable: "a list", list: "a list", tuple: "a tuple", get_origin(Callable[[], Any]): "a function"}
_LISTS = (Sequence, Collection, Iterable)
# of a list that are looked at when a function has failed
_MOST_ELEMENTS = 10_000
_SIMPLE = frozenset(_WORDS) - {int, float}
# what numbers beyond these are used for overflows
_MOST = 2**63


class AttrGraphError(ValueError):
    """Base of every error that a user's input can cause; its message is one line, whatever it quotes."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message.replace("\n", r"\n"))


class UnsupportedModelError(AttrGraphError):
    """The model's architecture, or an option of it, is not one that the engine can reproduce exactly."""


class ModelLoadError(AttrGraphError):
    """The model's folder or hub repository cannot be read, or its weights are not finite numbers."""


class TranscoderError(AttrGraphError):
    """A transcoder folder is missing, malformed, or was made for another model."""


class FeatureError(AttrGraphError):
    """A folder of feature pages is missing or damaged, or has no page of a feature; or a name names no feature."""


class CorpusError(AttrGraphError):
    """A corpus, the model's own samples, or a cache of activations cannot be read, written, or trained on."""


class PromptError(AttrGraphError):
    """The prompt is empty, too long, or has tokens that the model does not know."""


class TargetError(AttrGraphError):
    """A logit target names no token of the model, or is not a direction in its stream."""


class InterventionError(AttrGraphError):
    """An intervention names a node that a run does not have, or sets it in a way that it cannot be set."""


class GraphFileError(AttrGraphError):
    """A graph file cannot be read, written or drawn."""


class ResultError(AttrGraphError):
    """A computed number is not finite."""


class TrainingError(AttrGraphError):
    """A training run cannot start, go on, or be resumed."""


def is_real(value: Any) -> bool:
    """Whether it is a number, Python's or numpy's; truth values and NaN are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def as_whole(value: Any) -> int | None:
    """A whole number of Python, numpy or torch as Python's; None for all else, truth values among it."""
    kind, n_axes = str(getattr(value, "dtype", "")), getattr(value, "ndim", 0)
    if isinstance(value, bool) or kind.endswith("bool") or n_axes > 0:
        return None
    try:
        return index(value)
    except TypeError:
        return None


def listed(values: Any) -> list[Any] | None:
    """What a list, array, tensor or other collection holds, with its whole numbers as Python's; None for no collection.

    Text, bytes and mappings are none: they hold something else than they give one by one.
    """
    if isinstance(values, str | bytes | bytearray | memoryview | Mapping) or not isinstance(values, Iterable):
        return None
    if not getattr(values, "ndim", 1):  # of numpy and torch, a number that says it can be gone through
        return None
    each = values.tolist() if hasattr(values, "tolist") else values
    return [one if (whole := as_whole(one)) is None else whole for one in each]


def is_finite(value: Any) -> bool:
    """Whether it is a number, and one that a float holds."""
    try:
        return is_real(value) and isfinite(value)
    except OverflowError:
        return False


def whole_number(name: str, value: Any, *, least: int, error: type[AttrGraphError] = AttrGraphError) -> int:
    """The value as an `int`.

    Raises:
        AttrGraphError: a truth value, a fraction, no number at all, or one that is too small; as `error`.
    """
    whole = as_whole(value)
    if whole is not None and whole >= least:
        return whole
    raise error(f"{name} is {value!r:.60}; expected a whole number of at least {least}.")


def share(name: str, value: Any) -> float:
    """The value as a `float` from 0 to 1.

    Raises:
        AttrGraphError: a truth value, no number at all, or one outside.
    """
    if is_real(value) and 0 <= value <= 1:
        return float(value)
    raise AttrGraphError(f"{name} is {value!r:.60}; expected a number from 0 to 1.")


def checked(what: C) -> C:
    """The function, or the dataclass, which raises AttrGraphError for an argument that its annotation excludes.

    Texts, truth values and paths are looked at before; others only if the function fails, so that it can say itself
    what is wrong. Numbers of numpy are taken as Python's, any iterable but text as a list.
    """
    if isinstance(what, type):
        what.__init__ = checked(what.__init__)  # type: ignore[misc]
        return what
    own = cache(partial(signature, what))

    @wraps(what)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            given = own().bind(*args, **kwargs).arguments
        except TypeError:  # too many, too few or unknown ones: Python says it well
            return what(*args, **kwargs)
        asked = list(_asked(own().parameters, given))
        for name, value, kinds in asked:
            if _SIMPLE.issuperset(kinds) or (
                isinstance(value, str) and not _WORDS.keys() >= set(kinds)
            ):  # no list of letters
                _check(name, value, kinds)
        try:
            return what(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as e:
            for name, value, kinds in [] if isinstance(e, AttrGraphError) else asked:
                _check(name, value, kinds)
            raise

    return cast(C, run)


def _asked(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, value and kinds of every argument."""
    for name, value in given.items():
        annotation, kind = parameters[name].annotation, parameters[name].kind
        if kind is Parameter.VAR_KEYWORD:  # Unpack of a TypedDict
            of_each = getattr(next(iter(get_args(annotation)), None), "__annotations__", {})
            yield from ((key, each, _kinds(of_each.get(key, Any))) for key, each in value.items())
        else:
            several = value if kind is Parameter.VAR_POSITIONAL else (value,)
            yield from ((name, each, _kinds(annotation)) for each in several)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(type(None) if kind is None else kind for kind in kinds)


def _check(name: str, value: Any, kinds: tuple[Any, ...]) -> None:
    shown = f"{value!r:.60}" if isinstance(value, Real | str | bytes | None) else f"a {type(value).__name__}"
    if not any(_fits(value, kind) for kind in kinds):
        words = " or ".join(dict.fromkeys(_word(kind) for kind in kinds))
        raise AttrGraphError(f"{name} is {shown}; expected {words}.")
    if isinstance(value, Integral) and abs(int(value)) >= _MOST:
        raise AttrGraphError(f"{name} is {shown}; expected a number below 2**63.")
    lists = [kind for kind in kinds if _elements_of(kind)]
    if lists and not isinstance(value, Iterator) and not any(_fits(value, kind) for kind in kinds if kind not in lists):
        elements = tuple(one for kind in lists for one in _elements_of(kind))
        for each in islice(value, _MOST_ELEMENTS):
            _check(f"an element of {name.removeprefix('an element of ')}", each, elements)
    if Path in kinds and isinstance(value, str | os.PathLike):
        _check_path(name, os.fspath(value))


def _elements_of(kind: Any) -> tuple[Any, ...]:
    """What a list of this kind holds; nothing where it is no list."""
    if isinstance(kind, str):
        named, _, inner = kind.partition("[")
        return (inner[:-1],) if named == "Iterable" else ()
    return _kinds(get_args(kind)[0]) if get_origin(kind) in _LISTS else ()


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of one kind; kinds that are not known fit all."""
    if kind in (Any, Parameter.empty):
        return True
    if isinstance(kind, str):  # of a module that must not be imported
        named, _, inner = kind.strip().partition("[")
        if inner:
            return named != "Iterable" or _is_list(value)
        return not named.isidentifier() or any(each.__name__ == named for each in type(value).__mro__)
    if kind in (int, float):
        return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    origin = get_origin(kind) or kind
    if origin in _LISTS:
        return _is_list(value)
    if origin in _CONTAINERS:
        return isinstance(value, origin)
    # annotations of arrays have rules of their own
    return not isinstance(origin, type) or "jaxtyping" in origin.__module__ or isinstance(value, origin)


def _is_list(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:  # arrays of one number are, by their type
        return False
    return not isinstance(value, str | bytes | Mapping)


def _word(kind: Any) -> str:
    if isinstance(kind, str) and "[" in kind:
        return "a list"
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    known = None if isinstance(kind, str) else _WORDS.get(kind) or _CONTAINERS.get(get_origin(kind) or kind)
    return known or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _check_path(name: str, path: str | bytes) -> None:
    """Refuse what no system takes: NUL, or half a surrogate pair that no file has had in its name."""
    try:
        if b"\0" not in os.fsencode(path):
            return
    except UnicodeEncodeError:
        pass
    raise AttrGraphError(f"{name} is {path!r:.60}; expected a path without NUL and halves of surrogate pairs.")
