"""Observing and changing what goes through a model's modules while it runs; the model itself stays as it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def on_input(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> AbstractContextManager[None]:
    """While the context lasts, `see(index, x)` is called with the stream that enters each of the modules.

    What it returns, unless that is None, enters the module instead. Gradients flow through.
    """

    def hook(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = see(index, args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return _attached(m.register_forward_pre_hook(partial(hook, i), with_kwargs=True) for i, m in enumerate(modules))


def on_output(modules: Sequence[nn.Module], see: Callable[[int, Any], Tensor | None]) -> AbstractContextManager[None]:
    """While the context lasts, `see(index, output)` is called with what each of the modules computes.

    What it returns, unless that is None, takes the output's place. Of several outputs, as experts have, the first.
    """

    def first(index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not isinstance(output, tuple):
            return see(index, output)
        changed = see(index, output[0])
        return None if changed is None else (changed, *output[1:])

    return on_call(modules, first)


def on_call(
    modules: Sequence[nn.Module], see: Callable[[int, tuple[Any, ...], dict[str, Any], Any], Tensor | None]
) -> AbstractContextManager[None]:
    """`on_output` whose `see(index, args, kwargs, output)` gets the arguments of the call too."""

    def hook(index: int, _: nn.Module, *call: Any) -> Any:
        return see(index, *call)

    return _attached(m.register_forward_hook(partial(hook, i), with_kwargs=True) for i, m in enumerate(modules))


@contextmanager
def _attached(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """While the context lasts, the hooks of these handles are attached."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
