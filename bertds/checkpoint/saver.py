"""Saves and loads checkpoints: complete or absent, and loadable by any number of ranks.

    save   every rank writes, flushes and hashes its file -> rank 0: manifest, rename, latest
    find   newest step first: each rank hashes its part -> rank 0 decides for all
    load   each rank reads the ranges it needs, whatever stage, precision and world size wrote them

A fault on one rank is a fault on all: each stage ends with an exchange of outcomes. So no rank waits
for one that has failed, and all raise the same message. With Adam a save takes 12 bytes per
parameter, divided over the ranks, written and hashed in one pass. Older checkpoints are removed only
after the new one is complete and visible to all.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
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
    is_multiple,
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
    has_average,
    load_average,
    load_moments,
    load_weights,
    not_finite,
    optimizer_scalars,
    refresh_weights,
    shapes,
)
from bertds.engine.process_group import broadcast_object, gather_object
from bertds.engine.progress import progress, restore_progress
from bertds.errors import CheckpointError, CheckpointWriteError, NonFiniteError

logger = logging.getLogger("bertds")

VISIBLE_WITHIN_S = 60
_FAULTS = (OSError, ValueError, TypeError, RuntimeError, SafetensorError)
_REQUIRED: dict[str, set[str]] = {
    "state": set(),
    "progress": {"counters", "updates", "loss_scale", "autocast_scale"},
    "optimizer": {"optimizer", "values"},
}
"""Blocks of state.json, and the keys that each must have."""
Result = TypeVar("Result")


def save(
    engine: Engine,
    run_dir: Path,
    state: dict[str, Any],
    *,
    keep_last: int,
    best: bool,
    keep_every: int | None = None,
) -> Path:
    """Write a checkpoint of the current step; all ranks must call it, between two steps.

    The `keep_last` newest checkpoints, the best one, and the multiples of `keep_every` are kept.

    Args:
        engine: The engine.
        run_dir: The run's directory, on a file system that all ranks share.
        state: Plain JSON that `load` returns; the one of rank 0 is saved.
        keep_last: At least 1.
        best: Whether this is the best checkpoint so far.
        keep_every: Interval in steps between two checkpoints that are never removed.

    Returns:
        The directory of the checkpoint.

    Raises:
        CheckpointWriteError: On all ranks alike: one could not write. Older checkpoints are
            unharmed.
        NonFiniteError: On all ranks alike: a weight or moment is NaN or infinite.
    """
    assert keep_last >= 1
    _check_finite(engine)
    is_main = engine.world.is_main
    directory = checkpoint_path(run_dir, engine.deepspeed.global_steps)
    draft = broadcast_object(draft_path(directory))
    if is_main:
        remove_drafts(run_dir)  # they may be what fills the disk

    def write_pointers() -> None:
        write_pointer(run_dir, "latest", directory)
        if best:
            write_pointer(run_dir, "best", directory)

    try:
        run_on_all_ranks(lambda: draft.mkdir(parents=True) if is_main else None)
        by_rank = run_on_all_ranks(lambda: _write_files(engine, draft, state))
        files = [file for written in by_rank for file in written]
        metadata = _metadata(engine) | {"best": best}
        if is_multiple(engine.deepspeed.global_steps, keep_every):
            metadata["kept"] = True
        run_on_all_ranks(lambda: finalize(draft, directory, metadata, files) if is_main else None)
        run_on_all_ranks(lambda: _wait_until_visible(directory))
        run_on_all_ranks(lambda: write_pointers() if is_main else None)
    except CheckpointError as error:
        if is_main:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointWriteError(
            f"checkpoint {directory.name} could not be written, earlier checkpoints are unharmed: "
            f"{error}"
        ) from error
    if is_main:
        prune(directory, keep_last, keep_every)
    return directory


def find_newest(engine: Engine, run_dir: Path, before: int | None = None) -> Checkpoint | None:
    """The newest checkpoint whose files match its manifest; all ranks must call it.

    Args:
        engine: The engine.
        run_dir: The run's directory.
        before: Prefer checkpoints of earlier steps than this one.

    Returns:
        The same on all ranks; None if there is no checkpoint.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged.
    """
    skipped: list[str] = []
    paths = list_checkpoints(run_dir) if engine.world.is_main else []
    if before is not None:
        paths.sort(key=lambda path: path.name >= checkpoint_path(run_dir, before).name)
    for path in broadcast_object(paths):
        try:
            run_on_all_ranks(partial(verify, path, engine.world.rank, engine.world.world_size))
        except CheckpointError as error:
            skipped.append(f"checkpoint {path.name} is skipped: {error}")
            continue
        return Checkpoint(path=path, manifest=read_manifest(path), skipped=tuple(skipped))
    if skipped:
        raise CheckpointError(
            f"{run_dir} holds no intact checkpoint ({'; '.join(skipped)}): restore one, or remove "
            "them all to restart from scratch"
        )
    return None


def open_on_all_ranks(engine: Engine, path: Path) -> Checkpoint:
    """Open one checkpoint, of which each rank verifies a part; all ranks must call it.

    Raises:
        CheckpointError: On all ranks alike: a file is missing or does not match the manifest.
    """
    run_on_all_ranks(partial(verify, path, engine.world.rank, engine.world.world_size))
    return Checkpoint(path=path, manifest=read_manifest(path))


def load(
    engine: Engine,
    checkpoint: Checkpoint,
    *,
    is_own: bool = True,
    updates: Callable[[dict[str, int]], int] | None = None,
) -> dict[str, Any]:
    """Restore the engine's state when a checkpoint was written; all ranks must call it.

    World size, ZeRO stage, precision, schedule and the optimizer's settings remain those of the
    engine.

    Args:
        engine: The engine.
        checkpoint: The checkpoint.
        is_own: Whether it is the run's own; the directory of another run is only read.
        updates: Position in the schedule, by DeepSpeed's counters, if it is not the checkpoint's.

    Returns:
        The `state` given to `save`.

    Raises:
        CheckpointError: On all ranks alike: the model or the optimizer differs, or a file fails.
    """
    saved: dict[str, Any] = {}
    run_on_all_ranks(lambda: saved.update(_read(engine, checkpoint)))
    refresh_weights(engine.deepspeed)
    progress = saved["progress"]
    if updates is not None:
        progress = progress | {"updates": updates(progress["counters"])}
    restore_progress(engine.deepspeed, progress)
    if is_own and engine.world.is_main and checkpoint.manifest.get("best"):
        # A process killed while it saved may not have written the pointer, and no later checkpoint
        # would be better.
        run_dir = checkpoint.path.parent.parent
        if resolve_pointer(run_dir, "best") != checkpoint.path:
            with contextlib.suppress(OSError):
                write_pointer(run_dir, "best", checkpoint.path)
    state: dict[str, Any] = saved["state"]
    return state


def run_on_all_ranks(work: Callable[[], Result]) -> list[Result]:
    """Run the work on every rank; if it fails on one, all raise the same `CheckpointError`.

    Returns:
        The results by rank on rank 0, an empty list elsewhere.
    """
    result: Result | None = None
    fault = ""
    try:
        result = work()
    except _FAULTS as error:
        fault = str(error) or type(error).__name__
    outcomes = gather_object((result, fault))
    faults = [fault for _, fault in outcomes]
    if len(set(faults)) == 1:
        message = faults[0]
    else:
        message = "; ".join(f"rank {rank}: {fault}" for rank, fault in enumerate(faults) if fault)
    if message := broadcast_object(message):
        raise CheckpointError(message)
    return [result for result, _ in outcomes]  # type: ignore[misc]


def _check_finite(engine: Engine) -> None:
    names = run_on_all_ranks(lambda: not_finite(engine.deepspeed, engine.average))
    if name := broadcast_object(next(filter(None, names), "")):
        raise NonFiniteError(
            f"{name} is NaN or infinite at step {engine.deepspeed.global_steps}, so no checkpoint is "
            "written: lower optimizer.params.lr or set gradient_clipping; the last checkpoint is good"
        )


def _write_files(engine: Engine, draft: Path, state: dict[str, Any]) -> list[WrittenFile]:
    """Write this rank's tensors; rank 0 also writes everything that is not a tensor."""
    _wait_until_visible(draft)
    tensors = fragments(engine.deepspeed, engine.average)
    path = draft / file_name(engine.world.rank)
    try:
        written = [write_fragments(path, tensors)]
    except OSError as error:
        needed = sum(4 * tensor.numel() for tensor in tensors.values())
        free = shutil.disk_usage(draft).free
        reason = os.strerror(error.errno or errno.EIO)
        raise OSError(f"{reason} ({needed:,} bytes to write, {free:,} free): {path}") from error
    if engine.world.is_main:
        content = {
            "state": state,
            "progress": progress(engine.deepspeed),
            "optimizer": optimizer_scalars(engine.deepspeed),
            "versions": {name: version(name) for name in ("torch", "deepspeed", "safetensors")},
        }
        written.append(write_json(draft / "state.json", content))
    return written


