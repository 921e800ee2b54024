"""Freed memory is kept for the next allocation."""

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from ddpm.runtime.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(sum(pages() for _ in range(5)))
"""


def fresh_pages(how: str, **env: str) -> int:
    """The number of fresh pages for five allocations of 64 MiB, after a first one, in a separate process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNT, how]
    return int(subprocess.run(command, env=clean | env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") else True, reason="needs glibc")
def test_what_is_freed_is_not_fetched_again() -> None:
    """64 MiB are 16,384 pages. Catches thresholds that are not set, or only one of the two, whatever their values. Also
    catches a program that overrides the user's own settings."""
    assert fresh_pages("kept") < 1000
    assert fresh_pages("default") > 50_000
    assert fresh_pages("kept", MALLOC_MMAP_THRESHOLD_="65536") > 50_000
