"""Writes the case file of a sweep beside the runs."""

import hashlib
import json
from pathlib import Path

from bertds.config.overrides import parse_settings
from bertds.config.sweep import leaves, overlap, swept_case, swept_leaves
from bertds.errors import ConfigError
from bertds.io.atomic import atomic_write


def write_swept_case(path: Path, sweep: str, out: Path, settings: str = "") -> Path:
    """Write the swept case file below `out`; its name, and so that of the case, is unchanged.

    Args:
        path: The case file.
        sweep: As for `swept_case`.
        out: The directory of the runs.
        settings: The text of `--set`, which is applied to all arms later.

    Returns:
        Its path, which depends on file and sweep only: all processes may write it at once.

    Raises:
        ConfigError: The file or the sweep is wrong, or `--set` has a key of the sweep.
    """
    swept = swept_leaves(sweep)
    for key, value in parse_settings(settings):
        if overlap(leaves(key, value), swept):
            raise ConfigError(f"--set {key} is also in --sweep, and would win: remove one of them")
    content = json.dumps(swept_case(path, sweep), indent=1, ensure_ascii=False) + "\n"
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    target = out / "sweeps" / path.stem / digest / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, concurrent_writers=True) as file:
        file.write(content.encode())
    return target
