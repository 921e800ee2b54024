"""How this process keeps freed memory."""

import ctypes
import os

# glibc's parameters of `mallopt` (malloc.h), and their largest useful values.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _GIB = 2**31 - 1, 2**30


def keep_freed_memory() -> None:
    """Reuse freed memory for the next allocations instead of returning it to the system.

    By default glibc maps large blocks (above 32 MiB; at first 128 KiB) anew each time, so that every step touches fresh
    pages, which the kernel must clear: at batch 64, 25,000 to 50,000 pages a step, 5 to 10 % of its time on a CPU. The
    price is that the process stays as large as it ever was. Does nothing with another allocator, or if the environment
    configures glibc's.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return
    mallopt(_M_MMAP_THRESHOLD, _GIB)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
