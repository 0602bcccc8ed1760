"""Logs the metrics of a run: metrics.jsonl, TensorBoard, MLflow, DeepSpeed's monitors, the console.

Only rank 0 writes. The other ranks take the same calls, so that the training loop has no branches.
"""

import datetime
import logging
import math
import time
from collections.abc import Iterator, Mapping

import torch
from tqdm import tqdm

from bertds.data.dataset import mean_length_of
from bertds.data.packing import PackedBatch
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.io.json_files import read_json
from bertds.metrics.accumulators import MetricSums
from bertds.metrics.device import device_name, measured_flops, peak_memory_gb
from bertds.metrics.flops import mfu, model_flops_per_token, peak_flops
from bertds.metrics.throughput import Throughput, TimeLeft
from bertds.tracking.console import FILE_ONLY
from bertds.tracking.deepspeed_monitors import DeepSpeedMonitors
from bertds.tracking.jsonl import MetricsLog
from bertds.tracking.mlflow import MlflowRun
from bertds.tracking.tensorboard import run_summaries, scalars_of
from bertds.training.run_setup import RunSetup
from bertds.training.state import TrainState

logger = logging.getLogger("bertds")


class MetricLogger:
    """Logs training and validation metrics of one run."""

    def __init__(
        self, run: RunSetup, engine: Engine, state: TrainState, watchdog: Watchdog
    ) -> None:
        """Open the outputs, cut to the step that the run resumes from."""
        self._run, self._engine, self._state, self._watchdog = run, engine, state, watchdog
        is_main, wants_mlflow = run.world.is_main, run.case.bertds.run.mlflow is not None
        self._log = _open_log(run, state.step) if is_main else None
        self._monitors = DeepSpeedMonitors(engine.monitors) if is_main else None
        self._mlflow = _open_mlflow(run) if is_main and wants_mlflow else None
        seconds, cpu_seconds = _times_before(run, self._log)
        self._started = time.monotonic() - seconds
        self._cpu_started = time.process_time() - cpu_seconds
        self._throughput = Throughput(int(state.tokens))
        num_sequences = sum(span.sequences for span in run.spans)
        self._time_left = TimeLeft(state.sequences, num_sequences)
        self._data_wait = 0.0
        self._peak_flops = _peak_flops(run, engine.device)
        self._bar = tqdm(
            total=run.num_steps,
            initial=state.step,
            desc=f"{run.case.name}/{run.case.arm}",
            unit="step",
            disable=None if run.world.is_main else True,  # None: shown on a terminal only
        )

    def close(self) -> None:
        """Close the outputs."""
        self._bar.close()
        if self._log is not None:
            self._log.close()
        if self._mlflow is not None:
            self._mlflow.close(finished=self._state.step == self._run.num_steps)
        if self._monitors is not None:
            self._monitors.close()

    def timed_batches(self, batches: Iterator[list[PackedBatch]]) -> Iterator[list[PackedBatch]]:
        """The batches; the time spent waiting for them is measured, and each is a heartbeat."""
        before = time.monotonic()
        self._watchdog.heartbeat("waiting for data", self._state.step + 1)
        for packs in batches:
            self._data_wait += time.monotonic() - before
            self._watchdog.heartbeat("computing")
            yield packs
            self._bar.update()
            before = time.monotonic()
            self._watchdog.heartbeat("waiting for data", self._state.step + 1)

    def log_training(self) -> None:
        """Log the metrics of the steps since the last training line, if there are any."""
        sums, self._state.since_log = self._state.since_log, MetricSums()
        if sums.masked == 0:  # the last step may already be logged, before a resume
            return
        metrics = {
            "loss/train": sums.mean_loss,
            "acc/train": sums.accuracy,
            "masked_ratio": sums.masked_ratio,
            "padding": 1 - sums.tokens / sums.slots,
            "peak_memory": peak_memory_gb(self._engine.device),
            "data_wait": self._data_wait,
            **self._batch_size(),
            **self._step_metrics(),
        }
        self._data_wait = 0.0
        self._write(metrics)
        self._bar.set_postfix_str(f"loss {sums.mean_loss:.3f} acc {sums.accuracy:.3f}")
        if self._run.world.is_main:
            step, num_steps = self._state.step, self._run.num_steps
            text = progress_line(metrics, self._time_left.measure(self._state.sequences))
            logger.info("step %d of %d: %s", step, num_steps, text, extra=FILE_ONLY)

    def _stage(self) -> dict[str, float]:
        """The number of the stage, from 1, if the run has several."""
        return {"stage": self._run.number + 1} if self._run.case.stage else {}

    def _batch_size(self) -> dict[str, float]:
        """The size of the last batch, if it may vary in the run."""
        plan = self._run.loader.plan
        is_constant = plan.is_constant and not self._run.case.stage
        return {} if is_constant else {"batch_size": plan.at(self._state.step - 1).size}

    def _step_metrics(self) -> dict[str, float]:
        """Learning rate, gradient norm, speed and times; empty before the engine's first step.

        The engine has made no step if a run went back over a loss spike and then skipped all steps
        up to this line.
        """
        tokens_per_s = self._throughput.measure(int(self._state.tokens))
        if self._engine.learning_rate is None:
            return {}
        return {
            "lr": self._engine.learning_rate,
            "grad_norm": float(self._engine.grad_norm or 0.0),
            "tokens_per_s": tokens_per_s,
            "mfu": mfu(tokens_per_s, _flops_per_token(self._run), self._peak_flops),
            **self._engine.timer.seconds(),
        }

    def log_validation(self, metrics: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Log the metrics of a validation, and show texts (Markdown by tag) in TensorBoard."""
        self._write(metrics)
        if self._log is not None:
            for tag, text in texts.items():
                self._log.text(tag, text)
        self.restart_throughput()

    def restart_throughput(self) -> None:
        """Exclude the time of validating or saving from tokens/s."""
        self._throughput.restart(int(self._state.tokens))

    def sync(self) -> None:
        """Flush metrics.jsonl to disk."""
        if self._log is not None:
            self._log.sync()

    def _write(self, metrics: Mapping[str, float]) -> None:
        if self._log is None or self._monitors is None:
            return
        state = self._state
        values = {
            "step": state.step,
            "epoch": self._run.epochs(state.step),
            **self._stage(),
            "sequences": state.sequences,
            "tokens": int(state.tokens),
            **metrics,
            "seconds": time.monotonic() - self._started,
            "cpu_seconds": time.process_time() - self._cpu_started,
        }
        self._log.log(values)
        self._monitors.write(values, state.step)
        if self._mlflow is not None:
            self._mlflow.log(values)


def progress_line(metrics: Mapping[str, float], seconds_left: float) -> str:
    """Format the metrics of a log point in one line, with the time that the run still needs."""
    parts = [f"loss {metrics['loss/train']:.4f}", f"accuracy {metrics['acc/train']:.4f}"]
    if "lr" in metrics:
        parts.append(f"learning rate {metrics['lr']:.2e}")
        parts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    if math.isfinite(seconds_left):
        parts.append(f"{datetime.timedelta(seconds=round(seconds_left))} left")
    return ", ".join(parts)


def _open_log(run: RunSetup, step: int) -> MetricsLog:
    log = MetricsLog(run.run_dir, step)
    if step == run.begins_at:
        for summary in run_summaries(read_json(run.run_dir / "case.json")):
            log.show(summary)
    return log


def _times_before(run: RunSetup, log: MetricsLog | None) -> tuple[float, float]:
    """Wall and CPU seconds before this start; those of a branch count on from its trunk."""
    if log is None:
        return 0.0, 0.0
    if run.branch is not None and log.seconds == 0:
        return run.branch.times()
    return log.seconds, log.cpu_seconds


def _open_mlflow(run: RunSetup) -> MlflowRun:
    assert run.case.bertds.run.mlflow is not None
    name = f"{run.case.name}/{run.case.arm}"
    settings = scalars_of(run.whole.resolved)
    return MlflowRun(run.run_dir, run.case.bertds.run.mlflow, name, settings)


def _peak_flops(run: RunSetup, device: torch.device) -> float:
    """Peak FLOP/s of all ranks: from the data sheet, or measured by all ranks at once."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    known = peak_flops(device_name(device))
    per_rank = known or measured_flops(device, dtypes[run.case.precision])
    return per_rank * run.world.world_size


def _flops_per_token(run: RunSetup) -> float:
    """FLOPs of the model, as if all sequences had the mean length: a lower bound."""
    model = run.case.bertds.model
    return model_flops_per_token(
        hidden_size=model.hidden_size,
        num_layers=model.num_hidden_layers,
        intermediate_size=model.intermediate_size,
        glu=model.feed_forward == "glu",
        mean_length=mean_length_of(run.train),
        vocab_size=run.vocabulary.size,
        masked_share=run.case.bertds.masking.ratio,
    )
