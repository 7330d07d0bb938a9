"""Running the model with its MLP outputs observed, replaced or changed while attention and norms stay live."""

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


@contextmanager
def changed_run(
    model: LanguageModel,
    point: str,
    change: Callable[[int, Tensor], Tensor],
    embedding: Float[Tensor, "n_pos d_model"],
) -> Iterator[None]:
    """While the context lasts, MLP outputs at a write point are `change(layer, out)`, and the stream begins changed.

    Args:
        model: runs one prompt at a time.
        point: of `transcoders.config.WRITE_POINTS`.
        change: gets and gives [n_pos, d_model].
        embedding: what comes to the stream that enters the first block.
    """
    handles = []

    def substitute(layer: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            return change(layer, out[0])[None]

        return hook

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] + embedding.to(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + embedding.to(kwargs["hidden_states"])}

    try:
        for layer in range(model.n_layers):
            module = model.mlp_module(layer) if point == "hook_mlp_out" else model.mlp_inner_module(layer)
            handles.append(module.register_forward_hook(substitute(layer)))
        handles.append(model.layer_modules()[0].register_forward_pre_hook(begin, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
