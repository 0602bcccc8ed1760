"""The faults that `python -m data_prep verify` finds in a directory."""

import contextlib
import io
from pathlib import Path

from bertds.errors import ShardError
from data_prep.__main__ import verify


def faults_of(directory: Path) -> list[str]:
    """List the faults, one line each, and check the exit code."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as output,
    ):
        code = verify(directory)
    faults = output.getvalue().splitlines()
    assert code == (ShardError.code if faults else 0)
    return faults
