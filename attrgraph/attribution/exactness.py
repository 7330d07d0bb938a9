"""Whether a graph is as exact as its precision allows, and if not, where the model's run and the graph's part.

The local replacement model gives the true model's numbers but for rounding. It does not if something else than the
plain model ran (a hook that changes a stream or an embedding, another forward pass), or if numbers are so large that
sums lose theirs.
"""

import math
from typing import Any

import torch

from attrgraph.attribution.replacement import Deviation
from attrgraph.errors import ResultError

# By how much of their spread logits may be off, and by how much of what a node reads the sum of its inputs. Random
# models of four families stay below half of each; models whose stream has long tokens lose more. In float64
# transformers still computes RMS norms in float32.
LIMITS = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}


def check_exactness(deviation: Deviation, gap: float, dtype: torch.dtype, *, allow_inexact: bool) -> dict[str, Any]:
    """Judge what was measured: a graph's `metadata["checks"]`, in which `is_exact` is the judgement.

    Args:
        deviation: of the local replacement model from the true one.
        gap: see `rows.input_sum_gap`.
        dtype: in which the model ran.
        allow_inexact: say it in the result instead of raising an error.

    Raises:
        ResultError: a number is not finite; or the graph is not exact, and `allow_inexact` is not set.
    """
    name, limit = str(dtype).removeprefix("torch."), LIMITS[dtype]
    if not all(map(math.isfinite, (deviation.logits, gap))):
        raise ResultError(f"sums overflow in {name}: weights or activations hold extreme values; try float64.")
    is_exact = _agrees(deviation, limit) and gap <= limit
    if not is_exact and not allow_inexact:
        raise ResultError(
            f"the graph is not exact: {_by_how_much(deviation)} and inputs' sums by {gap:.1g} of what nodes read, "
            f"{_why(deviation, dtype)} Remove it, or pass --allow-inexact (allow_inexact=True), which marks the graph."
        )
    measured = {"logit_deviation": deviation.logits, "logit_spread": deviation.spread, "input_sum_gap": gap}
    return {**measured, "is_exact": is_exact}


def check_replacement(deviation: Deviation, dtype: torch.dtype) -> None:
    """Raise ResultError unless the local replacement model gives what the true one gives, as its precision allows."""
    if not _agrees(deviation, LIMITS[dtype]):
        raise ResultError(
            f"the run cannot be frozen exactly: {_by_how_much(deviation)}, {_why(deviation, dtype)} Remove it, or "
            "choose mode constrained or free."
        )


def _agrees(deviation: Deviation, limit: float) -> bool:
    # logits that are all the same have no spread: then the deviation itself counts
    return deviation.logits <= limit * (deviation.spread or 1.0) and _same_embedding(deviation, limit)


def _same_embedding(deviation: Deviation, limit: float) -> bool:
    return deviation.embedding <= min(limit, 0.01)  # it is rounded once, in bfloat16 by 0.004 at most


def _by_how_much(deviation: Deviation) -> str:
    embedding = f"embeddings differ from the weights' by {deviation.embedding:.2g} of their length, "
    return (
        f"{embedding if deviation.embedding > 1e-6 else ''}logits differ from the model's by {deviation.logits:.3g} "
        f"(their spread is {deviation.spread:.3g})"
    )


def _why(deviation: Deviation, dtype: torch.dtype) -> str:
    name, limit = str(dtype).removeprefix("torch."), LIMITS[dtype]
    parts = next((layer for layer, share in enumerate(deviation.reads) if not share <= limit), None)
    where = "after the last layer" if parts is None else f"before the MLP of layer {parts}"
    where = where if _same_embedding(deviation, limit) else "at the embeddings"
    return (
        f"where {name} allows {limit:g}; the two runs part {where}. Something changes the model's forward pass (a "
        "hook, quantisation), or weights are extreme."
    )
