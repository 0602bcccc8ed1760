"""A run's directory: `case.json` (what was asked) and `status.json` (how it goes).

Supervisors and reports read these files, so they are replaced as a whole, never half-written.
"""

import datetime
import json
import logging
from pathlib import Path
from typing import Any, Literal

from bertds.case.file import CaseError
from bertds.replacing import replacing

logger = logging.getLogger("bertds")
PREEMPTED = 75
"""Exit code of a run that stopped before its end: run the same command again."""
State = Literal["running", "done", "pre-empted", "failed"]
# A change of these in a run that has begun would break its order, masks or shapes.
_FIXED = ("train_batch_size", "bertds.model", "bertds.data", "bertds.masking", "bertds.run.seed")
_FREE = (
    "bertds.data.cache_dir",
    "bertds.data.cache_gb",
    "bertds.model.gradient_checkpointing",  # what an error of no memory advises
)


def write_json(path: Path, value: Any, *, contested: bool = False) -> None:
    """Replace a JSON file at once; `contested` as for `replacing`."""
    with replacing(path, contested=contested) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's block; empty if there is no such file.

    Raises:
        ValueError: The file is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, it is written anew") from error
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - the user's file is at fault
            f"{path} is no JSON block: delete it, it is written anew"
        )
    return value


def write_status(
    run_dir: Path, state: State, code: int, message: str, step: int, *, contested: bool = False
) -> None:
    """How the run goes; a disk that does not take it is said, and ends nothing.

    Args:
        run_dir: The run's directory.
        state: What it does.
        code: The exit code that the run would end with.
        message: One sentence.
        step: Optimizer steps done.
        contested: As for `replacing`.
    """
    status = {"state": state, "code": code, "message": message, "step": step, "updated": now()}
    try:
        write_json(run_dir / "status.json", status, contested=contested)
    except OSError as error:
        logger.error("status.json could not be written (%s); it should say: %s", error, status)


def now() -> str:
    """The time, in ISO 8601 with zone."""
    return datetime.datetime.now(datetime.UTC).astimezone().isoformat(timespec="seconds")


def check_unchanged(run_dir: Path, config: dict[str, Any]) -> list[str]:
    """What a case file says otherwise than when the run began.

    Args:
        run_dir: The run's directory.
        config: The resolved case file.

    Returns:
        One text for each change that takes effect now.

    Raises:
        CaseError: Something changed that the run's batches or weights depend on.
    """
    saved = read_json(run_dir / "case.json").get("config")
    if saved is None:
        return []
    before, after = _flat(saved), _flat(config)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        text = f"{key}: {before.get(key, 'not given')} -> {after.get(key, 'not given')}"
        is_fixed = any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)
        if is_fixed and key not in _FREE:
            raise CaseError(
                f"{run_dir} was begun with another setting ({text}), which a run may not change: "
                "restore it, or train into another --out"
            )
        changes.append(text)
    return changes


def _flat(block: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """`a.b` to the JSON of its value."""
    flat: dict[str, str] = {}
    for key, value in block.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat
