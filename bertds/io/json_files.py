"""JSON files that are read as a whole, and replaced atomically."""

import json
from pathlib import Path
from typing import Any

from bertds.io.atomic import atomic_write


def write_json(path: Path, value: Any, *, concurrent_writers: bool = False) -> None:
    """Replace a JSON file atomically; `concurrent_writers` as in `atomic_write`."""
    with atomic_write(path, concurrent_writers=concurrent_writers) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that this program writes; an empty object if the file does not exist.

    Raises:
        ValueError: The file is not a JSON object.
    """
    return read_json_object(path, default={}, remedy="delete it, it will be written again")


def read_json_object(
    path: Path,
    error: type[ValueError] = ValueError,
    *,
    name: str | None = None,
    default: dict[str, Any] | None = None,
    max_bytes: int | None = None,
    remedy: str | None = None,
) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: The file.
        error: The class of the errors.
        name: Name of the file in messages; its path if not given.
        default: Returned if the file does not exist; if not given, that is an error.
        max_bytes: Maximum size of the file; any size if not given.
        remedy: What to do about an error, the end of its message.

    Raises:
        ValueError: Of the class `error`: the file is missing, too large, or not a JSON object.
        OSError: The file cannot be read.
    """
    name = name or str(path)
    end = f": {remedy}" if remedy else ""
    if not path.is_file():
        if default is None:
            raise error(f"{name} is missing{end}")
        return default
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise error(f"{name} has more than {max_bytes:,} bytes{end}")
    return parse_json_object(path.read_bytes(), name, error, end)


def parse_json_object(
    content: bytes, name: str, error: type[ValueError] = ValueError, end: str = ""
) -> dict[str, Any]:
    """Parse a JSON object; `name` and `end` are the parts of an error message around the fault."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise error(f"{name} is not JSON ({fault}){end}") from fault
    if not isinstance(value, dict):
        raise error(f"{name} is not a JSON object{end}")
    return value
