"""Reads the arms of a case from their run directories: settings, status and metrics.

A run may still be training, may have been killed while it wrote a line, or may be a link to a run
of another case (`same_as`). Missing files give empty values; only malformed files are errors. The
lines of `metrics.jsonl` are held in memory: about 100 MB for 100,000 lines.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bertds.io.json_files import read_json
from bertds.metrics.baselines import baselines_by_name
from bertds.runs.downstream_scores import DownstreamScores, read_all_scores
from bertds.tracking.jsonl import read_metrics

__all__ = [
    "MEASURES",
    "ArmRun",
    "Floats",
    "Measure",
    "Series",
    "follow_links",
    "load_arm",
    "load_arms",
    "natural",
    "numbered",
    "validation_sets",
]
Floats = npt.NDArray[np.float64]
Measure = Literal["step", "epoch", "tokens", "seconds"]
"""A measure of training progress: what metrics are plotted against and compared at."""
MEASURES: tuple[Measure, ...] = ("step", "epoch", "tokens", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric of one run: `values` [N], and the progress at each of them by measure [N].

    Steps are strictly ascending. NaN is a non-finite value or an unknown progress.
    """

    values: Floats
    at: dict[Measure, Floats]

    def index_at(self, measure: Measure, limit: float) -> int | None:
        """Index of the last point at or before `limit`, None if all points come later."""
        reached = np.flatnonzero(self.at[measure] <= limit)
        return int(reached[-1]) if len(reached) else None

    def value_at(self, measure: Measure, progress: float) -> float:
        """Interpolate linearly; the last value after the last point, NaN before the first."""
        before, at = self.index_at(measure, progress), self.at[measure]
        if before is None:
            return math.nan
        if at[before] == progress or before + 1 == len(at):
            return float(self.values[before])
        weight = (progress - at[before]) / (at[before + 1] - at[before])
        return float((1 - weight) * self.values[before] + weight * self.values[before + 1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRun:
    """One arm of a case, with the contents of its run directory."""

    name: str
    same_as: str
    """The run of another case that this arm links to ("case6/layers3"), or empty."""
    case: dict[str, Any]
    """`case.json`, empty if the file is missing."""
    status: dict[str, Any]
    """`status.json`, empty if the file is missing."""
    lines: list[dict[str, float]]
    """`metrics.jsonl`, with `seconds` accumulated over restarts."""
    colour: int = 0
    """Number of its colour: its place in the order of starts, which TensorBoard's colours follow."""
    trunk_lines: Sequence[dict[str, float]] = ()
    """The lines of the run that it branches from, up to its first step; empty if they are gone."""
    downstream: dict[str, DownstreamScores] = field(default_factory=dict)
    """The results of fine-tuning by name; empty if it is a mean: its members have them."""
    members: tuple["ArmRun", ...] = ()
    """The arms of which this is the mean (`seed_groups.py`); empty for a single run."""
    vocabulary: str = ""
    """A hash of the vocabulary; empty if it is not known."""

    @property
    def resolved(self) -> dict[str, Any]:
        """What follows from the case, the data and the machine, as `case.json` records it."""
        resolved: dict[str, Any] = self.case.get("resolved", {})
        return resolved

    @property
    def failed(self) -> bool:
        """Whether the run ended with an error."""
        return self.status.get("state") == "failed"

    def baselines(self, valid_set: str = "") -> dict[str, dict[str, float]]:
        """The metrics "loss" and "accuracy" of each baseline that is known, by the baseline's name.

        Args:
            valid_set: A validation set; empty for all sets together.
        """
        content = self.case.get("resolved", {}).get("guess_without_context") or {}
        if valid_set:
            content = content.get("sets", {}).get(valid_set, {})
        return baselines_by_name(content)

    @property
    def branch(self) -> dict[str, Any]:
        """What `case.json` has about the run that it branches from: run, step, seconds; else empty."""
        branch: dict[str, Any] = self.case.get("resolved", {}).get("branch") or {}
        return branch

    @property
    def origin(self) -> str:
        """The run that it is the same as, or that it branches from; empty for other runs."""
        if self.same_as:
            return f"= {self.same_as}"
        branch = self.branch
        return f"branch of {branch['run']} at step {branch['step']:,}" if branch else ""

    def series(self, key: str) -> Series:
        """The metric `key`, one point per step; the later of two lines of one step counts."""
        return _series(self.lines, key)

    def whole_series(self, key: str) -> Series:
        """The same, from the first step of the run that it branches from."""
        return _series([*self.trunk_lines, *self.lines], key)

    def lead(self, key: str) -> Series | None:
        """The metric `key` of the run that it branches from, up to its own first point."""
        if not any(key in line for line in self.trunk_lines):
            return None
        first = next(([line] for line in self.lines if key in line), [])
        return _series([*self.trunk_lines, *first], key)

    def seams(self, measure: Measure) -> list[float]:
        """The progress at the end of each stage that another one has followed."""
        stages = self.case.get("resolved", {}).get("stages", [])
        ends = [stage["last_step"] for stage in stages[:-1]]
        at_end = {line["step"]: line[measure] for line in self.lines if measure in line}
        later = self.reached("step")
        return [at_end[step] for step in ends if step in at_end and step < later]

    def reached(self, measure: Measure) -> float:
        """The greatest step, epoch, tokens or seconds in the metrics; NaN if none has it."""
        return max((line[measure] for line in self.lines if measure in line), default=math.nan)


def _series(lines: Sequence[dict[str, float]], key: str) -> Series:
    by_step = {line["step"]: line for line in lines if key in line}
    points = [by_step[step] for step in sorted(by_step)]
    return Series(values=_column(points, key), at={m: _column(points, m) for m in MEASURES})


def load_arms(case_dir: Path) -> list[ArmRun]:
    """Read every arm of a case, in natural order of names (layers2, layers10).

    Raises:
        ValueError: The directory is not a case directory, or a file in it is malformed.
    """
    if (case_dir / "case.json").exists():
        raise ValueError(f"{case_dir} is the run directory of one arm: pass its parent directory")
    paths = sorted(case_dir.glob("*/case.json"), key=lambda path: natural(path.parent.name))
    if not paths:
        raise ValueError(
            f"{case_dir} has no runs (expected <arm>/case.json): train the case first, or check "
            "the path"
        )
    return numbered([load_arm(path.parent) for path in paths])


def numbered(arms: Sequence[ArmRun]) -> list[ArmRun]:
    """The arms with their colours; TensorBoard does not know links and runs that have not started."""

    def start(arm: ArmRun) -> tuple[bool, float, list[tuple[int, float, str]]]:
        started = arm.case.get("resolved", {}).get("started")
        time = math.inf if started is None else datetime.fromisoformat(started).timestamp()
        return bool(arm.same_as), time, natural(arm.name)

    numbers = {arm.name: number for number, arm in enumerate(sorted(arms, key=start))}
    return [replace(arm, colour=numbers[arm.name]) for arm in arms]


def load_arm(directory: Path) -> ArmRun:
    """Read a run directory, or a link to one; the name is that of the directory.

    Raises:
        ValueError: A file is malformed.
    """
    same_as = str(read_json(directory / "case.json").get("same_as") or "")
    source = follow_links(directory)
    case = read_json(source / "case.json")
    return ArmRun(
        name=directory.name,
        same_as=same_as,
        case=case,
        trunk_lines=_trunk_lines(source, case),
        status=read_json(source / "status.json"),
        lines=_accumulate_seconds(read_metrics(source / "metrics.jsonl")),
        downstream=read_all_scores(source),
    )


def _trunk_lines(
    run_dir: Path, case: dict[str, Any], before: float = math.inf
) -> list[dict[str, float]]:
    """The lines of the run that a run branches from, and of the one that that branches from."""
    branch = case.get("resolved", {}).get("branch")
    if not branch or branch["step"] >= before:
        return []
    trunk, step = run_dir / branch["directory"], branch["step"]
    lines = [line for line in read_metrics(trunk / "metrics.jsonl") if line["step"] <= step]
    return _trunk_lines(trunk, read_json(trunk / "case.json"), step) + _accumulate_seconds(lines)


def follow_links(directory: Path) -> Path:
    """Resolve `same_as`, which may lead through several cases, to the directory of the run."""
    seen: set[Path] = set()
    while target := read_json(directory / "case.json").get("same_as"):
        names = str(target).split("/")
        if len(names) != 2 or {"", ".", ".."} & set(names):
            raise ValueError(
                f"{directory / 'case.json'}: same_as is {target!r}, expected '<case>/<arm>'"
            )
        if directory in seen:
            raise ValueError(
                f"{directory / 'case.json'}: same_as leads back to this arm: remove one of the links"
            )
        seen.add(directory)
        directory = directory.parent.parent / str(target)
    return directory


def _accumulate_seconds(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Make `seconds` ascend over restarts after which a run counted from 0 again, in place."""
    latest, offset = 0.0, 0.0
    for line in lines:
        if "seconds" in line:
            offset = latest if line["seconds"] + offset < latest else offset
            latest = line["seconds"] = line["seconds"] + offset
    return lines


def _column(lines: list[dict[str, float]], key: str) -> Floats:
    return np.array([line.get(key, math.nan) for line in lines], dtype=np.float64)


def validation_sets(arms: Sequence[ArmRun]) -> list[str]:
    """Names of the validation sets with metrics of their own; empty if there is only one set."""
    keys = {key for arm in arms for line in arm.lines for key in line}
    return sorted(key.removeprefix("loss/valid/") for key in keys if key.startswith("loss/valid/"))


def natural(name: str) -> list[tuple[int, float, str]]:
    """Sort key that compares the numbers in a name as numbers, 1e-5 among them."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name)
    return [
        (0, float(part), "") if position % 2 else (1, 0.0, part)
        for position, part in enumerate(parts)
    ]
