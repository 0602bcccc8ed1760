"""DeepSpeed's monitors of a case, opened one by one: one that cannot start does not end the run."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from deepspeed.monitor.config import get_monitor_config
from deepspeed.monitor.monitor import MonitorMaster

from bertds.config.case import Case

logger = logging.getLogger("bertds")


def open_monitors(case: Case, blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Open the enabled monitors; they write on rank 0 only, so only rank 0 calls it.

    Args:
        case: The case, whose settings W&B and Comet show.
        blocks: The configuration of each monitor by name.

    Returns:
        The monitors by name.
    """
    monitors = {}
    for name in [name for name, block in blocks.items() if block.get("enabled")]:
        try:
            # It prints what to install, and raises whatever the tracker's package raises.
            monitors[name] = MonitorMaster(get_monitor_config({name: blocks[name]}))
            _describe_run(name, monitors[name], case)
        except Exception as error:  # noqa: BLE001 - no tracker may end the run
            logger.warning(
                "%s cannot be used (%s: %s): training continues without it, and metrics.jsonl has "
                "all metrics",
                *(name, type(error).__name__, error),
            )
    return monitors


def _describe_run(name: str, monitor: Any, case: Case) -> None:
    """Give a W&B run its name and its settings, and a Comet experiment its settings."""
    if name == "wandb":
        run = sys.modules["wandb"].run
        run.config.update(case.resolved)
        if "WANDB_NAME" not in os.environ:
            run.name = f"{case.name}/{case.arm}"
    elif name == "comet":
        monitor.comet_monitor.experiment.log_parameters(case.resolved)
