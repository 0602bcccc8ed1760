"""The manifest `made.json` next to an output: what the output was made from.

With it a finished output is recognized and kept, and an output made from something else is never
overwritten. The recipe in it holds options and digests of the input, but no file names or times.
Equal recipes therefore mean equal outputs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertds.io.atomic import atomic_write
from bertds.io.json_files import parse_json_object
from data_prep.output.storage import OutputPath

MANIFEST_NAME = "made.json"
Recipe = Mapping[str, Any]


def is_up_to_date(manifest: OutputPath, outputs: Sequence[OutputPath], recipe: Recipe) -> bool:
    """Whether all outputs exist and were made by this recipe.

    Raises:
        FileExistsError: Some exist, but were made by another recipe or not by this program.
    """
    existing = [path for path in outputs if path.exists()]
    content = _read(manifest)
    if not existing and content is None:
        return False
    if content is not None and content.get("recipe") == json.loads(encode_json(recipe)):
        return len(existing) == len(outputs)
    raise FileExistsError(
        f"{(existing or [manifest])[0]} already exists, made from other text or with other "
        "options: choose another output, or delete it first"
    )


def write_manifest(
    manifest: Path, recipe: Recipe, counts: Mapping[str, Any], **more: Mapping[str, Any]
) -> None:
    """Write the manifest before the outputs, so that this program makes no output without one.

    Shard sets get it last: until then, the recipe in their work directory takes its place.
    """
    with atomic_write(manifest) as file:
        file.write(encode_json({"recipe": recipe, "counts": counts, **more}))


def read_counts(manifest: OutputPath, name: str = "counts") -> dict[str, Any]:
    """Read the counts that `write_manifest` stored under a name; empty without them."""
    counts: dict[str, Any] = json.loads(manifest.read_bytes()).get(name, {})
    return counts


def read_recipe(manifest: OutputPath) -> Recipe | None:
    """Read the recipe that `write_manifest` stored; None if there is no valid manifest."""
    recipe = (_read(manifest) or {}).get("recipe")
    return recipe if isinstance(recipe, dict) else None


def encode_json(value: Any) -> bytes:
    """Encode a value as JSON; equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read(manifest: OutputPath) -> dict[str, Any] | None:
    """The content of a manifest: None without a file, empty if it is not a JSON object."""
    try:
        return parse_json_object(manifest.read_bytes(), str(manifest))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
