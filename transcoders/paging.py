"""Pages of memory-mapped weights that have been read and are not needed soon."""

import ctypes
import mmap
import sys

import psutil
from torch import Tensor

# Linux 5.4: reclaim these pages now. What is in a file is dropped and read again when asked for; nothing is ever lost.
_MADV_PAGEOUT = 21


def page_out(x: Tensor) -> None:
    """Let the system have the memory of a tensor's pages. On systems that cannot, and for GPU tensors, do nothing."""
    if sys.platform != "linux" or x.device.type != "cpu" or not x.numel():
        return
    start = x.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    end = x.data_ptr() + x.nbytes  # of a view with gaps between its rows, only a part
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def is_scarce(n_bytes: int) -> bool:
    """Whether so much would take more than half of the memory that is free."""
    return n_bytes > psutil.virtual_memory().available // 2
