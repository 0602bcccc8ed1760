"""The folders of checkpoints: their names, manifest and verification. No engine is needed.

    checkpoints/step_0000001000/  rank_00000.safetensors ...  state.json  manifest.json
    checkpoints/latest  best      the name of a folder, for people and scripts

The manifest is written last, into a draft folder (`step_0000001000.tmp-<uuid>`) that is renamed
after it. So a folder under a final name is complete, whatever was killed and when. It holds size
and sha256 of every file, names and shapes of all parameters, and its own sha256, so a flipped bit
anywhere is found. Discovery goes by folder and manifest, never by `latest`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bertds.errors import CheckpointError
from bertds.io.atomic import atomic_write, sync

FORMAT = "bertds-checkpoint"
VERSION = 1
_FOLDER = re.compile(r"step_\d{10}")
_FILE = re.compile(r"rank_\d{5}\.safetensors|state\.json")


class WrittenFile(NamedTuple):
    """What the manifest says of one file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are as they were written."""

    path: Path
    manifest: dict[str, Any]
    skipped: tuple[str, ...] = ()
    """A sentence for each newer checkpoint that is damaged."""

    @property
    def step(self) -> int:
        """Optimizer steps before it was written."""
        return int(self.manifest["step"])

    @property
    def tensor_files(self) -> list[Path]:
        """The files of weights and moments."""
        names = sorted(self.manifest["files"])
        return [self.path / name for name in names if name.endswith(".safetensors")]


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step_{step:010d}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The folders of complete checkpoints, newest step first; not verified."""
    parent = run_dir / "checkpoints"
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if _FOLDER.fullmatch(p.name)), reverse=True)


def resolve_pointer(run_dir: Path, name: str) -> Path | None:
    """The folder that `best` or `latest` names, if there is one; not verified."""
    link = run_dir / "checkpoints" / name
    target = link.read_text(encoding="utf-8").strip() if link.is_file() else ""
    folder = link.with_name(target) if _FOLDER.fullmatch(target) else None
    return folder if folder is not None and folder.is_dir() else None


def open_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint by its folder, every file verified.

    Raises:
        CheckpointError: A file is missing or not as it was written.
    """
    verify(path)
    return Checkpoint(path=path, manifest=read_manifest(path))


def verify(path: Path, rank: int = 0, world_size: int = 1) -> None:
    """Check the manifest, the size of every file, and the hash of this process's share of them.

    Raises:
        CheckpointError: A file is missing or not as it was written.
    """
    for index, (name, facts) in enumerate(sorted(read_manifest(path)["files"].items())):
        file = path / name
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{path / 'manifest.json'} names a strange file, {name!r}")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise CheckpointError(f"{file} has {size:,} bytes instead of {facts['bytes']:,}")
        if index % world_size == rank and _sha256_of(file) != facts["sha256"]:
            raise CheckpointError(f"{file} is damaged: its sha256 is not that of the manifest")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint's folder.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    file = path / "manifest.json"
    manifest = read_json(file)
    if manifest.pop("sha256", None) != _hash_of(manifest):
        raise CheckpointError(f"{file} is damaged: its sha256 is not its own")
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file} has format {manifest['format']} {manifest['version']}, wanted {FORMAT} "
            f"{VERSION}: read it with the program that wrote it"
        )
    return manifest


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file's block.

    Raises:
        CheckpointError: It is missing, or not a JSON block.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON block")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> WrittenFile:
    """Write plain JSON, which is on disk when this returns.

    Raises:
        OSError: The disk is full, or the path cannot be written.
        ValueError, TypeError: The value holds what JSON cannot say, such as NaN.
    """
    data = json.dumps(value, allow_nan=False, indent=1).encode()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path.name, len(data), hashlib.sha256(data).hexdigest())


def finalize(
    draft: Path, folder: Path, facts: Mapping[str, Any], files: Iterable[WrittenFile]
) -> None:
    """Make a draft a checkpoint: manifest, sync, rename.

    Args:
        draft: The folder that holds the files, synced.
        folder: Its final name; a checkpoint there (damaged, or of the same step) is replaced.
        facts: What else the manifest says.
        files: What was written.

    Raises:
        OSError: The disk is full, or a name cannot be changed.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **facts,
        "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files},
    }
    write_json(draft / "manifest.json", manifest | {"sha256": _hash_of(manifest)})
    sync(draft)
    if folder.exists():
        folder.rename(draft_path(folder))
    draft.rename(folder)
    sync(folder.parent)


def draft_path(folder: Path) -> Path:
    """A name, never used before, for a folder that is not or no longer a checkpoint."""
    return folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")


def write_pointer(run_dir: Path, name: str, folder: Path) -> None:
    """Let `latest` or `best` name a folder, at one stroke."""
    with atomic_write(run_dir / "checkpoints" / name) as file:
        file.write(f"{folder.name}\n".encode())


def prune(newest: Path, keep_last: int) -> None:
    """Remove old checkpoints, and what a killed save or an abandoned course has left.

    Kept are the `keep_last` newest up to `newest`, and the best. Later steps than `newest` are
    those of a course that was given up for an older checkpoint.
    """
    run_dir = newest.parent.parent
    course = [path for path in list_checkpoints(run_dir) if path.name <= newest.name]
    kept = {*course[:keep_last], resolve_pointer(run_dir, "best")}
    for path in list_checkpoints(run_dir):
        if path not in kept:
            # Renamed first, so that half of it is never taken for a checkpoint.
            with contextlib.suppress(OSError):
                path.rename(draft_path(path))
    remove_drafts(run_dir)


def remove_drafts(run_dir: Path) -> None:
    """Remove what killed saves have left."""
    for path in (run_dir / "checkpoints").glob("step_*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
