"""A direction of the stream, such as a probe's or a refusal direction."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attrgraph.errors import TargetError, checked, whole_number


@checked
@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of the stream that enters a block, as a target of a trace or as something to change.

    Args:
        vector: its entries in the stream, of any length but 0.
        layer: the block that the stream enters; the number of blocks for the stream that enters the final norm. These
            are the numbers of Hugging Face's `hidden_states`.
        pos: which position, from the end if negative; in an intervention also a slice. None is the last in a trace, and
            all in an intervention.

    Raises:
        TargetError: the vector is not one row of finite numbers, or is 0.
    """

    vector: Float[np.ndarray, " d_model"] | Float[Tensor, " d_model"]
    layer: int
    pos: int | slice | None = None

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector)
        is_row = vector.ndim == 1 and len(vector) > 0 and not vector.is_complex()
        if not is_row or not bool(torch.isfinite(vector).all()) or not bool((vector != 0).any()):
            raise TargetError(
                f"a direction has a vector of shape {list(vector.shape)}; expected [d_model] finite numbers, not all 0."
            )
        object.__setattr__(self, "layer", whole_number("layer", self.layer, least=0, error=TargetError))
