"""Checkpoints: complete or absent, checked before use, loadable by any number of processes.

    checkpoints/step_0000001000/  rank_00000.safetensors ...  state.json  manifest.json
    checkpoints/latest  best      the name of a folder, for people and scripts

A checkpoint is written into ``step_0000001000.tmp-<uuid>``: every process writes, syncs and hashes
its own file, then process 0 writes the manifest (sizes and hashes of all files, names and shapes
of all parameters, its own hash), syncs and renames the folder. So a folder under a final name is
complete, whatever was killed and when, and a flipped bit in any file is found. Discovery goes by
manifests, newest step first, never by ``latest``.

A fault in one process is a fault in all: each stage ends with an exchange of outcomes, so nobody
waits for a process that has failed, and all raise the same sentence. Cost of a save: 12 bytes a
parameter under Adam, divided over the processes, written and hashed in one pass.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError

from bertds.fragments import (
    LOCAL,
    WEIGHT,
    CheckpointError,
    FragmentReader,
    WrittenFile,
    file_name,
    key_of,
    sha256_of,
    write_fragments,
    write_json,
)
from bertds.progress import progress, restore_progress
from bertds.zero_state import (
    fragments,
    load_moments,
    load_weights,
    optimizer_scalars,
    refresh_weights,
    shapes,
)

FORMAT = "bertds-checkpoint"
VERSION = 1
VISIBLE_WITHIN_S = 60.0
_FOLDER = re.compile(r"step_(\d{10})")
_FILE = re.compile(r"rank_\d{5}\.safetensors|state\.json")

T = TypeVar("T")


class Engine(Protocol):
    """What a checkpoint needs of the engine."""

    @property
    def deepspeed(self) -> Any:
        """The DeepSpeed engine."""

    @property
    def world(self) -> Any:
        """``rank`` and ``world_size``."""

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in process 0."""

    def broadcast_object(self, value: T) -> T:
        """The value of process 0, in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose files have been verified."""

    path: Path
    manifest: dict[str, Any]
    skipped: tuple[str, ...] = ()
    """One sentence for each newer checkpoint that was damaged."""

    @property
    def step(self) -> int:
        """Optimizer updates before it was written."""
        return int(self.manifest["step"])

    @property
    def tensor_files(self) -> list[Path]:
        """The files of weights and moments."""
        names = sorted(self.manifest["files"])
        return [self.path / name for name in names if name.endswith(".safetensors")]


def save(
    engine: Engine, run_dir: Path, state: dict[str, Any], *, keep_last: int, best: bool
) -> Path:
    """Writes a checkpoint of the present step; all processes must call it, between two steps.

    Afterwards only the ``keep_last`` newest and the best one are kept; those of later steps, left
    by a course that was abandoned, are removed.

    Args:
        engine: the engine.
        run_dir: the run's directory, on a file system that all processes share.
        state: plain JSON to be returned by `load`; that of process 0 counts.
        keep_last: how many to keep, at least 1.
        best: whether this one is the best so far.

    Returns:
        Its folder.

    Raises:
        CheckpointError: in all processes alike, if one could not write; older ones are unharmed.
    """
    assert keep_last >= 1
    is_first = engine.world.rank == 0
    folder = run_dir / "checkpoints" / f"step_{engine.deepspeed.global_steps:010d}"
    draft = folder.with_name(engine.broadcast_object(f"{folder.name}.tmp-{uuid.uuid4().hex}"))
    try:
        _together(engine, lambda: draft.mkdir(parents=True) if is_first else None)
        parts = _together(engine, lambda: _write_part(engine, draft, state))
        files = [file for part in parts for file in part]
        _together(engine, lambda: _commit(engine, draft, folder, files, best) if is_first else None)
        _together(engine, lambda: _wait_until_visible(folder))
    except CheckpointError as error:
        if is_first:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"Checkpoint {folder.name} was not written ({error}); earlier ones are unharmed."
        ) from error
    if is_first:
        _prune(folder, keep_last)
    return folder


