"""A run's directory: `case.json` (what was asked) and `status.json` (how it goes).

Supervisors and reports read these files, so they are replaced as a whole, never half-written.
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
    """How the run goes; a disk that does not take it is said, and ends nothing.

    Args:
        run_dir: The run's directory.
        state: What it does.
        code: The exit code that the run would end with.
        message: One sentence.
        step: Optimizer steps done.
        concurrent_writers: As for `replacing`.
    """
    status = {"state": state, "code": code, "message": message, "step": step, "updated": now()}
    try:
        write_json(run_dir / "status.json", status, concurrent_writers=concurrent_writers)
    except OSError as error:
        logger.error("status.json could not be written (%s); it should say: %s", error, status)


def now() -> str:
    """The time, in ISO 8601 with zone."""
    return datetime.datetime.now(datetime.UTC).astimezone().isoformat(timespec="seconds")
