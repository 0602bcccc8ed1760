"""Sweeps: a case file whose arms are the points of a grid of settings.

    case11.json + 'optimizer.params.lr=1e-4|3e-4,run.seed=0|1'  ->  case11.json with 4 arms for each arm

The result is an ordinary case file. So each point is a run with its own directory, is checked, resumed and
reported like any arm, and can be a task of a Slurm array.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.config.case import arm_patches, read_file
from bertds.config.flatten import flatten
from bertds.config.overrides import (
    Json,
    join_patches,
    parse_value,
    settings_patch,
    split,
)
from bertds.errors import ConfigError

_MOST_ARMS = 1000
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """A setting and its values."""

    key: str
    texts: Sequence[str]
    """The values as they are written."""

    @property
    def values(self) -> list[Any]:
        """The values."""
        return [parse_value(text) for text in self.texts]

    @property
    def leaves(self) -> set[str]:
        """The paths that any of its values sets."""
        return set().union(*(leaves(self.key, value) for value in self.values))


def swept_case(path: Path, sweep: str) -> Json:
    """Return a case file in which each arm is replaced by all points of a grid.

    Args:
        path: The case file.
        sweep: `a.b=value|value,c.d=value|value`; values as in `--set`.

    Raises:
        ConfigError: The file or the sweep is wrong, or an arm is a run of another case.
    """
    content, axes = read_file(path), _parse(sweep)
    keys = [axis.key for axis in axes]
    points = [
        dict(zip(keys, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    names = _names(axes)
    patches = arm_patches(path, content)
    shared = [name for name, patch in patches.items() if "same_as" in patch]
    num_arms = (len(patches) - len(shared)) * len(points)
    if num_arms > _MOST_ARMS:
        raise ConfigError(f"--sweep has {num_arms:,} arms, expected at most {_MOST_ARMS:,}")
    arms: dict[str, Json] = {}
    for (arm, patch), (name, point) in itertools.product(
        patches.items(), zip(names, points, strict=True)
    ):
        if arm not in shared:
            full = name if [*patches] == ["main"] else f"{arm}_{name}"
            arms[full] = join_patches(patch, settings_patch(point))
    if not arms:
        raise ConfigError(
            f"--sweep: the arms of {path} ({', '.join(shared)}) are runs of other cases: sweep those"
        )
    content["bertds"]["arms"] = arms
    return content


def swept_leaves(sweep: str) -> set[str]:
    """The paths that any point of a sweep sets.

    Raises:
        ConfigError: The sweep is wrong.
    """
    return set().union(*(axis.leaves for axis in _parse(sweep)))


def leaves(key: str, value: Any) -> set[str]:
    """The paths that a setting sets; a block sets several.

    Raises:
        ConfigError: No case file has the path.
    """
    return {*flatten(settings_patch({key: value}))}


def overlap(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether a path of one is a path of the other, or leads to it."""
    pairs = [(f"{left}.", f"{right}.") for left in one for right in other]
    return any(left.startswith(right) or right.startswith(left) for left, right in pairs)


def _parse(sweep: str) -> list[_Axis]:
    axes = []
    for setting in split(sweep, ","):
        key, equals, text = (part.strip() for part in setting.partition("="))
        texts = [part.strip() for part in split(text, "|")]
        if not equals or not key or not texts:
            raise ConfigError(
                f"--sweep {setting.strip()!r} is not path=value|value, such as run.seed=0|1|2"
            )
        axis = _Axis(key=key, texts=texts)
        values = axis.values
        if any(values.count(value) > 1 for value in values):
            raise ConfigError(f"--sweep {key} has a value twice: remove one")
        axes.append(axis)
    if not axes:
        raise ConfigError(f"--sweep {sweep!r} has no setting, such as run.seed=0|1|2")
    for one, other in itertools.combinations(axes, 2):
        if overlap(one.leaves, other.leaves):
            raise ConfigError(
                f"--sweep has a setting twice, in {one.key} and {other.key}: remove one"
            )
    return axes


def _names(axes: Sequence[_Axis]) -> list[str]:
    """A name for each point: the last part of each path, with its value."""
    last = [axis.key.rpartition(".")[2] for axis in axes]
    labels = [
        label if last.count(label) == 1 else "_".join(axis.key.split(".")[-2:])
        for axis, label in zip(axes, last, strict=True)
    ]
    names = [
        "_".join(f"{label}{_plain(text)}" for label, text in zip(labels, texts, strict=True))
        for texts in itertools.product(*(axis.texts for axis in axes))
    ]
    if len(set(names)) < len(names):
        names = [f"{name}_{number}" for number, name in enumerate(names)]
    return names


def _plain(text: str) -> str:
    """A value in the name of a directory."""
    return _NOT_IN_NAMES.sub("-", text).strip("-") or "empty"
