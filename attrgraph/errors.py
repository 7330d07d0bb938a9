"""What can go wrong through no fault of this package. Every message says what, got, expected, and what to do.

Numbers that a caller gives are refused, or made Python's own, where they come in: files and JSON hold no others.
"""

from collections.abc import Iterable, Mapping
from numbers import Real
from operator import index
from typing import Any


class AttrGraphError(ValueError):
    """Base of every error that a user's input can cause."""


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


def whole_number(name: str, value: Any, *, least: int) -> int:
    """The value as an `int`.

    Raises:
        AttrGraphError: a truth value, a fraction, no number at all, or one that is too small.
    """
    whole = as_whole(value)
    if whole is not None and whole >= least:
        return whole
    raise AttrGraphError(f"{name} is {value!r:.60}; expected a whole number of at least {least}.")


def share(name: str, value: Any) -> float:
    """The value as a `float` from 0 to 1.

    Raises:
        AttrGraphError: a truth value, no number at all, or one outside.
    """
    if is_real(value) and 0 <= value <= 1:
        return float(value)
    raise AttrGraphError(f"{name} is {value!r:.60}; expected a number from 0 to 1.")
