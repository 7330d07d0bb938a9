"""Numbers that are not finite: which weights hold them, or that computing overflowed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from attrgraph.errors import ResultError

# of numbers that are copied or widened at a time: a choice
_AT_ONCE = 2**24
# weights that have a row for each feature
_BY_FEATURE = ("W_enc", "b_enc", "W_dec", "threshold")


def is_finite(x: Tensor) -> bool:
    """Whether all numbers are, of any floating type: eight bits are widened, with which torch computes nothing."""
    if x.element_size() == 1:
        return all(is_finite(part.float()) for part in x.split(max(1, _AT_ONCE // max(1, x[:1].numel()))))
    x = x.T if x.ndim == 2 and x.stride(0) == 1 else x  # ten times faster in the order of memory
    return not x.numel() or bool(torch.isfinite(torch.stack(x.aminmax())).all())


def where_not_finite(weights: Mapping[str, Tensor | None], features: Tensor | None = None) -> str:
    """Which of the weights hold NaN or infinite values, and of which feature first; empty if none do.

    Args:
        weights: by name.
        features: of transcoders, only the rows of these are read.
    """
    for name, w in weights.items():
        w = None if w is None else w.detach()
        if w is None or (features is None and is_finite(w)):
            continue
        if name not in _BY_FEATURE:
            return name
        rows = torch.arange(len(w)) if features is None else features.unique().cpu()
        for some in rows.split(max(1, _AT_ONCE // max(1, w[:1].numel()))):
            part = w.index_select(0, some.to(w.device)).flatten(1) if w.ndim > 1 else w[some.to(w.device)][:, None]
            is_right = torch.isfinite(part.float() if part.element_size() == 1 else part).all(1)
            if not bool(is_right.all()):
                return f"{name} of feature {int(some[(~is_right.cpu()).nonzero()[0, 0]])}"
    return ""


def not_finite(
    what: str, of: str, weights: Mapping[str, Tensor | None], dtype: torch.dtype, features: Tensor | None = None
) -> ResultError:
    """The error to raise: weights that are not finite, or, with weights that are, overflow.

    Args:
        what: is not finite, in the plural.
        of: whose weights.
        weights: all that took part, by name.
        dtype: in which it was computed.
        features: of transcoders, those that took part; None for all.
    """
    name = str(dtype).removeprefix("torch.")
    if where := where_not_finite(weights, features):
        why = f"{of}'s weights hold NaN or infinite values ({where}); copy or download them again"
    else:
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(name, "float64")
        why = f"numbers overflow in {name}; use dtype {wider}, or look for extreme weights"
    return ResultError(f"{what} are not finite: {why}.")
