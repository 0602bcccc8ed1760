"""Checkpoint directories: names, manifest, verification, pruning. No engine is needed.

    checkpoints/step_0000001000/  rank_00000.safetensors ...  state.json  manifest.json
    checkpoints/latest  best      pointers: the name of a directory, for people and scripts

A checkpoint is written into a draft directory (`step_0000001000.tmp-<uuid>`), the manifest last, and
then renamed. So a directory with a final name is complete, whatever was killed and when. The
manifest holds size and SHA-256 of every file, names and shapes of all parameters, and its own
SHA-256, so that a flipped bit anywhere is found. Checkpoints are found by directory and manifest,
never by `latest`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bertds.errors import CheckpointError
from bertds.io.atomic import atomic_write, sync
from bertds.io.json_files import read_json_object

FORMAT = "bertds-checkpoint"
VERSION = 1
_DIRECTORY = re.compile(r"step_\d{10}")
_FILE = re.compile(r"rank_\d{5}\.safetensors|state\.json")


class WrittenFile(NamedTuple):
    """The manifest's entry of one file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose files match its manifest."""

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    skipped: tuple[str, ...] = ()
    """A message for each newer checkpoint that is damaged."""

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
    """The directory of a step's checkpoint."""
    return run_dir / "checkpoints" / f"step_{step:010d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint directory."""
    return int(path.name.removeprefix("step_"))


def draft_path(directory: Path) -> Path:
    """A new name for a directory that is not yet, or no longer, a checkpoint."""
    return directory.with_name(f"{directory.name}.tmp-{uuid.uuid4().hex}")


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The directories of complete checkpoints, newest step first; not verified."""
    parent = run_dir / "checkpoints"
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if _DIRECTORY.fullmatch(p.name)), reverse=True)


def resolve_pointer(run_dir: Path, name: str) -> Path | None:
    """The directory that `best` or `latest` names, if it exists; not verified."""
    pointer = run_dir / "checkpoints" / name
    target = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    directory = pointer.with_name(target) if _DIRECTORY.fullmatch(target) else None
    return directory if directory is not None and directory.is_dir() else None


def write_pointer(run_dir: Path, name: str, directory: Path) -> None:
    """Let `latest` or `best` name a directory, atomically."""
    with atomic_write(run_dir / "checkpoints" / name) as file:
        file.write(f"{directory.name}\n".encode())


def open_checkpoint(path: Path) -> Checkpoint:
    """Open one checkpoint and verify every file.

    Raises:
        CheckpointError: A file is missing or does not match the manifest.
    """
    verify(path)
    return Checkpoint(path=path, manifest=read_manifest(path))


def verify(path: Path, rank: int = 0, world_size: int = 1) -> None:
    """Check the manifest, the size of every file, and the hash of this rank's part of the files.

    Raises:
        CheckpointError: A file is missing or does not match the manifest.
    """
    for index, (name, entry) in enumerate(sorted(read_manifest(path)["files"].items())):
        file = path / name
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{path / 'manifest.json'} names an unknown file, {name!r}")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{file} has {size:,} bytes, expected {entry['bytes']:,}")
        if index % world_size == rank:
            with file.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            if sha256 != entry["sha256"]:
                raise CheckpointError(f"{file} is damaged: its sha256 differs from the manifest")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint directory.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    file = path / "manifest.json"
    manifest = read_json(file)
    if manifest.pop("sha256", None) != _hash_of(manifest):
        raise CheckpointError(f"{file} is damaged: it does not match its own sha256")
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file} has format {manifest['format']} {manifest['version']}, expected {FORMAT} "
            f"{VERSION}: read it with the version that wrote it"
        )
    return manifest


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: It is missing, or not a JSON object.
    """
    try:
        return read_json_object(file, CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error


def write_json(path: Path, value: Mapping[str, Any]) -> WrittenFile:
    """Write plain JSON and flush it to disk.

    Raises:
        OSError: The disk is full, or the path cannot be written.
        ValueError, TypeError: The value cannot be expressed in JSON, such as NaN.
    """
    data = json.dumps(value, allow_nan=False, indent=1).encode()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path.name, len(data), hashlib.sha256(data).hexdigest())


def finalize(
    draft: Path, directory: Path, metadata: Mapping[str, Any], files: Iterable[WrittenFile]
) -> None:
    """Make a draft a checkpoint: write the manifest, flush, rename.

    Args:
        draft: The directory with the files, flushed to disk.
        directory: Its final name. A checkpoint with this name (damaged, or written before) is
            replaced.
        metadata: Further entries of the manifest.
        files: The files in it.

    Raises:
        OSError: The disk is full, or a name cannot be changed.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **metadata,
        "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files},
    }
    write_json(draft / "manifest.json", manifest | {"sha256": _hash_of(manifest)})
    sync(draft)
    if directory.exists():
        directory.rename(draft_path(directory))
    draft.rename(directory)
    sync(directory.parent)


def is_multiple(step: int, keep_every: int | None) -> bool:
    """Whether the checkpoint of a step is never removed; `keep_every` None keeps none."""
    return keep_every is not None and step % keep_every == 0


def prune(newest: Path, keep_last: int, keep_every: int | None = None) -> None:
    """Remove old checkpoints, abandoned later ones, and drafts of killed saves.

    The `keep_last` newest up to `newest` are kept, the best, and the multiples of `keep_every` steps.
    What was kept as such a multiple stays, also if `keep_every` has changed. Steps after `newest` were
    abandoned when the run went back to an older checkpoint.
    """
    run_dir = newest.parent.parent
    current = [path for path in list_checkpoints(run_dir) if path.name <= newest.name]
    kept = {*current[:keep_last], resolve_pointer(run_dir, "best")}
    kept |= {p for p in current if is_multiple(step_of(p), keep_every) or was_kept(p)}
    for path in list_checkpoints(run_dir):
        if path not in kept:
            # Renamed first, so that a part of it is never taken for a checkpoint.
            with contextlib.suppress(OSError):
                path.rename(draft_path(path))
    remove_drafts(run_dir)


def was_kept(path: Path) -> bool:
    """Whether a checkpoint was written as one that is never removed."""
    try:
        return bool(read_manifest(path).get("kept"))
    except CheckpointError:
        return False  # it cannot be loaded


def remove_drafts(run_dir: Path) -> None:
    """Remove what killed saves have left."""
    for path in (run_dir / "checkpoints").glob("step_*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _hash_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
