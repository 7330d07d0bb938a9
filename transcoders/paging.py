"""Give back the memory of used weights that lie in memory-mapped files."""

import ctypes
import mmap
import sys

import numpy as np
from torch import Tensor

_MADV_DONTNEED = 4
# bits of an entry of /proc/self/pagemap (proc_pid_pagemap(5))
_PRESENT, _SWAPPED, _OF_FILE = (1 << bit for bit in (63, 62, 61))


def release(x: Tensor) -> None:
    """Take a mapped tensor's pages out of the process; they stay in the system's cache and come back when read.

    Of a view (a transposed matrix, a part of each row) all pages between its first element and its last. Only pages
    that are the file's own: a tensor in memory, or one that somebody has written to, is left as it is. Does nothing on
    systems other than Linux and for GPU tensors.
    """
    if sys.platform != "linux" or x.device.type != "cpu" or not x.numel():
        return
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    first = -(-x.data_ptr() // mmap.PAGESIZE)
    end = (x.data_ptr() + (last + 1) * x.element_size()) // mmap.PAGESIZE
    if end <= first:
        return
    try:
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(8 * first)
            pages = np.frombuffer(file.read(8 * (end - first)), dtype=np.uint64)
    except OSError:
        return
    is_own = (pages & np.uint64(_PRESENT) == 0) | (pages & np.uint64(_OF_FILE) != 0)
    if len(pages) == end - first and bool((is_own & (pages & np.uint64(_SWAPPED) == 0)).all()):
        where, size = first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(where), ctypes.c_size_t(size), _MADV_DONTNEED)
