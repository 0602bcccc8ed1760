"""Compares the settings of a resumed run, or of a branch, with those it started with."""

import json
from pathlib import Path
from typing import Any

from bertds.config.flatten import flatten
from bertds.config.stages import stage_contents
from bertds.errors import ConfigError
from bertds.io.json_files import read_json

_ORIGINS = ("bertds.run.branch_from", "bertds.run.init_from")
# Batches, masks, shapes or the first weights depend on these settings, so a run must keep them.
_FIXED = (
    *("train_batch_size", "bertds.model", "bertds.data", "bertds.masking", "bertds.run.seed"),
    "bertds.run.branch_from",
    "bertds.run.batch_size_warmup",
)
_EXCEPTIONS = (
    "bertds.data.cache_dir",
    "bertds.data.cache_gb",
    "bertds.model.gradient_checkpointing",  # out-of-memory errors suggest it
)


def check_unchanged(run_dir: Path, config: dict[str, Any]) -> list[str]:
    """List the settings of a case file that changed since the run started, in each of its stages.

    Stages may be added after those that the run started with.

    Args:
        run_dir: The run directory.
        config: The resolved case file.

    Returns:
        One text per change that takes effect on resume.

    Raises:
        ConfigError: A setting changed that the run's batches or weights depend on.
    """
    saved = read_json(run_dir / "case.json").get("config")
    if saved is None:
        return []
    allowed, forbidden = _changes_of_stages(saved, config)
    if forbidden:
        raise ConfigError(
            f"{run_dir} was started with another setting that a run must keep "
            f"({', '.join(forbidden)}): restore it, or train into another --out"
        )
    return allowed


def changes_from_trunk(
    trunk: Path, trunk_config: dict[str, Any], config: dict[str, Any]
) -> list[str]:
    """List the settings of a branch that differ from those of the run that it branches from.

    Args:
        trunk: The directory of that run.
        trunk_config: Its resolved case file.
        config: The resolved case file of the branch.

    Raises:
        ConfigError: A setting differs that a resumed run must keep as well.
    """
    allowed, forbidden = _changes(trunk_config, config, ignored=_ORIGINS)
    if forbidden:
        raise ConfigError(
            f"run.branch_from: {trunk} was trained with another setting that a branch must keep "
            f"({', '.join(forbidden)}): set it as there, or leave run.branch_from out"
        )
    return allowed


def _changes_of_stages(
    saved: dict[str, Any], config: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """As `_changes`, over the stages of a run."""
    allowed: list[str] = []
    forbidden: list[str] = []
    stages = zip(stage_contents(config).items(), stage_contents(saved).values(), strict=False)
    for (name, after), before in stages:
        where = f"stage {name}: " if name else ""
        for found, texts in zip((allowed, forbidden), _changes(before, after), strict=True):
            found += [f"{where}{text}" for text in texts]
    return allowed, forbidden


def _changes(
    before: dict[str, Any], after: dict[str, Any], ignored: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """The changes that take effect on resume, and those that are forbidden, one text for each."""
    old, new = (
        {key: json.dumps(value, sort_keys=True) for key, value in flatten(settings).items()}
        for settings in (before, after)
    )
    added = _added_valid_sets(before, after)
    allowed: list[str] = []
    forbidden: list[str] = []
    for key in sorted((old.keys() | new.keys()) - {*ignored}):
        if old.get(key) == new.get(key):
            continue
        change = f"{key}: {old.get(key, 'not given')} -> {new.get(key, 'not given')}"
        is_fixed = any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)
        is_free = not is_fixed or key in _EXCEPTIONS or key.startswith(added)
        (allowed if is_free else forbidden).append(change)
    return allowed, forbidden


def _added_valid_sets(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """The paths of validation sets that are new: nothing that is trained depends on them."""
    old, new = (content["bertds"].get("data", {}).get("valid", {}) for content in (before, after))
    return tuple(f"bertds.data.valid.{name}." for name in new if name not in old)
