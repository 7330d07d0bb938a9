"""Features split over processes: which ones each holds, and the sums and gathers that make the result exact.

Every process sees the whole batch and holds a contiguous block of each layer's features, encoder and decoder rows. What
the blocks write is summed; the best scores of all blocks together decide which features are on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from attrgraph.errors import AttrGraphError


@dataclass(frozen=True)
class Shards:
    """This process's place among those that train together; the default is alone."""

    rank: int = 0
    n_ranks: int = 1

    def features(self, n_features: int) -> slice:
        """The features of a layer that this process holds.

        Raises:
            AttrGraphError: they cannot be split evenly.
        """
        if n_features % self.n_ranks:
            raise AttrGraphError(
                f"n_features is {n_features}, which {self.n_ranks} processes cannot split evenly; "
                f"expected a multiple of {self.n_ranks}."
            )
        size = n_features // self.n_ranks
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum_(self, x: Tensor) -> Tensor:
        """The sum of every process's `x`, in place."""
        if self.n_ranks > 1:
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every process's `x`, by rank; all of one shape."""
        if self.n_ranks == 1:
            return [x]
        parts = [torch.empty_like(x) for _ in range(self.n_ranks)]
        dist.all_gather(parts, x.contiguous())
        return parts

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        """The `x` of process `source`, in place; all of one shape."""
        x = x.contiguous()
        if self.n_ranks > 1:
            dist.broadcast(x, src=source)
        return x

    def agree(self, value: float) -> float:
        """Rank 0's value: clocks differ."""
        if self.n_ranks == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return float(self.broadcast(torch.tensor([value], dtype=torch.float64, device=device), 0))

    def barrier(self) -> None:
        if self.n_ranks > 1:
            dist.barrier()


def into_shards(x: Tensor, shards: Shards) -> Tensor:
    """`x`; its gradient is the sum of the gradients that every process's features give it."""
    return x if shards.n_ranks == 1 else _SumOverProcesses.apply(x, shards, False)  # type: ignore[no-untyped-call]


def out_of_shards(x: Tensor, shards: Shards) -> Tensor:
    """The sum of every process's `x`. All processes go on with it alike, so each one's gradient is the sum's."""
    return x if shards.n_ranks == 1 else _SumOverProcesses.apply(x, shards, True)  # type: ignore[no-untyped-call]


class _SumOverProcesses(Function):
    """Sums `x` over processes in the forward direction, or else its gradient in the backward direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shards: Shards, is_forward: bool) -> Tensor:
        ctx.shards, ctx.is_forward = shards, is_forward
        return shards.sum_(x.clone()) if is_forward else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient if ctx.is_forward else ctx.shards.sum_(gradient.contiguous().clone()), None, None


@contextmanager
def process_group(device: str) -> Iterator[tuple[Shards, str]]:
    """This process's place among those that torchrun started, and its device; alone without torchrun.

    Args:
        device: as given to `load_model`; with several processes on GPUs each takes the one of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Shards(), device
        return
    is_on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if is_on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # one process may write a cache of activations while the others wait
    dist.init_process_group("nccl" if is_on_gpu else "gloo", timeout=timedelta(hours=24))
    try:
        place = Shards(dist.get_rank(), dist.get_world_size())
        yield place, f"cuda:{os.environ['LOCAL_RANK']}" if is_on_gpu else "cpu"
    finally:
        dist.destroy_process_group()
