"""A process that hangs is ended, and reports where."""

import subprocess
import sys
from pathlib import Path

import pytest

STILL = """
import sys, time, threading
from pathlib import Path
from bertds.distributed import watchdog
from bertds.distributed.world import World
watchdog.MARGIN_S = 0.2
watchdog._CALLBACK_S = 1.0

def on_timeout(sentence):
    Path(sys.argv[1]).write_text(sentence)
    if sys.argv[2] == "mute":
        time.sleep(600)

def somewhere_deep():
    time.sleep(600)

with watchdog.Watchdog(World(rank=3, world_size=4), 1.0, on_timeout) as dog:
    for step in range(6):
        dog.heartbeat("computing", step)
        time.sleep(0.3)
    list(dog.through(iter([1, 2]), "validating"))
    if sys.argv[2] != "well":
        somewhere_deep()
time.sleep(1.5)
print("continued")
"""


def stand_still(words: Path, how: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", STILL, str(words), how],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("how", ["speaking", "mute"])
def test_a_hang_is_reported_with_its_stack(how: str, tmp_path: Path) -> None:
    """Also if the timeout callback itself hangs, as on a dead file system."""
    code, _, said = stand_still(tmp_path / "words", how)
    assert code == 70
    assert "in somewhere_deep" in said
    assert "rank 3 on" in said
    assert "hung for 1 s while validating (step 5)" in said
    assert (tmp_path / "words").read_text() in said


def test_a_live_process_is_left_alone(tmp_path: Path) -> None:
    """1.8 s of steps under a limit of 1.2 s, and 1.5 s after the end."""
    code, output, said = stand_still(tmp_path / "words", "well")
    assert (code, output) == (0, "continued\n"), said
    assert not (tmp_path / "words").exists()
