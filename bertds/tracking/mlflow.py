"""Logs metrics to MLflow if the case file has `run.mlflow`; DeepSpeed 0.19.8 has no monitor for it.

A run directory has one MLflow run. Its id is kept in the directory, and a resumed run logs to the
same MLflow run. Logging is append-only, so steps that are repeated after a crash are there twice.
If the server is unreachable, training continues and logs a warning.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertds.config.schema import MlflowConfig
from bertds.io.atomic import atomic_write
from bertds.io.json_files import read_json_object

logger = logging.getLogger("bertds")

__all__ = ["MlflowRun"]
FILE = "mlflow.json"
PARAMS_PER_CALL, MAX_PARAM_LENGTH = 100, 6000  # MLflow's own limits


# With MLflow's own defaults, an unreachable server blocks rank 0, and so all ranks, for minutes.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
}


class MlflowRun:
    """Logs the metrics of a run to MLflow on rank 0, until the first failure."""

    def __init__(
        self, run_dir: Path, config: MlflowConfig, name: str, settings: Mapping[str, Any]
    ) -> None:
        """Resume the MLflow run whose id is in the run directory, or create one.

        Args:
            run_dir: The run directory, which keeps the id.
            config: The server or store, and the experiment.
            name: `case/arm`, the name of the MLflow run; `case` is the default experiment.
            settings: Parameters of a new MLflow run.
        """
        self._run_id: str | None = None
        for key, value in DEFAULTS.items():
            os.environ.setdefault(key, value)
        with self._disabled_on_error():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=config.tracking_uri)
            self._run_id = _saved_run_id(run_dir / FILE, config)
            if self._run_id is None:
                self._run_id = self._create_run(run_dir / FILE, config, name, settings)
            else:
                self._client.update_run(self._run_id, status="RUNNING")

    def log(self, values: Mapping[str, float | int]) -> None:
        """Log one log point: "step" and any metrics."""
        if self._run_id is None:
            return
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        step = int(values["step"])
        metrics = [
            Metric(_valid_name(key), float(value), now_ms, step)
            for key, value in values.items()
            if key != "step"
        ]
        with self._disabled_on_error():
            self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        """Set the status of the MLflow run: `FINISHED`, or `KILLED` if the run may be resumed."""
        if self._run_id is None:
            return
        with self._disabled_on_error():
            self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")

    def _create_run(
        self, path: Path, config: MlflowConfig, name: str, settings: Mapping[str, Any]
    ) -> str:
        """Create an MLflow run, save its id, log the parameters, and return the id."""
        from mlflow.entities import Param

        experiment_name = config.experiment or name.split("/")[0]
        experiment = self._client.get_experiment_by_name(experiment_name)
        experiment_id = (
            self._client.create_experiment(experiment_name)
            if experiment is None
            else experiment.experiment_id
        )
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        with atomic_write(path) as file:
            saved = {"tracking_uri": config.tracking_uri, "run_id": run_id}
            file.write(f"{json.dumps(saved)}\n".encode())
        params = [
            Param(_valid_name(key), str(value)[:MAX_PARAM_LENGTH])
            for key, value in settings.items()
        ]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])
        return run_id

    @contextlib.contextmanager
    def _disabled_on_error(self) -> Iterator[None]:
        """On any error, warn once and log no more; training continues."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of any store, server or library below it
            self._run_id = None
            first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
            logger.warning(
                "MLflow logging failed (%s): training continues without MLflow until the run is "
                "resumed, and metrics.jsonl has all metrics",
                first_line,
            )


def _valid_name(key: str) -> str:
    """A key in which characters that MLflow does not allow are replaced."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _saved_run_id(path: Path, config: MlflowConfig) -> str | None:
    """The id of the MLflow run that this directory has in the same store, if any."""
    saved = read_json_object(path, default={})
    return saved["run_id"] if saved and saved["tracking_uri"] == config.tracking_uri else None
