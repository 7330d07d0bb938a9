"""Observing and changing what goes through a model's modules while it runs; the model itself stays as it is."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# of the batch that is run: OPT's blocks put its rows one after the other for the MLP and the norm in front of it
_n_rows: ContextVar[int] = ContextVar("n_rows", default=1)


@contextmanager
def rows(n_rows: int) -> Iterator[None]:
    """While the context lasts, batches that are run have so many rows."""
    token = _n_rows.set(n_rows)
    try:
        yield
    finally:
        _n_rows.reset(token)


def _by_row(x: Tensor) -> Tensor:
    return x.unflatten(0, (_n_rows.get(), -1)) if x.ndim == 2 else x


def on_input(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> AbstractContextManager[None]:
    """While the context lasts, `see(index, x)` is called with the stream that enters each of the modules.

    What it returns, unless that is None, enters the module instead. Gradients flow through.
    """

    def hook(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        changed = see(index, _by_row(stream))
        if changed is None:
            return None
        changed = changed.reshape(stream.shape)
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return _attached(m.register_forward_pre_hook(partial(hook, i), with_kwargs=True) for i, m in enumerate(modules))


def asked_for_patterns(modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """While the context lasts, attention modules that give their pattern only when asked are asked."""

    def ask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "output_attentions": True}

    silent = [module for module in modules if "output_attentions" in inspect.signature(module.forward).parameters]
    return _attached(module.register_forward_pre_hook(ask, with_kwargs=True) for module in silent)


def on_output(modules: Sequence[nn.Module], see: Callable[[int, Any], Tensor | None]) -> AbstractContextManager[None]:
    """While the context lasts, `see(index, output)` is called with what each of the modules computes.

    What it returns, unless that is None, takes the output's place. Of several outputs, as experts have, the first.
    """

    def first(index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        outputs = output if isinstance(output, tuple) else (output,)
        # Falcon's blocks add to what the MLP returns in place: neither may be what somebody keeps
        changed = see(index, _by_row(outputs[0].clone()))
        if changed is None:
            return None
        changed = changed.reshape(outputs[0].shape).clone()
        return (changed, *outputs[1:]) if isinstance(output, tuple) else changed

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
