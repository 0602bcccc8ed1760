"""What an output was made from, kept beside it as `made.json`.

So a finished output is recognised and left alone, and another one in the way is refused, never
overwritten. The recipe holds options and the digests of what was read, no names or times, so that
equal recipes mean equal outputs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertds.io.atomic import atomic_write
from bertds.io.json_files import parse_json_object
from data_prep.output.storage import Place

MADE_NAME = "made.json"
Recipe = Mapping[str, Any]


def is_up_to_date(record: Place, outputs: Sequence[Place], recipe: Recipe) -> bool:
    """Whether the outputs are there and were made by this recipe.

    Raises:
        FileExistsError: Some are there, but made by another recipe or by hand.
    """
    there = [path for path in outputs if path.exists()]
    found = _read(record)
    if not there and found is None:
        return False
    if found is not None and found.get("recipe") == _plain(recipe):
        return len(there) == len(outputs)
    raise FileExistsError(
        f"{(there or [record])[0]} is there already, made of other text or with other options: "
        "name another output, or delete it first"
    )


def write_manifest(record: Path, recipe: Recipe, counts: Mapping[str, Any]) -> None:
    """Say what is made: before the first output, so that one without a note is someone else's.

    Shards, whose unfinished work has a note of its own, get it last.
    """
    with atomic_write(record) as file:
        file.write(as_json({"recipe": recipe, "counts": counts}))


def counts_of(record: Place) -> dict[str, Any]:
    """The counts that `record_made` kept."""
    counts: dict[str, Any] = json.loads(record.read_bytes())["counts"]
    return counts


def as_json(value: Any) -> bytes:
    """A value as the same bytes each time."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read(record: Place) -> dict[str, Any] | None:
    try:
        return parse_json_object(record.read_bytes(), str(record))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _plain(recipe: Recipe) -> Any:
    """The recipe as it reads back from JSON."""
    return json.loads(as_json(recipe))
