"""Chooses the checkpoints whose weights are averaged: the newest ones, or the steps of a list.

The uniform mean of the last checkpoints of a run is the last step of ModernBERT's training (Warner et
al., 2024) and an old practice before it (Izmailov et al., 2018).
"""

from pathlib import Path

from bertds.checkpoint.directory import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    open_checkpoint,
)
from bertds.errors import CheckpointError, ConfigError


def open_averaged(run_dir: Path, average: str, checkpoint: str) -> tuple[Checkpoint, ...]:
    """Open the checkpoints that `--average` names, oldest first, and verify all of their files.

    Args:
        run_dir: The run directory.
        average: The number of newest checkpoints, such as `3`; or steps, such as `1000,1500`.
        checkpoint: What `--checkpoint` names, which must be its default.

    Raises:
        ConfigError: `average` is neither, or a checkpoint is named as well.
        CheckpointError: A checkpoint does not exist or is damaged.
    """
    if checkpoint != "latest":
        raise ConfigError(
            f"--average is {average} and --checkpoint is {checkpoint}: leave one of them out"
        )
    words = [word.strip().removeprefix("step_") for word in average.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(
            f"--average is {average!r}, expected the number of newest checkpoints, such as 3, or "
            "their steps, such as 1000,1500"
        )
    steps = [int(word) for word in words]
    if len(set(steps)) < len(steps):
        raise ConfigError(f"--average is {average}, which names a step twice: name each once")
    existing = list_checkpoints(run_dir)
    is_list = len(steps) > 1
    paths = _at_steps(run_dir, steps, existing) if is_list else _newest(run_dir, steps[0], existing)
    return tuple(open_checkpoint(path) for path in sorted(paths))


def _newest(run_dir: Path, count: int, existing: list[Path]) -> list[Path]:
    if count > len(existing):
        raise CheckpointError(
            f"{run_dir} has {len(existing)} checkpoints, --average asks for the last {count}; "
            f"available: {_names(existing)}. A run keeps run.keep_last checkpoints and the best one"
        )
    return existing[:count]


def _at_steps(run_dir: Path, steps: list[int], existing: list[Path]) -> list[Path]:
    paths = [checkpoint_path(run_dir, step) for step in steps]
    missing = [path for path in paths if path not in existing]
    if missing:
        raise CheckpointError(
            f"{run_dir} has no checkpoint {_names(missing)}; available: {_names(existing)}"
        )
    return paths


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths) or "none"
