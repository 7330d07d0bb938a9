"""Adam that updates only rows with a gradient where gradients are sparse, and PyTorch's fused Adam where not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from attrgraph.transcoders.training.shards import Shards

_SETTINGS: dict[str, Any] = {
    "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False, "fused": True
}  # fmt: skip


class RowAdam:
    """Adam (Kingma & Ba 2015) in which a row without a gradient keeps its weights and moments ("lazy").

    Args:
        parameters: by name; those of `replicated` are the same in every process and updated alike by each.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], shards: Shards, *, replicated: frozenset[str]) -> None:
        self._parameters, self._shards, self._replicated = parameters, shards, replicated
        self.n_steps = 0
        self.last_norm = torch.zeros(())  # of all gradients together, before clipping
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float, max_norm: float) -> None:
        """Update from `.grad`, clipped to `max_norm` over all parameters together, and drop the gradients."""
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        gradients = {name: g.coalesce() if g.is_sparse else g for name, g in gradients.items()}
        self.last_norm = self._norm(gradients)
        scale = (self.last_norm / max_norm).clamp_min(1.0)
        dense: list[tuple[Tensor, ...]] = []
        for name, gradient in gradients.items():
            state = (self._parameters[name].data, self.first[name], self.second[name])
            if not gradient.is_sparse:
                dense.append((*state, gradient))
                continue
            rows = gradient.indices()[0]
            gathered = tuple(tensor[rows] for tensor in state)
            self._adam([(*gathered, gradient.values())], learning_rate, scale)
            for tensor, updated in zip(state, gathered, strict=True):
                tensor.index_copy_(0, rows, updated)
        if dense:
            self._adam(dense, learning_rate, scale)
        self.n_steps += 1
        for p in self._parameters.values():
            p.grad = None

    def _adam(self, tensors: list[tuple[Tensor, ...]], lr: float, scale: Tensor) -> None:
        """One fused step on tuples of weights, first and second moments and gradients, which it divides by `scale`."""
        p, first, second, g = (list(column) for column in zip(*tensors, strict=True))
        steps = [torch.full((), float(self.n_steps), device=x.device) for x in p]
        adam(p, g, first, second, [], steps, grad_scale=scale, lr=lr, **_SETTINGS)

    def _norm(self, gradients: dict[str, Tensor]) -> Tensor:
        """Of all gradients together, other processes' included."""
        device = next(iter(self._parameters.values())).device
        own, shared = (torch.zeros((), device=device) for _ in range(2))
        for name, gradient in gradients.items():
            values = gradient.values() if gradient.is_sparse else gradient
            total = shared if name in self._replicated else own
            total += torch.linalg.vector_norm(values).square()
        return (self._shards.sum_(own) + shared).sqrt()
