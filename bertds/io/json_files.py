"""JSON files that are read whole and replaced atomically."""

import json
from pathlib import Path
from typing import Any

from bertds.io.atomic import atomic_write


def write_json(path: Path, value: Any, *, concurrent_writers: bool = False) -> None:
    """Replace a JSON file at once; `concurrent_writers` as for `replacing`."""
    with atomic_write(path, concurrent_writers=concurrent_writers) as file:
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
