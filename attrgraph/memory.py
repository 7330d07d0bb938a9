"""How much memory there is, how much of it a trace may take, and tensors that take much."""

import ctypes
import gc
import re
import sys

import psutil
import torch
from torch import Tensor

from attrgraph.errors import AttrGraphError

# of what is free when a trace begins
_SHARE = 0.5
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_HUGE_PAGE, _MADV_HUGEPAGE = 2**21, 14


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses, on a GPU or in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def own_bytes() -> int:
    """What this process uses of the machine's memory; where the system tells, without pages that are a file's."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back is not None:  # what the allocator keeps, though nobody uses it, would count
        gc.collect()
        give_back(0)
    held = psutil.Process().memory_info()
    return int(held.rss) - int(getattr(held, "shared", 0))


def large_empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor of the type and device of another; if it is large, on huge pages where Linux has them.

    The first write to each page of new memory costs far more than the write itself.
    """
    x = like.new_empty(shape)
    if sys.platform == "linux" and x.device.type == "cpu":
        start = -(-x.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        size = (x.data_ptr() + x.nbytes) // _HUGE_PAGE * _HUGE_PAGE - start
        if size > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    return x


def parse_bytes(size: int | str, *, name: str = "memory budget") -> int:
    """A number of bytes from a number or from text such as "8G", "512M" or "1.5 GiB" (units are powers of 1024).

    Raises:
        AttrGraphError: it is neither, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", str(size).upper())
    n_bytes = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if n_bytes < 1:
        raise AttrGraphError(f"{name} is {size!r}; expected a number of bytes, or a size such as 8G or 512M.")
    return n_bytes


def budget_bytes(budget: int | str | None, device: torch.device) -> int:
    """The budget asked for, or half of what is free on the device."""
    return int(_SHARE * free_bytes(device)) if budget is None else parse_bytes(budget)


def in_words(n_bytes: int) -> str:
    """For messages: "1.5 GiB"."""
    unit = next((unit for unit in "GM" if n_bytes >= _UNITS[unit]), "K")
    return f"{n_bytes / _UNITS[unit]:.1f} {unit}iB"
