"""Observing and changing what goes through a model's modules while it runs; the model itself stays as it is.

A model's layers may run on several devices. Whoever observes them sees all on one, that of the tokens which are run, so
that nothing else need know.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn

# Held by the thread that observes or runs a model: hooks are the modules'. One for all models, since two may share
# modules; what is computed from a run is not done under it. Who calls the Hugging Face model itself does not take it.
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

    return _attached((m.register_forward_pre_hook, partial(hook, i)) for i, m in enumerate(modules))


def asked_for_patterns(modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """While the context lasts, attention modules that give their pattern only when asked are asked."""

    def ask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "output_attentions": True}

    silent = [module for module in modules if "output_attentions" in inspect.signature(module.forward).parameters]
    return _attached((module.register_forward_pre_hook, ask) for module in silent)


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

    return _attached((m.register_forward_hook, partial(hook, i)) for i, m in enumerate(modules))


@contextmanager
def _attached(hooks: Iterable[tuple[Callable[..., Any], Callable[..., Any]]]) -> Iterator[None]:
    """While the context lasts, these hooks are attached, each by its module's method, to what this thread runs."""
    with alone, ExitStack() as stack:
        for register, hook in hooks:
            stack.enter_context(register(_of_this_thread(hook), with_kwargs=True))
        yield


def _of_this_thread(act: Callable[..., Any]) -> Callable[..., Any]:
    own = get_ident()

    # another thread may have taken a hook that is just being removed: it is then called without keywords
    def hook(*call: Any) -> Any:
        return act(*call) if get_ident() == own else None

    return hook


@contextmanager
def setting(config: Any, name: str, value: str) -> Iterator[None]:
    """While the context lasts, a setting of a configuration has another value for this thread."""
    if getattr(config, name) == value:
        yield
        return
    kind, own = type(config), get_ident()
    inherited = getattr(kind, name)

    def read(config: Any) -> Any:
        return value if get_ident() == own else inherited.fget(config)

    # a thread that runs the model meanwhile has made its mask for its own kind of attention
    config.__class__ = type(
        kind.__name__, (_Plain, kind), {name: property(read, inherited.fset), "__module__": kind.__module__}
    )
    try:
        yield
    finally:
        config.__class__ = kind


class _Plain:
    """Comes before a configuration's class, which would make whoever inherits from it a data class."""

    def __init_subclass__(cls) -> None:
        pass
