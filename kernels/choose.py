"""Which implementation of an op runs: Triton on a GPU, PyTorch elsewhere, unless ATTRGRAPH_KERNELS says otherwise."""

import os
from importlib.util import find_spec

from torch import Tensor

from attrgraph.errors import AttrGraphError


def uses_triton(x: Tensor) -> bool:
    """Whether an op on `x` runs as a Triton kernel.

    `ATTRGRAPH_KERNELS=torch` or `triton` decides; without it, `x` has to be on a CUDA device and Triton installed.

    Raises:
        AttrGraphError: the variable has another value, or asks for what cannot be had.
    """
    asked = os.environ.get("ATTRGRAPH_KERNELS", "auto")
    if asked not in ("auto", "torch", "triton"):
        raise AttrGraphError(f"ATTRGRAPH_KERNELS is {asked!r}; expected torch, triton or auto.")
    if asked == "triton":
        if find_spec("triton") is None:
            raise AttrGraphError(
                "ATTRGRAPH_KERNELS=triton, but triton is not installed; install it or unset the variable."
            )
        if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise AttrGraphError(
                f"ATTRGRAPH_KERNELS=triton, but the tensor is on {x.device}; expected a CUDA device, or "
                "TRITON_INTERPRET=1 to interpret kernels on a CPU."
            )
        return True
    return asked == "auto" and x.is_cuda and find_spec("triton") is not None
