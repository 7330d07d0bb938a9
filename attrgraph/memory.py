"""How much memory there is, and how much of it a trace may take."""

import re

import psutil
import torch

from attrgraph.errors import AttrGraphError

# of what is free when a trace begins
_SHARE = 0.5
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses, on a GPU or in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def parse_bytes(size: int | str) -> int:
    """A number of bytes from a number or from text such as "8G", "512M" or "1.5 GiB" (units are powers of 1024).

    Raises:
        AttrGraphError: it is neither, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", str(size).upper())
    n_bytes = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if n_bytes < 1:
        raise AttrGraphError(f"memory budget is {size!r}; expected a number of bytes, or a size such as 8G or 512M.")
    return n_bytes


def budget_bytes(budget: int | str | None, device: torch.device) -> int:
    """The budget asked for, or half of what is free on the device."""
    return int(_SHARE * free_bytes(device)) if budget is None else parse_bytes(budget)


def in_words(n_bytes: int) -> str:
    """For messages: "1.5 GiB"."""
    size, unit = n_bytes / 2**10, "KiB"
    for larger in ("MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"
