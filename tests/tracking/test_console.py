"""What is said goes to standard error, and nothing ends because that cannot be written."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from bertds.distributed.world import World
from bertds.tracking import console
console.set_up(World()).error("the disk is full")
print("training goes on")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_error_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.stdout == "training goes on\n"
