"""Observing and changing what goes through a model's modules while it runs; the model itself stays as it is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def on_input(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """While the context lasts, `see(index, x)` is called with the stream that enters each of the modules.

    What it returns, unless that is None, enters the module instead. Gradients flow through.
    """

    def hook_of(index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = see(index, args[0] if args else kwargs["hidden_states"])
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        return hook

    with ExitStack() as handles:
        for index, module in enumerate(modules):
            handles.enter_context(module.register_forward_pre_hook(hook_of(index), with_kwargs=True))
        yield


@contextmanager
def on_output(modules: Sequence[nn.Module], see: Callable[[int, Any], Tensor | None]) -> Iterator[None]:
    """While the context lasts, `see(index, output)` is called with what each of the modules computes.

    What it returns, unless that is None, takes the output's place.
    """

    def hook_of(index: int) -> Callable[..., Any]:
        return lambda module, args, output: see(index, output)

    with ExitStack() as handles:
        for index, module in enumerate(modules):
            handles.enter_context(module.register_forward_hook(hook_of(index)))
        yield


@contextmanager
def on_call(module: nn.Module, see: Callable[[tuple[Any, ...], dict[str, Any], Any], None]) -> Iterator[None]:
    """While the context lasts, `see(args, kwargs, output)` is called after each call of the module."""
    with module.register_forward_hook(lambda _, args, kwargs, out: see(args, kwargs, out), with_kwargs=True):
        yield
