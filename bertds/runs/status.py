"""Writes `status.json`, the state of a run, which supervisors and reports read.

It is replaced atomically, so a reader never sees half of it.
"""

import datetime
import logging
from pathlib import Path
from typing import Literal

from bertds.io.json_files import write_json

logger = logging.getLogger("bertds")

State = Literal["running", "done", "pre-empted", "failed"]


def write_status(
    run_dir: Path,
    state: State,
    code: int,
    message: str,
    step: int,
    *,
    concurrent_writers: bool = False,
) -> None:
    """Replace `status.json`. If it cannot be written, log an error; the run continues.

    Args:
        run_dir: The run directory.
        state: The state of the run.
        code: The exit code that the run ends with, or would end with now.
        message: A one-line explanation.
        step: Optimizer steps done.
        concurrent_writers: As for `atomic_write`.
    """
    status = {"state": state, "code": code, "message": message, "step": step, "updated": now()}
    try:
        write_json(run_dir / "status.json", status, concurrent_writers=concurrent_writers)
    except OSError as error:
        logger.error("status.json cannot be written (%s); it lacks: %s", error, status)


def now() -> str:
    """The current time in ISO 8601 with a UTC offset."""
    return datetime.datetime.now(datetime.UTC).astimezone().isoformat(timespec="seconds")
