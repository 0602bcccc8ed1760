"""What `python -m data_prep verify` says of a directory."""

import contextlib
import io
from pathlib import Path

from bertds.errors import ShardError
from data_prep.__main__ import verify


def faults_of(directory: Path) -> list[str]:
    """The faults that it names, one sentence each; its exit code must agree."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        code = verify(directory)
    faults = said.getvalue().splitlines()
    assert code == (ShardError.code if faults else 0)
    return faults
