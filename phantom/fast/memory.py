"""Memory for a long-running process: what the allocator and the garbage collector do with it."""

from __future__ import annotations

import ctypes
import gc
import sys

#: glibc hands freed blocks above 128 KiB back to the kernel at once and asks for them again,
#: page fault by page fault (mallopt(3)).  Our buffers are up to 1 MiB.
MMAP_THRESHOLD = 4 * 1024 * 1024
#: ... and what is free at the top of the heap may stay: a few sessions' worth of buffers.
TRIM_THRESHOLD = 8 * 1024 * 1024
# mallopt(3)'s names for the two.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

#: Objects made, less those gone, between two looks at the youngest generation, and how many of
#: those between looks at the older two.  CPython's default of 700 runs at every seventh
#: connection; a connection's own cycles are few (they are broken by hand where they occur).
GC_THRESHOLDS = (20_000, 20, 50)


def settle() -> None:
    """Set the process up for a long run; called once when everything is loaded.

    What exists by then (modules, classes, the configuration) lives as long as the process,
    so the collector need not look at it again.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):
            mallopt = None  # not glibc
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
            mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