def find_newest(engine: Engine, run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; all processes must call it.

    Each process hashes its share of the files, process 0 decides.

    Returns:
        The same in all processes; None if there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
    """
    skipped: list[str] = []
    for name in engine.broadcast_object([folder.name for folder in folders(run_dir)]):
        path = run_dir / "checkpoints" / name
        try:
            _verify_together(engine, path)
        except CheckpointError as error:
            skipped.append(f"{name} is skipped: {error}")
            continue
        return Checkpoint(path=path, manifest=_read_manifest(path), skipped=tuple(skipped))
    if skipped:
        raise CheckpointError(
            f"No checkpoint in {run_dir} is usable: {' '.join(skipped)} Restore one, or set "
            "run.resume to never to start again."
        )
    return None


def load(engine: Engine, checkpoint: Checkpoint) -> dict[str, Any]:
    """Puts the engine where it was when the checkpoint was written; all processes must call it.

    Number of processes, ZeRO stage and precision may be others than then; the random generators
    are restored only if the number of processes is the same.

    Returns:
        The ``state`` given to `save`.

    Raises:
        CheckpointError: in all processes alike, if the model is another or the files fail.
    """
    saved: dict[str, Any] = {}

    def read() -> None:
        saved.update(_read_json(checkpoint.path / "state.json"))
        _check_shapes(checkpoint, shapes(engine.deepspeed))
        with FragmentReader(checkpoint.tensor_files) as reader:
            load_weights(engine.deepspeed, reader)
            load_moments(engine.deepspeed, reader, saved["optimizer"])
            if checkpoint.manifest["world_size"] == engine.world.world_size:
                own = checkpoint.path / file_name(engine.world.rank)
                _set_generators(engine.deepspeed, reader.local(own))

    _together(engine, read)
    refresh_weights(engine.deepspeed)
    restore_progress(engine.deepspeed, saved["progress"])
    state: dict[str, Any] = saved["state"]
    return state


def folders(run_dir: Path) -> list[Path]:
    """The folders of complete checkpoints, newest step first; unverified."""
    parent = run_dir / "checkpoints"
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if _FOLDER.fullmatch(path.name)]
    return sorted(found, reverse=True)


def open_checkpoint(path: Path) -> Checkpoint:
    """Verifies one checkpoint by itself, without an engine.

    Raises:
        CheckpointError: a file is missing or not as it was written.
    """
    _verify(path, 0, 1)
    return Checkpoint(path=path, manifest=_read_manifest(path))


def named(run_dir: Path, name: str) -> Path | None:
    """The folder that ``best`` or ``latest`` names; None without such a file or folder."""
    link = run_dir / "checkpoints" / name
    if not link.is_file():
        return None
    target = link.read_text().strip()
    folder = run_dir / "checkpoints" / target
    return folder if _FOLDER.fullmatch(target) and folder.is_dir() else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The fp32 weights of a checkpoint folder, whole and by name, after verifying its files.

    Raises:
        CheckpointError: a file is missing or not as it was written.
    """
    checkpoint = open_checkpoint(path)
    weights = {}
    with FragmentReader(checkpoint.tensor_files) as reader:
        for name, shape in checkpoint.manifest["parameters"].items():
            weights[name] = torch.empty(shape)
            reader.read_into(WEIGHT, name, 0, weights[name].view(-1))
    return weights


def _together(engine: Engine, work: Callable[[], T]) -> list[T]:
    """Runs ``work`` in every process; if one fails, all raise the same `CheckpointError`.

    Returns:
        The results by rank in process 0, nothing elsewhere.
    """
    result: T | None = None
    fault = ""
    try:
        result = work()
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        fault = f"process {engine.world.rank}: {error}"
    outcomes = engine.gather_objects((result, fault))
    is_first = engine.world.rank == 0
    faults = "; ".join(fault for _, fault in outcomes if fault) if is_first else ""
    faults = engine.broadcast_object(faults)
    if faults:
        raise CheckpointError(faults)
    return [result for result, _ in outcomes] if is_first else []


def _verify_together(engine: Engine, path: Path) -> None:
    _together(engine, lambda: _verify(path, engine.world.rank, engine.world.world_size))


def _write_part(engine: Engine, draft: Path, state: dict[str, Any]) -> list[WrittenFile]:
    """This process's files; process 0 adds everything that is not a tensor."""
    _wait_until_visible(draft)
    tensors = fragments(engine.deepspeed)
    for name, value in _generators(engine.deepspeed).items():
        tensors[key_of(LOCAL, name)] = value
    path = draft / file_name(engine.world.rank)
    try:
        written = [write_fragments(path, tensors)]
    except OSError as error:
        needed = sum(4 * tensor.numel() for tensor in tensors.values())
        free = shutil.disk_usage(draft).free
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno or errno.EIO)}, {needed:,} bytes to write and {free:,} free",
            str(path),
        ) from error
    if engine.world.rank == 0:
        written.append(write_json(draft / "state.json", _everything_else(engine, state)))
    return written


def _everything_else(engine: Engine, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": state,
        "progress": progress(engine.deepspeed),
        "optimizer": optimizer_scalars(engine.deepspeed),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "safetensors")},
    }


