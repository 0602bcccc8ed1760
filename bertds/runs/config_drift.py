"""Compares the settings of a resumed run with those it started with."""

import json
from pathlib import Path
from typing import Any

from bertds.config.flatten import flatten
from bertds.errors import ConfigError
from bertds.io.json_files import read_json

# Batches, masks or shapes depend on these settings, so a run must keep them.
_FIXED = ("train_batch_size", "bertds.model", "bertds.data", "bertds.masking", "bertds.run.seed")
_EXCEPTIONS = (
    "bertds.data.cache_dir",
    "bertds.data.cache_gb",
    "bertds.model.gradient_checkpointing",  # out-of-memory errors suggest it
)


def check_unchanged(run_dir: Path, config: dict[str, Any]) -> list[str]:
    """List the settings of a case file that changed since the run started.

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
    before, after = (
        {key: json.dumps(value, sort_keys=True) for key, value in flatten(settings).items()}
        for settings in (saved, config)
    )
    added = _added_valid_sets(saved, config)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        change = f"{key}: {before.get(key, 'not given')} -> {after.get(key, 'not given')}"
        is_fixed = any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)
        if is_fixed and key not in _EXCEPTIONS and not key.startswith(added):
            raise ConfigError(
                f"{run_dir} was started with another setting that a run must keep ({change}): "
                "restore it, or train into another --out"
            )
        changes.append(change)
    return changes


def _added_valid_sets(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """The paths of validation sets that are new: nothing that is trained depends on them."""
    old, new = (content["bertds"].get("data", {}).get("valid", {}) for content in (before, after))
    return tuple(f"bertds.data.valid.{name}." for name in new if name not in old)
