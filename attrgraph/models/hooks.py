"""Observing and changing what goes through a model's modules while it runs; the model itself stays as it is.

A model's layers may run on several devices. Whoever observes them sees all on one, that of the tokens which are run, so
that nothing else need know.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Held by the thread that observes or runs a model: hooks and settings are the modules', so other threads would see
# them. One for all models, since two may share modules; what is computed from a run is not done under it.
alone = RLock()
# of the batch that is run, how many rows, which OPT's blocks put one after the other for the MLP and the norm in front
# of it, and where
_batch: ContextVar[tuple[int, torch.device | None]] = ContextVar("batch", default=(1, None))


@contextmanager
def running(token_ids: Tensor) -> Iterator[None]:
    """While the context lasts, this batch is run."""
    token = _batch.set((len(token_ids), token_ids.device))
    try:
        yield
    finally:
        _batch.reset(token)


def at_home(x: Tensor) -> Tensor:
    """What a layer computes, where the tokens of the batch are."""
    _, device = _batch.get()
    return x if device is None else x.to(device)


def _by_row(x: Tensor) -> Tensor:
    n_rows, _ = _batch.get()
    return at_home(x.unflatten(0, (n_rows, -1)) if x.ndim == 2 else x)


def on_input(modules: Sequence[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> AbstractContextManager[None]:
    """While the context lasts, `see(index, x)` is called with the stream that enters each of the modules.

    What it returns, unless that is None, enters the module instead. Gradients flow through.
    """

    def hook(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        changed = see(index, _by_row(stream))
        if changed is None:
            return None
        changed = changed.reshape(stream.shape).to(stream.device)
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
        changed = changed.reshape(outputs[0].shape).to(outputs[0].device).clone()
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
    with alone, ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
