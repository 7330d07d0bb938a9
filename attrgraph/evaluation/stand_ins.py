"""What stands in for a model's MLPs while it is measured: transcoders here, a few neurons in `neurons`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attrgraph.models.frozen import widened
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.live import replaced_mlps
from attrgraph.models.live_replacement import added_by, read_of, replace_with
from attrgraph.transcoders import Transcoders


class Reconstruction(NamedTuple):
    """One layer's reconstructed MLP output, and the units that took part in it."""

    out: Float[Tensor, "n_tokens d_model"]
    is_active: Bool[Tensor, "n_tokens n_units"]


@runtime_checkable
class StandIn(Protocol):
    """Computes MLP outputs from the model's activations, with sparsely active units: features or neurons."""

    @property
    def source(self) -> dict[str, Any]:
        """What to write about it into reports; "id" is its name."""

    @property
    def n_units(self) -> Sequence[int]:
        """Number of units by layer."""

    @property
    def weights(self) -> Mapping[str, Tensor | None]:
        """Its own by name, besides the model's."""

    def read_module(self, layer: int) -> nn.Module:
        """The module of the model whose input the units of a layer read."""

    def reconstruct(self, reads: Sequence[Tensor]) -> Iterator[Reconstruction]:
        """What the MLP branches add to the stream, layer by layer from the bottom, given what is read at each layer."""

    def in_place(self, is_replaced: Tensor) -> AbstractContextManager[None]:
        """While the context lasts, the model runs with its MLPs replaced at the tokens [n_rows, n_pos] chosen."""


class TranscoderStandIn:
    """Transcoders in place of the MLPs.

    Raises:
        TranscoderError: they do not fit the model, or it is not clear where they read.
    """

    def __init__(self, model: LanguageModel, transcoders: Transcoders) -> None:
        transcoders.check_fits(n_layers=model.n_layers, d_model=model.d_model)
        # either refuses before any text is read
        replace_with(model, transcoders, torch.zeros(0, 0, dtype=torch.bool))
        read_of(model, transcoders, 0, torch.zeros(1, model.d_model, device=model.device))
        self._model, self._transcoders = model, transcoders

    @property
    def source(self) -> dict[str, Any]:
        config = self._transcoders.config
        return {**self._transcoders.source, "kind": config.model_kind, "n_features": self._transcoders.n_features}

    @property
    def n_units(self) -> Sequence[int]:
        return self._transcoders.n_features

    @property
    def weights(self) -> Mapping[str, Tensor | None]:
        layers = enumerate(self._transcoders.layers)
        return {f"{name} of layer {layer}": w for layer, weights in layers for name, w in vars(weights).items()}

    def read_module(self, layer: int) -> nn.Module:
        return self._model.mlp_norm_module(layer)

    def reconstruct(self, reads: Sequence[Tensor]) -> Iterator[Reconstruction]:
        """In at least float32, whatever the model runs in."""
        pending: dict[int, Tensor] = {}  # what lower layers have written into the layers to come
        for layer, read in enumerate(reads):
            read = read_of(self._model, self._transcoders, layer, widened(read))
            for above, part in enumerate(self._transcoders.contributions(layer, read).unbind(1)):
                pending[layer + above] = pending[layer + above] + part if layer + above in pending else part
            out = pending.pop(layer) + self._transcoders.bias(layer).to(read)
            out = added_by(self._model, self._transcoders, layer, out)
            yield Reconstruction(out, self._transcoders.encode_layer(layer, read) != 0)

    def in_place(self, is_replaced: Tensor) -> AbstractContextManager[None]:
        return replaced_mlps(self._model, replace_with(self._model, self._transcoders, is_replaced))
