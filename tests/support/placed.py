"""Pretended devices: tensors in memory that say they lie elsewhere. An operation across two devices is an error.

What `autograd` does backwards cannot be pretended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE = torch.device("cpu")
# PyTorch's name for devices of others
PLACES = torch.device("privateuseone:0"), torch.device("privateuseone:1")
# None before version 2.9
_register: Any = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
CAN_PRETEND = _register is not None

_aten = torch.ops.aten
_MOVES = (_aten._to_copy.default, _aten.copy_.default)
# whose indices may lie in memory
_INDEXED = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class Placed(Tensor):
    """A tensor in memory that says it lies on another device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "Placed":
        how: dict[str, Any] = {"dtype": held.dtype, "device": device, "strides": held.stride()}
        how |= {"storage_offset": held.storage_offset(), "requires_grad": held.requires_grad}
        made: Placed = torch.Tensor._make_wrapper_subclass(cls, held.shape, **how)
        made.held = held
        return made

    def __init__(self, held: Tensor, device: torch.device) -> None: ...

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do in memory what is asked of placed tensors."""
    inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    # single numbers in memory may meet others anywhere
    meeting = inputs[:1] if func in _INDEXED else [x for x in inputs if x.ndim or x.device != HERE]
    devices = {x.device for x in meeting}
    assert len(devices) <= 1 or func in _MOVES, f"{func} of tensors on {devices}"
    where = args[0].device if func in _MOVES else next(iter(devices), HERE)
    if kwargs.get("device") is not None:
        where, kwargs = torch.device(kwargs["device"]), {**kwargs, "device": HERE}
    placed = {id(x.held): x for x in inputs if isinstance(x, Placed)}
    held, settings = tree_map(lambda x: x.held if isinstance(x, Placed) else x, (args, kwargs))
    out = func(*held, **settings)
    if where == HERE:
        return out
    # what is changed in place stays the tensor that it is
    return tree_map(lambda x: placed.get(id(x), Placed(x, where)) if isinstance(x, Tensor) else x, out)


class _Placing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Unseen(TorchFunctionMode):
    """Does openly what nothing would see: tensors of Python's numbers are moved, products squeezed in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            x, index, *value = args
            parts = index if isinstance(index, tuple) else (index,)
            return func(x, tuple(torch.tensor(i) if isinstance(i, list) else i for i in parts), *value)
        if func in (torch.tensor, Tensor.new_tensor):
            like, *numbers = (None, *args) if func is torch.tensor else args
            how = ({} if like is None else {"dtype": like.dtype, "device": like.device}) | kwargs
            return torch.tensor(*numbers, **{**how, "device": HERE}).to(how.get("device", HERE))
        if func in (Tensor.__matmul__, Tensor.matmul, torch.matmul) and args[0].ndim == 1 and args[1].ndim == 2:
            return (args[0][None] @ args[1])[0]
        return func(*args, **kwargs)


class _Elsewhere:
    """What PyTorch asks of a module for devices; that none is there, so that nobody takes them unasked."""

    def is_available(self) -> bool:
        return False

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 0


@contextmanager
def pretended_devices() -> Iterator[None]:
    """While the context lasts, tensors can be made on and moved to `PLACES`."""
    if not hasattr(torch, "privateuseone"):
        _register(backend_module=_Elsewhere())
    with _Unseen(), _Placing():
        yield


def spread(parts: dict[nn.Module, torch.device], whole: nn.Module) -> None:
    """Put parts of a model on devices, and have them fetch what they read, as accelerate does; answers come back."""

    def fetch(x: Any, device: torch.device) -> Any:
        return tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, x)

    def run(forward: Any, device: torch.device, *args: Any, **kwargs: Any) -> Any:
        return forward(*fetch(args, device), **fetch(kwargs, device))

    def answer(forward: Any, **kwargs: Any) -> Any:
        return fetch(forward(**kwargs), kwargs["input_ids"].device)

    for module, device in parts.items():
        module.to(device)
        module.forward = partial(run, module.forward, device)
        module._hf_hook = SimpleNamespace(execution_device=device)  # type: ignore[assignment]
    whole.forward = partial(answer, whole.forward)
