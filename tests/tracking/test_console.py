"""Console logging."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.distributed.world import World
from bertds.tracking import console

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


def test_a_terminal_omits_what_its_bar_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log file has every line, and so has a console that is not a terminal."""
    handlers = logging.getLogger("bertds").handlers
    logger = console.set_up(World())
    try:
        with console.log_to_file(tmp_path / "log", World()):
            logger.info("first", extra=console.FILE_ONLY)
            monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
            logger.info("second", extra=console.FILE_ONLY)
            logger.info("third")
    finally:
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(logging.NOTSET)
    shown = [line.split()[-1] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["first", "third"]
    assert (tmp_path / "log").read_text().count("INFO") == 3
