"""DeepSpeed's own monitors: W&B, Comet and CSV, as a case file asks for them."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("bertds")


class DeepSpeedMonitors:
    """Hands metrics to DeepSpeed's monitors until one of them fails."""

    def __init__(self, monitor: Any) -> None:
        """Take the monitor of a DeepSpeed engine."""
        self._monitor = monitor
        self._works = True

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Hand over the metrics of a step; a failure is logged once and ends nothing."""
        if not self._works:
            return
        try:
            self._monitor.write_events([(*item, step) for item in values.items()])
        except Exception as error:  # noqa: BLE001 - of any kind: no metric is worth a run
            self._works = False
            logger.warning(
                "DeepSpeed's monitors receive no metrics from step %d on, because they failed (%s: "
                "%s); training continues, and metrics.jsonl has all metrics",
                *(step, type(error).__name__, error),
            )

    def close(self) -> None:
        """End the W&B run, or the next run's metrics would go into it."""
        if self._monitor.wandb_monitor is not None:
            sys.modules["wandb"].finish()
