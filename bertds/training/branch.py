"""Branches: runs that begin with a checkpoint of another run, their trunk (`run.branch_from`).

    "runs/wsd/main@80000" -> open_branch: settings, checkpoint (files only) -> Branch -> resume

A branch without a checkpoint of its own reads the trunk's directory, and never writes there. With one,
it no longer needs the trunk.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.checkpoint.directory import (
    checkpoint_path,
    is_multiple,
    list_checkpoints,
    step_of,
    was_kept,
)
from bertds.config.case import Case
from bertds.config.schema import branch_point
from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from bertds.runs.config_drift import changes_from_trunk
from bertds.runs.trained_run import initial_model
from bertds.tracking.jsonl import last_value, read_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """A run that another one may branch from."""

    run_dir: Path
    config: dict[str, Any]
    """Its resolved case file."""
    train_row_length: int
    """Tokens of the longest row of its training batches."""
    num_steps: int = 0
    """Its length, if the same command trains it before the branch; else 0."""
    keep_every: int | None = None
    """Interval in steps between the checkpoints that it then keeps."""

    @classmethod
    def read(cls, run_dir: Path) -> "Trunk":
        """Describe a run by its directory.

        Raises:
            ConfigError: It is not a run directory.
        """
        content = read_json(run_dir / "case.json")
        if "same_as" in content:
            run_dir = run_dir.absolute().parent.parent / content["same_as"]
            content = read_json(run_dir / "case.json")
        if "config" not in content:
            raise ConfigError(
                f"run.branch_from: {run_dir} is not a run directory: name one that training has "
                "written, as in runs/case11/main@1000; of two arms, list the branch second"
            )
        return cls(
            run_dir=run_dir,
            config=content["config"],
            train_row_length=row_length_of(content.get("resolved", {})),
        )

    def check_has(self, step: int) -> None:
        """Check that it has a checkpoint of this step or, if it is trained first, will keep one.

        Raises:
            ConfigError: It has not; the message has the steps to choose from.
        """
        if self.num_steps == 0 and not checkpoint_path(self.run_dir, step).is_dir():
            steps = ", ".join(
                str(step_of(path)) for path in reversed(list_checkpoints(self.run_dir))
            )
            raise ConfigError(
                f"run.branch_from: {self.run_dir} has no checkpoint of step {step}, "
                f"{f'only of {steps}' if steps else 'nor any other'}: choose one that it has, or let "
                "run.keep_every of that run keep more"
            )
        if self.num_steps > 0 and not self._will_keep(step):
            multiples = f"the multiples of {self.keep_every} and " if self.keep_every else ""
            raise ConfigError(
                f"run.branch_from: {self.run_dir} is trained first, and keeps no checkpoint of step "
                f"{step}, only of {multiples}its last step, {self.num_steps}: choose one of these, "
                "or set run.keep_every in that run"
            )

    def _will_keep(self, step: int) -> bool:
        """Whether it has a checkpoint of this step when it is done."""
        path, is_kept = checkpoint_path(self.run_dir, step), is_multiple(step, self.keep_every)
        if path.is_dir() or step >= self.num_steps:
            return step == self.num_steps or (path.is_dir() and (is_kept or was_kept(path)))
        is_ahead = all(step_of(other) < step for other in list_checkpoints(self.run_dir))
        return is_kept and is_ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """The checkpoint of another run that a run begins with."""

    run_dir: Path
    """The directory of the trunk."""
    step: int
    differences: list[str]
    """Settings that differ from those of the trunk."""
    train_row_length: int
    """As in `Trunk`."""

    def __str__(self) -> str:
        return f"{self.run_dir} at step {self.step}"

    @property
    def checkpoint(self) -> Path:
        """The directory of the checkpoint."""
        return checkpoint_path(self.run_dir, self.step)

    def check_exists(self) -> None:
        """Check that the trunk has the checkpoint now.

        Raises:
            ConfigError: It has not, because it failed or has removed the checkpoint.
        """
        Trunk.read(self.run_dir).check_has(self.step)

    def times(self) -> tuple[float, float]:
        """Wall and CPU seconds of the trunk up to the checkpoint, from which a branch counts on."""
        lines = read_metrics(self.run_dir / "metrics.jsonl")
        before = [line for line in lines if line["step"] <= self.step]
        return last_value(before, "seconds"), last_value(before, "cpu_seconds")

    def record(self, run_dir: Path) -> dict[str, Any]:
        """What `case.json` of the branch in `run_dir` holds about it."""
        trunk = self.run_dir.resolve()
        model = initial_model(read_json(trunk / "case.json"))
        return {
            "run": "/".join(trunk.parts[-2:]),
            "directory": os.path.relpath(trunk, run_dir.resolve()),
            "step": self.step,
            "seconds": self.times()[0],
            **({"init_from": model} if model else {}),
        }


def open_branch(case: Case, planned: Sequence[Trunk] = ()) -> Branch | None:
    """Find the trunk of a case and its checkpoint; None if the case does not branch.

    Args:
        case: The case, whose run has no checkpoint yet.
        planned: The runs that the same command trains before it.

    Raises:
        ConfigError: There is no such run or no checkpoint of the step, or a setting differs that a
            branch must keep.
    """
    if case.bertds.run.branch_from is None:
        return None
    name, step = branch_point(case.bertds.run.branch_from)
    run_dir = Path(name).expanduser()
    is_same = (trunk for trunk in planned if trunk.run_dir.resolve() == run_dir.resolve())
    trunk = next(is_same, None) or Trunk.read(run_dir)
    if trunk.config["bertds"].get("stages"):
        raise ConfigError(
            f"run.branch_from: {trunk.run_dir} has stages, and a branch cannot begin in one: add a stage "
            "to that run, or start from an export with run.init_from"
        )
    trunk.check_has(step)
    return Branch(
        run_dir=trunk.run_dir,
        step=step,
        differences=changes_from_trunk(trunk.run_dir, trunk.config, case.resolved),
        train_row_length=trunk.train_row_length,
    )


def row_length_of(resolved: dict[str, Any]) -> int:
    """The longest row of training batches that `resolved` of a run's `case.json` tells; else 0."""
    length: int = resolved.get("train_row_length", resolved.get("valid_row_length", 0))
    return length
