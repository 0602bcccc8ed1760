"""The arms of a case, read from their run directories: what was set, where it stands, its figures.

A run may be going on while it is read, may have died in a line, or may lie in another case
(`same_as`); what is missing is empty here, and only what contradicts the format is an error. All
of `metrics.jsonl` is held in memory: 100,000 log points take about 100 MB.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bertds.io.json_files import read_json_object
from bertds.tracking.jsonl import read_metrics

__all__ = ["MEASURES", "ArmRun", "Measure", "Series", "load_arms", "natural"]
Floats = npt.NDArray[np.float64]
Measure = Literal["step", "epoch", "tokens", "seconds"]
MEASURES: tuple[Measure, ...] = ("step", "epoch", "tokens", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One figure over a run: `values` [N], and for each measure where it was logged [N].

    Steps ascend strictly; NaN stands for a value that is not a number and for an unsaid measure.
    """

    values: Floats
    at: dict[Measure, Floats]

    def index_at(self, measure: Measure, limit: float) -> int | None:
        """The last point that lies at or before `limit`, or None if there is none."""
        reached = np.flatnonzero(self.at[measure] <= limit)
        return int(reached[-1]) if len(reached) else None

    def value_at(self, measure: Measure, cost: float) -> float:
        """The value at a cost, on the line between the points on either side of it.

        After the last point it is that one's, before the first it is not a number.
        """
        before, at = self.index_at(measure, cost), self.at[measure]
        if before is None:
            return math.nan
        if at[before] == cost or before + 1 == len(at):
            return float(self.values[before])
        share = (cost - at[before]) / (at[before + 1] - at[before])
        return float((1 - share) * self.values[before] + share * self.values[before + 1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRun:
    """One arm of a case.

    `same_as` ("case6/layers3") names the run of another case that this arm is, else it is empty.
    `case` and `status` are the run's `case.json` and `status.json`, empty where there is none, and
    `lines` its metrics with `seconds` counted on over restarts.
    """

    name: str
    same_as: str
    case: dict[str, Any]
    status: dict[str, Any]
    lines: list[dict[str, float]]

    @property
    def failed(self) -> bool:
        """Whether the run ended by a fault."""
        return self.status.get("state") == "failed"

    def series(self, key: str) -> Series:
        """The figure `key`, a point a step; of two lines of one step the later counts."""
        by_step = {line["step"]: line for line in self.lines if key in line}
        lines = [by_step[step] for step in sorted(by_step)]
        return Series(values=_column(lines, key), at={m: _column(lines, m) for m in MEASURES})

    def reached(self, measure: Measure) -> float:
        """How far the run came: its greatest step, epoch, tokens or seconds; NaN if unsaid."""
        return max((line[measure] for line in self.lines if measure in line), default=math.nan)


def load_arms(case_dir: Path) -> list[ArmRun]:
    """Reads every arm of a case, ordered by name with numbers as numbers (layers2, layers10).

    Raises:
        ValueError: If the directory is no case's, or a file in it is broken; the sentence names it.
    """
    if (case_dir / "case.json").exists():
        raise ValueError(f"{case_dir} is one arm's run; give the case's directory above it.")
    paths = sorted(case_dir.glob("*/case.json"), key=lambda path: natural(path.parent.name))
    if not paths:
        raise ValueError(f"{case_dir} holds no run: no arm's case.json; train the case first.")
    return [_load_arm(path.parent) for path in paths]


def _load_arm(directory: Path) -> ArmRun:
    case = _read_object(directory / "case.json")
    same_as = str(case.get("same_as") or "")
    source = _follow(directory) if same_as else directory
    return ArmRun(
        name=directory.name,
        same_as=same_as,
        case=_read_object(source / "case.json"),
        status=_read_object(source / "status.json"),
        lines=_counted_on(read_metrics(source / "metrics.jsonl")),
    )


def _follow(directory: Path) -> Path:
    """The directory of the run that an arm is the same as, over any number of cases."""
    seen: set[Path] = set()
    while target := _read_object(directory / "case.json").get("same_as"):
        names = str(target).split("/")
        if len(names) != 2 or {"", ".", ".."} & set(names):
            raise ValueError(f"{directory / 'case.json'}: same_as is {target!r}, not case/arm.")
        if directory in seen:
            raise ValueError(f"{directory / 'case.json'}: same_as leads back to itself.")
        seen.add(directory)
        directory = directory.parent.parent / str(target)
    return directory


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    return read_json_object(path, default={}, remedy="restore it from a copy, or remove the run")


def _counted_on(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """The same lines, their `seconds` made to ascend where a restarted run counted from 0 again."""
    before, offset = 0.0, 0.0
    for line in lines:
        if "seconds" in line:
            offset = before if line["seconds"] + offset < before else offset
            before = line["seconds"] = line["seconds"] + offset
    return lines


def _column(lines: list[dict[str, float]], key: str) -> Floats:
    return np.array([line.get(key, math.nan) for line in lines], dtype=np.float64)


def natural(name: str) -> list[tuple[int, float, str]]:
    """A sort key in which numbers, 1e-5 among them, compare as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name)
    return [
        (0, float(part), "") if position % 2 else (1, 0.0, part)
        for position, part in enumerate(parts)
    ]
