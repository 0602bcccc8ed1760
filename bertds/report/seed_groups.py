"""Joins arms that differ in their random seeds only: a mean, and the range around it.

Everything else in a report takes the result as one more arm.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bertds.config.flatten import flatten
from bertds.report.run_data import ArmRun, Floats

__all__ = ["mean_over_seeds", "range_of"]
SEEDS = ("bertds.run.seed", "bertds.masking.seed")
_SEED = re.compile(r"(^|[_.-]+)(run_|masking_)?seed[_.-]*\d*(?=$|[_.-])")
_OPEN_END = re.compile(r"[/_.-]+$")


def mean_over_seeds(arms: Sequence[ArmRun]) -> list[ArmRun]:
    """Replace each group of arms that differ in their seeds only by one arm with their means.

    A mean is over all members, at the steps that all have logged. Arms that have failed or have
    logged nothing yet are no members. Other arms are left as they are. Without any group the arms
    are returned unchanged, also in their colours.
    """
    by_settings: dict[str, list[ArmRun]] = {}
    for number, arm in enumerate(arms):
        key = _settings(arm) if arm.case and arm.lines and not arm.failed else f"alone {number}"
        by_settings.setdefault(key, []).append(arm)
    groups = list(by_settings.values())
    names = Counter(_shared_name(group) for group in groups if _differs_in_seeds(group))
    joined: list[ArmRun] = []
    for group in groups:
        name = _shared_name(group)
        name = name if names[name] == 1 else f"{group[0].name} and others"
        joined += [_mean(group, name)] if _differs_in_seeds(group) else group
    if len(joined) == len(arms):
        return list(arms)
    return [replace(arm, colour=number) for number, arm in enumerate(joined)]


def range_of(arm: ArmRun, key: str) -> tuple[Floats, Floats] | None:
    """The least and the greatest value of the members at each point of `arm.series(key)`."""
    if not arm.members:
        return None
    steps = arm.series(key).at["step"]
    values = []
    for member in arm.members:
        series = member.series(key)
        at = np.searchsorted(series.at["step"], steps)
        values.append(series.values[at])
    stacked = np.stack(values) if len(steps) else np.zeros((1, 0))
    return stacked.min(0), stacked.max(0)


def _settings(arm: ArmRun) -> str:
    """All settings but the seeds, and the title, as one text; with the data that they name."""
    flat = flatten(arm.case.get("config", {}))
    flat["data"] = [arm.resolved.get(use) for use in ("vocab_size", "train", "valid")]
    for key in (*SEEDS, "bertds.title"):
        flat.pop(key, None)
    return json.dumps(flat, sort_keys=True)


def _differs_in_seeds(arms: Sequence[ArmRun]) -> bool:
    return len(arms) > 1 and len({_seeds(arm) for arm in arms}) == len(arms)


def _seeds(arm: ArmRun) -> tuple[int, ...]:
    flat = flatten(arm.case.get("config", {}))
    return tuple(flat.get(key, 0) for key in SEEDS)


def _mean(members: Sequence[ArmRun], name: str) -> ArmRun:
    unfinished = [arm for arm in members if arm.status.get("state") != "done"]
    return ArmRun(
        name=f"{name} ({len(members)} seeds)",
        same_as="",
        case=members[0].case,
        status=(unfinished or members)[0].status,
        lines=_mean_lines(members),
        members=tuple(members),
    )


def _shared_name(members: Sequence[ArmRun]) -> str:
    """What the names have in common without the seeds: that of `seed0_lr1e-4` is `lr1e-4`.

    Names of runs in different places are paths, and have their ends in common.
    """
    paths = [[_SEED.sub("", part).lstrip("_.-") for part in arm.name.split("/")] for arm in members]
    names = ["/".join(filter(None, path)) for path in paths]
    if end := os.path.commonprefix([name.split("/")[::-1] for name in names]):
        return "/".join(end[::-1]) or "all"
    prefix = os.path.commonprefix(names)
    if any(name != prefix and name[len(prefix)].isdigit() for name in names):
        prefix = prefix.rstrip("0123456789")  # not a part of a number
    return _OPEN_END.sub("", prefix) or "all"


def _mean_lines(members: Sequence[ArmRun]) -> list[dict[str, float]]:
    """One line for each step, with the mean of each metric that all members have there."""
    by_step: list[dict[float, dict[str, float]]] = []
    for arm in members:
        merged: dict[float, dict[str, float]] = {}
        for line in arm.lines:
            merged.setdefault(line["step"], {}).update(line)
        by_step.append(merged)
    first, *others = by_step
    lines = []
    for step in sorted(first.keys() & set.intersection(*map(set, others))):
        at_step = [merged[step] for merged in by_step]
        keys = [key for key in at_step[0] if all(key in line for line in at_step)]
        lines.append({key: float(np.mean([line[key] for line in at_step])) for key in keys})
    return lines
