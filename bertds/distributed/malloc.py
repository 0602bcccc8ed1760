"""Settings of glibc's memory allocator for computing on a CPU.

By default glibc returns large blocks to the system as soon as they are freed. Every step then asks
for them again, and the system fills them with zeros first. Here freed memory stays with the process,
which makes a step faster and its peak memory larger: `benchmarks/results/malloc.md`.
"""

import ctypes
import logging
import os
import platform

logger = logging.getLogger("bertds")

_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
# From malloc.h, with the largest values that make sense: an int, and blocks that no step exceeds.
_TRIM_THRESHOLD = (-1, (1 << 31) - 1)
_MMAP_THRESHOLD = (-3, 1 << 30)
_OLD_MMAP_THRESHOLD = (-3, 1 << 25)
"""The largest that older versions of glibc accept; by itself it rises to this at most."""
_TUNABLES = "GLIBC_TUNABLES"


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; elsewhere than on glibc nothing happens.

    Variables by which the user has set the allocator are respected.

    Returns:
        Whether freed memory is kept because of this call.
    """
    is_set = "glibc.malloc" in os.environ.get(_TUNABLES, "")
    if (
        is_set
        or any(name in os.environ for name in _VARIABLES)
        or platform.libc_ver()[0] != "glibc"
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # The threshold of mmap first: the other one alone would freeze it at its small initial value.
    if not mallopt(*_MMAP_THRESHOLD) and not mallopt(*_OLD_MMAP_THRESHOLD):
        return False
    mallopt(*_TRIM_THRESHOLD)
    logger.info(
        "freed memory stays with the process (glibc), which is faster but takes more memory: "
        "run.keep_freed_memory false turns it off"
    )
    return True
