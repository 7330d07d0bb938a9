"""A small world of sparse causes, whose activations transcoders can learn."""

import torch

from attrgraph.transcoders import Transcoders
from attrgraph.transcoders.training.streams import Activations

N_LAYERS, D_MODEL, N_CAUSES = 2, 16, 12


class SparseWorld:
    """Reads of few directions out of 12; a layer writes a fixed map of its own and the lower layer's causes."""

    def __init__(self, *, seed: int = 0, n_tokens: int = 4096, poisoned_round: int | None = None) -> None:
        self._seed, self._n_tokens, self._poisoned_round = seed, n_tokens, poisoned_round
        fixed = torch.Generator().manual_seed(1)
        self._directions = torch.randn(N_CAUSES, D_MODEL, generator=fixed)
        self._maps = torch.randn(N_LAYERS, N_LAYERS, N_CAUSES, D_MODEL, generator=fixed)

    def round(self, index: int) -> Activations:
        generator = torch.Generator().manual_seed(1000 * self._seed + index)
        on = (torch.rand(N_LAYERS, self._n_tokens, N_CAUSES, generator=generator) < 0.1).float()
        strength = 0.5 + torch.rand(on.shape, generator=generator)
        causes = on * strength
        reads = causes @ self._directions + 3.0
        layers = range(N_LAYERS)
        writes = torch.stack([sum(causes[low] @ self._maps[low, up] for low in range(up + 1)) + 5.0 for up in layers])
        if index == self._poisoned_round:
            writes[:, 100] = torch.nan
        return Activations(reads, writes)


def nmse(transcoders: Transcoders, batch: Activations) -> list[float]:
    """By layer, of a finished set."""
    errors = []
    for layer, y in enumerate(batch.writes):
        parts = [transcoders.contributions(source, batch.reads[source]) for source in range(layer + 1)]
        out = transcoders.bias(layer) + sum(
            part[:, layer - source] for source, part in enumerate(parts) if layer - source < part.shape[1]
        )
        errors.append(float((out - y).square().sum() / (y - y.mean(0)).square().sum()))
    return errors


def l0(transcoders: Transcoders, batch: Activations) -> list[float]:
    """By layer, of a finished set."""
    encoded = [transcoders.encode_layer(layer, reads) for layer, reads in enumerate(batch.reads)]
    return [float((activations > 0).sum(1).float().mean()) for activations in encoded]
