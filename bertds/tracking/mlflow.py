"""A run in MLflow, where the case file has `run.mlflow`: DeepSpeed 0.19.8 has no monitor for it.

One MLflow run a run directory: its id is kept there, and a start that goes on goes on in it. MLflow
takes nothing back, so after a crash steps that are trained again stand there twice. A server that
cannot be reached costs a start its curves and a warning, never the training.
"""

import contextlib
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertds.config.schema import MlflowConfig
from bertds.errors import ConfigError
from bertds.io.atomic import atomic_write
from bertds.io.json_files import read_json_object

logger = logging.getLogger("bertds")

__all__ = ["MlflowRun", "check_mlflow"]
FILE = "mlflow.json"
PARAMS_AT_ONCE, LONGEST_PARAM = 100, 6000  # MLflow's own limits


# MLflow's own would wait for a dead server for minutes, with all processes waiting for this one.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which is for results
}


def check_mlflow() -> None:
    """Refuse `run.mlflow` where the package is not installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "run.mlflow is given, but the package mlflow is not installed here: "
            "pip install mlflow-skinny (mlflow, if the store is a file), or leave the key out"
        )


class MlflowRun:
    """Hands the figures of a run to MLflow, from process 0; after a first failure to nobody."""

    def __init__(
        self, run_dir: Path, config: MlflowConfig, name: str, settings: Mapping[str, Any]
    ) -> None:
        """Goes on with the MLflow run that the directory names, or begins one.

        Args:
            run_dir: The run's directory, in which the id is kept.
            config: Where to.
            name: `case/arm`: of the MLflow run, and of its experiment up to the slash.
            settings: What the run's parameters are, if it is a new one.
        """
        self._run_id: str | None = None
        for key, value in DEFAULTS.items():
            os.environ.setdefault(key, value)
        with self._or_dropped():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=config.tracking_uri)
            self._run_id = _kept(run_dir / FILE, config)
            if self._run_id is None:
                self._run_id = self._begin(run_dir / FILE, config, name, settings)
            else:
                self._client.update_run(self._run_id, status="RUNNING")

    def log(self, values: Mapping[str, float | int]) -> None:
        """Hands over one log point; `values` holds "step" and any other figures."""
        if self._run_id is None:
            return
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        step = int(values["step"])
        metrics = [
            Metric(_name(key), float(value), now, step)
            for key, value in values.items()
            if key != "step"
        ]
        with self._or_dropped():
            self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        """Tells that no more will come: `FINISHED`, or `KILLED` where the run may go on."""
        if self._run_id is None:
            return
        with self._or_dropped():
            self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")

    def _begin(
        self, path: Path, config: MlflowConfig, name: str, settings: Mapping[str, Any]
    ) -> str:
        """A new MLflow run; its id."""
        from mlflow.entities import Param

        experiment = config.experiment or name.split("/")[0]
        found = self._client.get_experiment_by_name(experiment)
        number = (
            self._client.create_experiment(experiment) if found is None else found.experiment_id
        )
        run_id: str = self._client.create_run(number, run_name=name).info.run_id
        with atomic_write(path) as out:
            kept = {"tracking_uri": config.tracking_uri, "run_id": run_id}
            out.write(f"{json.dumps(kept)}\n".encode())
        params = [Param(_name(key), str(value)[:LONGEST_PARAM]) for key, value in settings.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        return run_id

    @contextlib.contextmanager
    def _or_dropped(self) -> Iterator[None]:
        """What fails in here is said once, then training goes on without MLflow."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 of any store, server or library beneath
            self._run_id = None
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            logger.warning(
                "MLflow does not take the figures (%s): this start goes on without it, "
                "metrics.jsonl has every figure.",
                first,
            )


def _name(key: str) -> str:
    """A key with no other signs than MLflow takes in names."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _kept(path: Path, config: MlflowConfig) -> str | None:
    """The id of the MLflow run that this directory had in the same store."""
    kept = read_json_object(path, default={})
    return kept["run_id"] if kept and kept["tracking_uri"] == config.tracking_uri else None
