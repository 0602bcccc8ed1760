"""Logs metrics to the DeepSpeed monitors that a case file enables: W&B, Comet, CSV, TensorBoard."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

logger = logging.getLogger("bertds")


class DeepSpeedMonitors:
    """Logs metrics to DeepSpeed's monitors, to each until it fails."""

    def __init__(self, monitors: Mapping[str, Any]) -> None:
        """Take the monitors by name."""
        self._monitors = dict(monitors)

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step."""
        events = [(*item, step) for item in values.items()]
        for name, monitor in list(self._monitors.items()):
            with self._disabled_on_error(name, f"step {step}"):
                monitor.write_events(events)

    def close(self) -> None:
        """End the W&B run and the Comet experiment, so that the next run does not log into them."""
        for name, monitor in list(self._monitors.items()):
            with self._disabled_on_error(name, "the end"):
                if name == "wandb":
                    sys.modules["wandb"].finish()
                elif name == "comet":
                    monitor.comet_monitor.experiment.end()

    @contextlib.contextmanager
    def _disabled_on_error(self, name: str, when: str) -> Iterator[None]:
        """On any error, warn once and log no more to this monitor."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - no failure may end the run
            del self._monitors[name]
            logger.warning(
                "%s failed at %s (%s: %s) and receives no more metrics; training continues, "
                "and metrics.jsonl has all metrics",
                *(name, when, type(error).__name__, error),
            )
