"""Running the model with its MLP outputs observed or replaced while attention and norms stay live."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from attrgraph.models.language_model import LanguageModel

# (layer, what enters the MLP's norm, what the MLP branch adds to the stream) -> what to add instead
ReplaceMlp = Callable[
    [int, Float[Tensor, "n_rows n_pos d_model"], Float[Tensor, "n_rows n_pos d_model"]],
    Float[Tensor, "n_rows n_pos d_model"],
]


@contextmanager
def replaced_mlps(model: LanguageModel, replace: ReplaceMlp) -> Iterator[None]:
    """While the context lasts, every MLP branch adds `replace(layer, stream, out)` to the stream instead of `out`.

    Layers are called from the bottom up, so a replacement may keep what lower layers computed. Returning `out` itself
    leaves the model as it is, which makes this an observer too. Gradients flow through.
    """
    streams: dict[int, Tensor] = {}
    handles = []

    def remember(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            streams[layer] = args[0]

        return hook

    def substitute(layer: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            return replace(layer, streams[layer], out)

        return hook

    try:
        for layer in range(model.n_layers):
            handles.append(model.mlp_norm_module(layer).register_forward_pre_hook(remember(layer)))
            handles.append(model.mlp_module(layer).register_forward_hook(substitute(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
