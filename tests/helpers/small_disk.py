"""A real disk that is soon full."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(target: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size, such as `1m`; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(target)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)
