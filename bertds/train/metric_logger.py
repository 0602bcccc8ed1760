"""What a run says of itself while it trains: log lines, the bar, checkpoints, its directory."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import torch
from tqdm import tqdm

from bertds.checkpoint import saver
from bertds.data.dataset import mean_length_of
from bertds.data.packing import PackedBatch
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.validation import valid_packs
from bertds.distributed.failures import translate_step_errors
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.errors import CheckpointWriteError, ExitCode, NonFiniteError
from bertds.metrics.accumulators import AsyncSums, MetricSums, validation_metrics
from bertds.metrics.device import device_name, measured_flops, peak_memory_gb
from bertds.metrics.flops import mfu, model_flops_per_token, peak_flops
from bertds.metrics.throughput import Throughput
from bertds.runs.status import write_status
from bertds.tracking.jsonl import MetricsLog
from bertds.tracking.mlflow import MlflowRun
from bertds.tracking.predictions import Examples
from bertds.tracking.skipped_batches import NAME, SkippedBatchLog
from bertds.tracking.tensorboard import scalars_of
from bertds.train.setup import RunSetup
from bertds.train.spike_guard import SkippedRange, check_for_spike
from bertds.train.state import TrainState

logger = logging.getLogger("bertds")


class Record:
    """What a run says of itself while it trains: lines, bar, checkpoints."""

    def __init__(
        self,
        run: RunSetup,
        engine: Engine,
        state: TrainState,
        log: MetricsLog | None,
        dog: Watchdog,
    ) -> None:
        self._run, self._engine, self._state, self._log, self._dog = run, engine, state, log, dog
        self._bad_steps = SkippedBatchLog(run.run_dir, state.step) if run.world.is_main else None
        wants_mlflow = run.world.is_main and run.case.bertds.run.mlflow is not None
        self._mlflow = _mlflow_run(run) if wants_mlflow else None
        tokenizer = run.vocabulary.directory / TOKENIZER_NAME
        self._examples = Examples(run.valid, run.valid_share, tokenizer)
        self._throughput = Throughput(int(state.tokens))
        self._started = time.monotonic() - (log.seconds if log else 0.0)
        self._data_wait = 0.0
        self._peak_flops = _peak_flops(run, engine.device)
        self._saved_best_loss = state.best_loss
        self._has_checkpoint = state.step > 0
        self._bar = tqdm(
            total=run.lengths.num_steps,
            initial=state.step,
            desc=f"{run.case.name}/{run.case.arm}",
            unit="step",
            disable=None if run.world.is_main else True,  # None: where it is no terminal
        )

    def close(self) -> None:
        """Leave the bar as it stands and close the files."""
        self._bar.close()
        if self._log is not None:
            self._log.close()
        if self._mlflow is not None:
            self._mlflow.close(finished=self._state.step == self._run.lengths.num_steps)

    def waiting(self, batches: Iterator[list[PackedBatch]]) -> Iterator[list[PackedBatch]]:
        """The batches, with the time spent waiting for them."""
        before = time.monotonic()
        self._dog.heartbeat("waiting for data", self._state.step + 1)
        for packs in batches:
            self._data_wait += time.monotonic() - before
            self._dog.heartbeat("computing")
            yield packs
            self._bar.update()
            before = time.monotonic()
            self._dog.heartbeat("waiting for data", self._state.step + 1)

    def count(self, reading: AsyncSums) -> bool:
        """Count a step; whether a process asked to stop.

        Raises:
            NonFiniteError: It is the last of `run.max_bad_steps` in a row, or one spike too many.
            LossSpike: Its loss jumped.
        """
        sums = reading.sums()
        # While fp16 looks for its loss scale, a finite loss may overflow in the gradient.
        is_bad = sums.skips > 0 and not (
            self._run.case.seeks_loss_scale and math.isfinite(sums.loss)
        )
        batch = self._state.sequences // self._run.case.train_batch_size
        self._state.count(sums, self._run.case.train_batch_size, is_bad=is_bad)
        if is_bad:
            self._bad_step(batch, sums.loss)
        elif sums.skips == 0:
            check_for_spike(
                *(self._run.case.bertds.run, batch + 1, sums.mean_loss),
                *(self._state.losses, self._state.skips),
                back=self._has_checkpoint,
            )
        return sums.stops > 0

    def skipped(self, skip: SkippedRange) -> None:
        """Count a step whose batch was passed over."""
        batch = self._state.sequences // self._run.case.train_batch_size
        self._state.sequences += self._run.case.train_batch_size
        why = {"spike": {"step": skip.spike, "loss": skip.loss}}
        if self._bad_steps is not None:
            self._bad_steps.write(batch + 1, why, self._run.loader.origins(batch))

    def _bad_step(self, batch: int, loss: float) -> None:
        """Say and write what was not applied; end a run that does nothing else."""
        in_a_row, most = self._state.bad_in_a_row, self._run.case.bertds.run.max_bad_steps
        fault = f"a summed loss of {loss}" if not math.isfinite(loss) else "an infinite gradient"
        logger.warning(
            "step %d had %s and was not applied (%d in a row, the run stops at %d); %s says what "
            "was in it",
            *(batch + 1, fault, in_a_row, most, NAME),
        )
        if self._bad_steps is not None:
            why = {"loss": str(loss)}
            self._bad_steps.write(batch + 1, why, self._run.loader.origins(batch))
        if in_a_row >= most:
            raise NonFiniteError(
                f"{in_a_row} steps in a row up to {batch + 1} had a loss or gradient that is not "
                f"finite and were not applied: lower optimizer.params.lr, set gradient_clipping, "
                f"or look at the sequences in {NAME}; the last checkpoint is good"
            )

    def training(self) -> None:
        """The training line: figures of the steps since the last one."""
        sums, self._state.since_log = self._state.since_log, MetricSums()
        if sums.masked == 0:  # the end coincides with a line of before a resume
            return
        figures = {
            "loss/train": sums.mean_loss,
            "acc/train": sums.accuracy,
            "padding": 1 - sums.tokens / sums.slots,
            "peak_memory": peak_memory_gb(self._engine.device),
            "data_wait": self._data_wait,
            **self._of_the_steps(),
        }
        self._data_wait = 0.0
        self._write(figures)
        self._bar.set_postfix_str(f"loss {sums.mean_loss:.3f} acc {sums.accuracy:.3f}")

    def _of_the_steps(self) -> dict[str, float]:
        """Rate, norm, speed and times, if the engine has made a step.

        It has not where a run went back over a spike and then passed over all steps up to this line.
        """
        speed = self._throughput.measure(int(self._state.tokens))
        if self._engine.learning_rate is None:
            return {}
        return {
            "lr": self._engine.learning_rate,
            "grad_norm": float(self._engine.grad_norm or 0.0),
            "tokens_per_s": speed,
            "mfu": mfu(speed, _flops_per_token(self._run), self._peak_flops),
            **self._engine.clock.seconds(),
        }

    def validation(self) -> bool:
        """The validation line; whether it is the best so far."""
        if not self._run.valid:
            return False
        share = self._run.valid_share
        sets = self._run.valid.items()
        with translate_step_errors(self._run.world, share.micro_batch_size):
            figures = validation_metrics(
                {
                    name: self._engine.evaluate(
                        self._dog.through(valid_packs(one, share), f"validating on {name}")
                    )
                    for name, one in sets
                }
            )
        self._write(figures)
        self._show_examples()
        self._throughput.restart(int(self._state.tokens))
        loss = figures["loss/valid"]
        logger.info(
            "step %d: validation loss %.4f, accuracy %.4f",
            self._state.step,
            loss,
            figures["acc/valid"],
        )
        best = math.inf if self._state.best_loss is None else self._state.best_loss
        is_best = loss < best  # never if it is NaN
        if is_best:
            self._state.best_loss = loss
        return is_best

    def _show_examples(self) -> None:
        """What the model makes of a few sequences, for TensorBoard."""
        logits = [self._engine.logits(pack) for pack in self._examples.packs]
        if self._log is not None:
            for tag, text in self._examples.told(logits).items():
                self._log.text(tag, text)

    def save(self, *, best: bool, final: bool) -> None:
        """A checkpoint of this step; if the disk does not take it, training goes on.

        Args:
            best: Whether this is the best so far.
            final: Whether no other will follow.

        Raises:
            CheckpointWriteError: The final one is not written.
            NonFiniteError: A weight or moment is not finite.
        """
        self._dog.heartbeat("saving", self._state.step)
        keep_last = self._run.case.bertds.run.keep_last
        state = asdict(self._state) | self._run.data_identity()
        if self._log is not None:
            self._log.sync()  # a run that goes on from here does not write them again
        try:
            saver.save(self._engine, self._run.run_dir, state, keep_last=keep_last, best=best)
        except CheckpointWriteError as error:
            if final:
                raise
            if best:
                self._state.best_loss = self._saved_best_loss
            if self._run.world.is_main:
                logger.error("%s; training goes on, the next one is tried in its turn", error)
            return
        self._saved_best_loss = self._state.best_loss
        self._has_checkpoint = True
        self._throughput.restart(int(self._state.tokens))
        if self._run.world.is_main:
            write_status(
                self._run.run_dir, "running", ExitCode.PREEMPTED, "training", self._state.step
            )

    def _write(self, figures: Mapping[str, float]) -> None:
        if self._log is None:
            return
        state = self._state
        place = {
            "step": state.step,
            "epoch": state.step / self._run.lengths.steps_per_epoch,
            "sequences": state.sequences,
            "tokens": int(state.tokens),
        }
        values = {**place, **figures, "seconds": time.monotonic() - self._started}
        self._log.log(values)
        self._engine.report(values, state.step)
        if self._mlflow is not None:
            self._mlflow.log(values)


def _mlflow_run(run: RunSetup) -> MlflowRun:
    case = run.case
    assert case.bertds.run.mlflow is not None
    settings = scalars_of(case.resolved)
    return MlflowRun(run.run_dir, case.bertds.run.mlflow, f"{case.name}/{case.arm}", settings)


def _peak_flops(run: RunSetup, device: torch.device) -> float:
    """Of all processes: by the card's data sheet, or measured, by all at once as they will work."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    known = peak_flops(device_name(device))
    one = known or measured_flops(device, dtypes[run.case.precision])
    return one * run.world.world_size


def _flops_per_token(run: RunSetup) -> float:
    """Of the model, with sequences taken as all of the mean length: a lower bound."""
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
