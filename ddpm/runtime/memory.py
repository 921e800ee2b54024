"""How this process holds on to memory."""

import ctypes
import os

# glibc's names for what `mallopt` sets (malloc.h), and as much as it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _GIB = 2**31 - 1, 2**30


def keep_freed_memory() -> None:
    """Let what this process frees serve its next allocations, instead of going back to the system.

    glibc maps large blocks (above 32 MiB; at first 128 KiB) anew each time, unmaps them when they are freed, and
    trims what it holds, so that a step touches fresh pages, which the kernel has to clear. In a run at batch 64 it was
    25,000 to 50,000 pages a step, 5 to 10 % of its time on a CPU; at batch 4 few, once images had been loaded. The
    price is that the process stays as large as it once was. Nothing happens where the allocator is another, or where
    the environment has set it up.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return
    mallopt(_M_MMAP_THRESHOLD, _GIB)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