def _metadata(engine: Engine) -> dict[str, Any]:
    ds_engine = engine.deepspeed
    if ds_engine.bfloat16_enabled():
        precision = "bf16"
    else:
        precision = "fp16" if ds_engine.fp16_enabled() else "fp32"
    return {
        "step": int(ds_engine.global_steps),
        "world_size": engine.world.world_size,
        "zero_stage": int(ds_engine.zero_optimization_stage()),
        "precision": precision,
        "parameters": shapes(ds_engine),
    }


def _read(engine: Engine, checkpoint: Checkpoint) -> dict[str, Any]:
    """Fill the fp32 weights, moments and average of this rank; returns the content of state.json."""
    path = checkpoint.path / "state.json"
    saved = read_json(path)
    # Its hash is right, but another version may have written it.
    for block, keys in _REQUIRED.items():
        content = saved.get(block)
        missing = keys - content.keys() if isinstance(content, dict) else {block}
        if missing:
            raise CheckpointError(
                f"{path} lacks {', '.join(sorted(missing))}, which this version expects: resume "
                "with the version that wrote it"
            )
    _check_shapes(checkpoint, shapes(engine.deepspeed))
    with FragmentReader(checkpoint.tensor_files) as reader:
        load_weights(engine.deepspeed, reader)
        load_moments(engine.deepspeed, reader, saved["optimizer"])
        _read_average(engine, reader, checkpoint.step)
    return saved


