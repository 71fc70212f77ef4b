"""How the C library of this process treats memory that was freed."""

import contextlib
import ctypes
import os
import sys

__all__ = ["reuse_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def reuse_memory() -> None:
    """Have the process keep the memory of large arrays that it frees, for the next ones.

    glibc gives it back to the kernel, which hands it out again page by page, each cleared: up to a fifth of the time
    of a training step in PyTorch. Another C library, or glibc told otherwise by `MALLOC_TRIM_THRESHOLD_`, does as it
    does.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 1 << 30)