def _commit(
    engine: Engine, draft: Path, folder: Path, files: list[WrittenFile], best: bool
) -> None:
    """Makes a draft a checkpoint: manifest, sync, rename; only then is it named."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": int(engine.deepspeed.global_steps),
        "world_size": engine.world.world_size,
        "zero_stage": int(engine.deepspeed.zero_optimization_stage()),
        "precision": _precision(engine.deepspeed),
        "parameters": shapes(engine.deepspeed),
        "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files},
    }
    write_json(draft / "manifest.json", manifest | {"sha256": _own_hash(manifest)})
    _sync_directory(draft)
    if folder.exists():  # a damaged one that was skipped, or the same step saved again
        folder.rename(_aside(folder))
    draft.rename(folder)
    _sync_directory(folder.parent)
    for name in ("latest", "best") if best else ("latest",):
        _let_name(folder.with_name(name), folder)
    _sync_directory(folder.parent)


def _precision(ds_engine: Any) -> str:
    if ds_engine.bfloat16_enabled():
        return "bf16"
    return "fp16" if ds_engine.fp16_enabled() else "fp32"


def _own_hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")


def _let_name(link: Path, folder: Path) -> None:
    """Lets the file ``latest`` or ``best`` name a folder, at one stroke."""
    draft = link.with_name(f"{link.name}.tmp")
    draft.write_text(folder.name + "\n")
    draft.replace(link)


def _prune(newest: Path, keep_last: int) -> None:
    """Removes old checkpoints, those of later steps, and the drafts of saves that were killed."""
    run_dir = newest.parent.parent
    course = [path for path in folders(run_dir) if path.name <= newest.name]
    kept = {*course[:keep_last], named(run_dir, "best")}
    for path in folders(run_dir):
        if path not in kept:
            with contextlib.suppress(OSError):  # then it stays, and costs its bytes
                path.rename(_aside(path))  # gone at one stroke, so never half of it is found
    for path in newest.parent.glob("step_*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _verify(path: Path, rank: int, world_size: int) -> None:
    """Checks the manifest, every file's size, and the hashes of every ``world_size``-th file."""
    manifest = _read_manifest(path)
    for index, (name, facts) in enumerate(sorted(manifest["files"].items())):
        file = path / name
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{path / 'manifest.json'} names a strange file, {name!r}.")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing.")
        if file.stat().st_size != facts["bytes"]:
            raise CheckpointError(
                f"{file} has {file.stat().st_size:,} bytes instead of {facts['bytes']:,}."
            )
        if index % world_size == rank and sha256_of(file) != facts["sha256"]:
            raise CheckpointError(f"{file} is damaged: its sha256 is not that of the manifest.")


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    manifest = _read_json(file)
    if manifest.pop("sha256", None) != _own_hash(manifest):
        raise CheckpointError(f"{file} is damaged: its sha256 is not its own.")
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{file} has format {manifest['format']} {manifest['version']}, this program reads "
            f"{FORMAT} {VERSION}."
        )
    return manifest


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object.")
    return value


def _check_shapes(checkpoint: Checkpoint, wanted: dict[str, list[int]]) -> None:
    held: dict[str, list[int]] = checkpoint.manifest["parameters"]
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{checkpoint.path} holds another model: {name} has shape "
                f"{held.get(name, 'none')} there and {wanted.get(name, 'none')} in the case; use "
                "its model block, or another --out."
            )


def _generators(ds_engine: Any) -> dict[str, torch.Tensor]:
    """The states of the generators that dropout draws from."""
    found = {"generator_cpu": torch.get_rng_state()}
    if ds_engine.device.type == "cuda":
        found["generator_cuda"] = torch.cuda.get_rng_state(ds_engine.device)
    return found


def _set_generators(ds_engine: Any, saved: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(saved["generator_cpu"])
    if ds_engine.device.type == "cuda" and "generator_cuda" in saved:
        torch.cuda.set_rng_state(saved["generator_cuda"], ds_engine.device)


def _sync_directory(path: Path) -> None:
    """Makes names in a directory last (a rename is not on disk before)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wait_until_visible(path: Path) -> None:
    """Waits until a network file system shows what another process made."""
    give_up = time.monotonic() + VISIBLE_WITHIN_S
    while not path.exists():
        if time.monotonic() > give_up:
            raise CheckpointError(
                f"{path} did not appear within {VISIBLE_WITHIN_S:.0f} s; all processes need the "
                "same file system under --out"
            )
        time.sleep(0.05)