def _read_average(engine: Engine, reader: FragmentReader, step: int) -> None:
    """Fill this rank's part of the moving average, after the weights; log what cannot be kept."""
    is_saved = has_average(engine.deepspeed, reader)
    if engine.average is None:
        if is_saved:
            logger.warning(
                "run.ema_decay is not set, so the moving average of the weights that the checkpoint "
                "holds is dropped"
            )
    elif is_saved:
        load_average(engine.deepspeed, reader, engine.average)
    else:
        engine.average.restart()
        logger.info(
            "the checkpoint holds no moving average of the weights: it starts from those of step %d",
            step,
        )


def _check_shapes(checkpoint: Checkpoint, expected: dict[str, list[int]]) -> None:
    held: dict[str, list[int]] = checkpoint.manifest["parameters"]
    for name in sorted(held.keys() | expected.keys()):
        if held.get(name) != expected.get(name):
            raise CheckpointError(
                f"{checkpoint.path} holds another model: {name} has shape "
                f"{held.get(name, 'none')} in the checkpoint, {expected.get(name, 'none')} in the "
                "case: restore bertds.model, or train into another --out"
            )


def _wait_until_visible(path: Path) -> None:
    if not becomes_visible(path):
        raise CheckpointError(
            f"{path} did not appear within {VISIBLE_WITHIN_S} s: --out must be on a file system "
            "that all ranks share"
        )


def becomes_visible(path: Path) -> bool:
    """Wait for a file of another rank; whether a network file system shows it in time."""
    give_up = time.monotonic() + VISIBLE_WITHIN_S
    while not path.exists():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
