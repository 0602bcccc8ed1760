"""Checkpoints of a run: complete or absent, and loadable by any number of processes.

    save   every process writes, syncs and hashes its file -> process 0: manifest, rename, latest
    find   newest step first: each process hashes its share -> process 0 decides for all
    load   each process reads the ranges it needs, whatever stage, precision and number wrote them

A fault in one process is a fault in all: each stage ends with an exchange of outcomes, so nobody
waits for a process that has failed, and all raise the same sentence. A save costs 12 bytes a
parameter under Adam, divided over the processes, written and hashed in one pass; older checkpoints
are removed only after the new one is complete and seen by all.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from bertds.checkpoint.directory import (
    Checkpoint,
    WrittenFile,
    checkpoint_path,
    draft_path,
    finalize,
    list_checkpoints,
    prune,
    read_json,
    read_manifest,
    remove_drafts,
    resolve_pointer,
    verify,
    write_json,
    write_pointer,
)
from bertds.checkpoint.tensor_files import FragmentReader, file_name, write_fragments
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import (
    fragments,
    load_moments,
    load_weights,
    not_finite,
    optimizer_scalars,
    refresh_weights,
    shapes,
)
from bertds.engine.progress import progress, restore_progress
from bertds.errors import CheckpointError, CheckpointWriteError, NonFiniteError

VISIBLE_WITHIN_S = 60
_FAULTS = (OSError, ValueError, TypeError, RuntimeError, SafetensorError)
_PARTS: dict[str, set[str]] = {
    "state": set(),
    "progress": {"counters", "updates", "loss_scale", "autocast_scale"},
    "optimizer": {"optimizer", "values"},
}
"""What must be in state.json."""
Result = TypeVar("Result")


def save(
    engine: Engine, run_dir: Path, state: dict[str, Any], *, keep_last: int, best: bool
) -> Path:
    """Write a checkpoint of the present step; all processes must call it, between two steps.

    Afterwards the `keep_last` newest and the best are kept.

    Args:
        engine: The engine.
        run_dir: The run's directory, on a file system that all processes share.
        state: Plain JSON that `load` gives back; that of process 0 counts.
        keep_last: At least 1.
        best: Whether this is the best so far.

    Returns:
        Its folder.

    Raises:
        CheckpointWriteError: In all processes alike: one could not write. Older ones are unharmed.
        NonFiniteError: In all processes alike: a weight or moment is not finite.
    """
    assert keep_last >= 1
    _check_finite(engine)
    is_main = engine.world.is_main
    folder = checkpoint_path(run_dir, engine.deepspeed.global_steps)
    draft = engine.broadcast_object(draft_path(folder))
    if is_main:
        remove_drafts(run_dir)  # they may be what fills the disk
    try:
        run_on_all_ranks(engine, lambda: draft.mkdir(parents=True) if is_main else None)
        parts = run_on_all_ranks(engine, lambda: _write_part(engine, draft, state))
        files = [file for part in parts for file in part]
        facts = _facts(engine) | {"best": best}
        run_on_all_ranks(engine, lambda: finalize(draft, folder, facts, files) if is_main else None)
        run_on_all_ranks(engine, lambda: _wait_until_visible(folder))
        run_on_all_ranks(engine, lambda: _name(run_dir, folder, best=best) if is_main else None)
    except CheckpointError as error:
        if is_main:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointWriteError(
            f"checkpoint {folder.name} was not written, earlier ones are unharmed: {error}"
        ) from error
    if is_main:
        prune(folder, keep_last)
    return folder


def _check_finite(engine: Engine) -> None:
    found = run_on_all_ranks(engine, lambda: not_finite(engine.deepspeed))
    if name := engine.broadcast_object(next(filter(None, found), "")):
        raise NonFiniteError(
            f"{name} is not finite at step {engine.deepspeed.global_steps}, so no checkpoint is "
            "written: lower optimizer.params.lr or set gradient_clipping; the last one is good"
        )


def find_newest(engine: Engine, run_dir: Path, before: int | None = None) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; all processes must call it.

    Args:
        engine: The engine.
        run_dir: The run's directory.
        before: A step; earlier checkpoints are preferred to those of this step and later ones.

    Returns:
        The same in all processes; None if there is none at all.

    Raises:
        CheckpointError: There are some, but all are damaged.
    """
    skipped: list[str] = []
    listed = list_checkpoints(run_dir) if engine.world.is_main else []
    if before is not None:
        listed.sort(key=lambda path: path.name >= checkpoint_path(run_dir, before).name)
    for path in engine.broadcast_object(listed):
        try:
            _verify_together(engine, path)
        except CheckpointError as error:
            skipped.append(f"checkpoint {path.name} is skipped: {error}")
            continue
        return Checkpoint(path=path, manifest=read_manifest(path), skipped=tuple(skipped))
    if skipped:
        raise CheckpointError(
            f"{run_dir} holds no checkpoint that is whole ({'; '.join(skipped)}): restore one, or "
            "remove them to begin anew"
        )
    return None


