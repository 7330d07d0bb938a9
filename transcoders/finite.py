"""Why computed numbers are not finite."""

from collections.abc import Iterable

import torch
from torch import Tensor

from attrgraph.errors import ResultError


def is_finite(x: Tensor) -> bool:
    """Whether all numbers are, of any floating type: eight bits are widened, with which torch computes nothing."""
    x = x.float() if x.element_size() == 1 else x
    return not x.numel() or bool(torch.isfinite(torch.stack(x.aminmax())).all())


def not_finite(what: str, of: str, weights: Iterable[Tensor | None], dtype: torch.dtype) -> ResultError:
    """The error to raise: weights that are not finite, or, with weights that are, overflow.

    Args:
        what: is not finite, in the plural.
        of: whose weights.
        weights: all that took part.
        dtype: in which it was computed.
    """
    name = str(dtype).removeprefix("torch.")
    if all(w is None or is_finite(w.detach()) for w in weights):
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(name, "float64")
        why = f"numbers overflow in {name}; use dtype {wider}, or look for extreme weights"
    else:
        why = f"{of}'s weights hold NaN or infinite values; copy or download them again"
    return ResultError(f"{what} are not finite: {why}.")
