"""Compares the settings of a resumed run with those it started with."""

import json
from pathlib import Path
from typing import Any

from bertds.config.flatten import flatten
from bertds.errors import ConfigError
from bertds.io.json_files import read_json

# A change of these in a run that has begun would break its order, masks or shapes.
_FIXED = ("train_batch_size", "bertds.model", "bertds.data", "bertds.masking", "bertds.run.seed")
_FREE = (
    "bertds.data.cache_dir",
    "bertds.data.cache_gb",
    "bertds.model.gradient_checkpointing",  # what an error of no memory advises
)


def check_unchanged(run_dir: Path, config: dict[str, Any]) -> list[str]:
    """What a case file says otherwise than when the run began.

    Args:
        run_dir: The run's directory.
        config: The resolved case file.

    Returns:
        One text for each change that takes effect now.

    Raises:
        ConfigError: Something changed that the run's batches or weights depend on.
    """
    saved = read_json(run_dir / "case.json").get("config")
    if saved is None:
        return []
    before, after = _as_json(saved), _as_json(config)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        text = f"{key}: {before.get(key, 'not given')} -> {after.get(key, 'not given')}"
        is_fixed = any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)
        if is_fixed and key not in _FREE:
            raise ConfigError(
                f"{run_dir} was begun with another setting ({text}), which a run may not change: "
                "restore it, or train into another --out"
            )
        changes.append(text)
    return changes


def _as_json(config: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, sort_keys=True) for key, value in flatten(config).items()}
