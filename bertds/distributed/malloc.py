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

# From malloc.h, with the largest values that make sense: an int, and blocks that no step exceeds.
_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30),
}
_TUNABLES = "GLIBC_TUNABLES"


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; elsewhere than on glibc nothing happens.

    Variables by which the user has set the allocator are respected.

    Returns:
        Whether freed memory is kept because of this call.
    """
    is_set = "glibc.malloc" in os.environ.get(_TUNABLES, "")
    if is_set or any(name in os.environ for name in _SETTINGS) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not all(mallopt(*setting) for setting in _SETTINGS.values()):
        return False
    logger.info(
        "freed memory stays with the process (glibc), which is faster but takes more memory: "
        "run.keep_freed_memory false turns it off"
    )
    return True
