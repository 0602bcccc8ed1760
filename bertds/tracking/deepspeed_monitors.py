"""Logs metrics to the DeepSpeed monitors that a case file enables: W&B, Comet, CSV."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("bertds")


class DeepSpeedMonitors:
    """Logs metrics to DeepSpeed's monitors, until one of them fails."""

    def __init__(self, monitor: Any) -> None:
        """Take the monitor of a DeepSpeed engine."""
        self._monitor = monitor
        self._works = True

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step. After a failure, warn once and log no more."""
        if not self._works:
            return
        try:
            self._monitor.write_events([(*item, step) for item in values.items()])
        except Exception as error:  # noqa: BLE001 - no failure may end the run
            self._works = False
            logger.warning(
                "DeepSpeed's monitors failed at step %d (%s: %s) and receive no more metrics; "
                "training continues, and metrics.jsonl has all metrics",
                *(step, type(error).__name__, error),
            )

    def close(self) -> None:
        """End the W&B run, so that the next run does not log into it."""
        if self._monitor.wandb_monitor is not None:
            sys.modules["wandb"].finish()