def load(engine: Engine, checkpoint: Checkpoint) -> dict[str, Any]:
    """Put the engine where it was when a checkpoint was written; all processes must call it.

    Number of processes, ZeRO stage, precision, schedule and the optimizer's settings are those of
    the engine at hand.

    Returns:
        The `state` given to `save`.

    Raises:
        CheckpointError: In all processes alike: the model or the optimizer is another, or a file
            fails.
    """
    saved: dict[str, Any] = {}
    run_on_all_ranks(engine, lambda: saved.update(_read(engine.deepspeed, checkpoint)))
    refresh_weights(engine.deepspeed)
    restore_progress(engine.deepspeed, saved["progress"])
    if engine.world.is_main and checkpoint.manifest.get("best"):
        _name_best(checkpoint.path)
    state: dict[str, Any] = saved["state"]
    return state


def run_on_all_ranks(engine: Engine, work: Callable[[], Result]) -> list[Result]:
    """Work in every process; if it fails in one, all raise the same `CheckpointError`.

    Returns:
        The results by rank in process 0, an empty list elsewhere.
    """
    result: Result | None = None
    fault = ""
    try:
        result = work()
    except _FAULTS as error:
        fault = str(error) or type(error).__name__
    outcomes = engine.gather_objects((result, fault))
    faults = engine.broadcast_object(_one_sentence([fault for _, fault in outcomes]))
    if faults:
        raise CheckpointError(faults)
    return [result for result, _ in outcomes]


def _one_sentence(faults: list[str]) -> str:
    """What failed where; empty if nothing did."""
    if len(set(faults)) == 1:
        return faults[0]
    return "; ".join(f"process {rank}: {fault}" for rank, fault in enumerate(faults) if fault)


def _write_part(engine: Engine, draft: Path, state: dict[str, Any]) -> list[WrittenFile]:
    """This process's files; process 0 adds all that is not a tensor."""
    _wait_until_visible(draft)
    tensors = fragments(engine.deepspeed)
    path = draft / file_name(engine.world.rank)
    try:
        written = [write_fragments(path, tensors)]
    except OSError as error:
        needed = sum(4 * tensor.numel() for tensor in tensors.values())
        free = shutil.disk_usage(draft).free
        reason = os.strerror(error.errno or errno.EIO)
        raise OSError(f"{reason} ({needed:,} bytes to write, {free:,} free): {path}") from error
    if engine.world.is_main:
        written.append(write_json(draft / "state.json", _all_but_tensors(engine, state)))
    return written


def _all_but_tensors(engine: Engine, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": state,
        "progress": progress(engine.deepspeed),
        "optimizer": optimizer_scalars(engine.deepspeed),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "safetensors")},
    }


def _facts(engine: Engine) -> dict[str, Any]:
    ds_engine = engine.deepspeed
    sixteen_bits = "bf16" if ds_engine.bfloat16_enabled() else "fp16"
    is_fp32 = not (ds_engine.bfloat16_enabled() or ds_engine.fp16_enabled())
    return {
        "step": int(ds_engine.global_steps),
        "world_size": engine.world.world_size,
        "zero_stage": int(ds_engine.zero_optimization_stage()),
        "precision": "fp32" if is_fp32 else sixteen_bits,
        "parameters": shapes(ds_engine),
    }


def _name(run_dir: Path, folder: Path, *, best: bool) -> None:
    write_pointer(run_dir, "latest", folder)
    if best:
        write_pointer(run_dir, "best", folder)


def _name_best(folder: Path) -> None:
    """A process killed while it saved may not have come to it, and no later one would be better."""
    run_dir = folder.parent.parent
    if resolve_pointer(run_dir, "best") != folder:
        with contextlib.suppress(OSError):
            write_pointer(run_dir, "best", folder)


def _verify_together(engine: Engine, path: Path) -> None:
    run_on_all_ranks(engine, lambda: verify(path, engine.world.rank, engine.world.world_size))


def _read(ds_engine: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """Fill the fp32 weights and moments of this process; returns what else was saved."""
    saved = read_json(checkpoint.path / "state.json")
    _check_parts(checkpoint.path / "state.json", saved)
    _check_shapes(checkpoint, shapes(ds_engine))
    with FragmentReader(checkpoint.tensor_files) as reader:
        load_weights(ds_engine, reader)
        load_moments(ds_engine, reader, saved["optimizer"])
    return saved


def _check_parts(path: Path, saved: dict[str, Any]) -> None:
    """Its hash is right, but another version or another program may have written it."""
    for part, keys in _PARTS.items():
        block = saved.get(part)
        lacks = keys - block.keys() if isinstance(block, dict) else {part}
        if lacks:
            raise CheckpointError(
                f"{path} holds no {', '.join(sorted(lacks))} where this version wants it: go on "
                "with the program that wrote it"
            )


def _check_shapes(checkpoint: Checkpoint, wanted: dict[str, list[int]]) -> None:
    held: dict[str, list[int]] = checkpoint.manifest["parameters"]
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{checkpoint.path} holds another model: {name} has shape "
                f"{held.get(name, 'none')} there, {wanted.get(name, 'none')} in the case: restore "
                "bertds.model, or train into another --out"
            )


def _wait_until_visible(path: Path) -> None:
    if not becomes_visible(path):
        raise CheckpointError(
            f"{path} did not appear within {VISIBLE_WITHIN_S} s: --out must be on a file "
            "system that all processes share"
        )


def becomes_visible(path: Path) -> bool:
    """Wait for what another process has made; whether a network file system comes to show it."""
    give_up = time.monotonic() + VISIBLE_WITHIN_S
    while not path.exists():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
