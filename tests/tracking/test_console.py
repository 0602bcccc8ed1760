"""Console logging."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from bertds.distributed.world import World
from bertds.tracking import console
console.set_up(World()).error("the disk is full")
print("training continues")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stderr_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.stdout == "training continues\n"
