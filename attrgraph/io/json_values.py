"""Values as JSON files hold them: what counts as text, a number, a share, an integer."""

import re
from sys import float_info
from typing import Any

# 18 digits fit into an int64
_INTEGER = re.compile(r"-?\d{1,18}")
# 1, and the rounding of a float32 sum
LARGEST_SHARE = 1 + 1e-6


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def are_texts(value: Any) -> bool:
    """Whether it is a list of nothing but text."""
    return isinstance(value, list) and all(map(is_text, value))


def is_number(value: Any, largest: float = float_info.max) -> bool:
    """Whether it is a finite number; Booleans are none."""
    return type(value) in (int, float) and abs(value) <= largest


def is_share(value: Any) -> bool:
    """Whether it is a number from 0 to 1, or above 1 by no more than rounding."""
    return is_number(value) and 0 <= value <= LARGEST_SHARE


def integer(value: Any) -> int | None:
    """An integer that JSON holds as a number or, as layers are written, as text; None if it is neither."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else None


def from_numpy(value: Any) -> Any:
    """For `json.dumps`: numpy's numbers and arrays as Python's; other things are an error."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"a {type(value).__name__} where text, numbers, lists and dictionaries are expected")
    return value.tolist()
