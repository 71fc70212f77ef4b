"""How the C library of this process treats memory that was freed."""

import contextlib
import ctypes
import os
import sys

__all__ = ["reuse_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGEST = (1 << 30, 1 << 25)
"""Sizes below which memory is kept, in bytes: what glibc takes, and what it took before version 2.35."""


def reuse_memory() -> None:
    """Have the process keep the memory of arrays that it frees, for the next ones.

    glibc gives that of large arrays back to the kernel, which hands it out again page by page, each cleared: a tenth to
    a fifth of the time of some training steps in PyTorch. Other C libraries are left alone, and so is a glibc that the
    environment tells what to do (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    told = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if sys.platform != "linux" or told:
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # The second parameter ends glibc's own adapting of the first, so it is set only where that was taken.
        if any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST):
            mallopt(M_TRIM_THRESHOLD, LARGEST[0])
