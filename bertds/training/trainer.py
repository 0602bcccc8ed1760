"""One run: build, resume, loop, stop.

    prepare_run (files only) -> build_engine -> resume -> TrainLoop.run_steps -> done, or preempted

A run with stages builds an engine for each. A stage starts from the last checkpoint of the one before,
so a run that is killed there takes the same way.

`TrainLoop.run_steps` is the place to read first.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from bertds.checkpoint.directory import checkpoint_path, is_multiple
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import RunConfig
from bertds.data.rng import derive_key
from bertds.distributed.failures import translate_peer_errors
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.errors import COLLECTIVE_ERRORS, ExitCode, PeerLostError, exit_code_of
from bertds.io.json_files import read_json
from bertds.metrics.accumulators import AsyncSums
from bertds.metrics.device import allow_tf32
from bertds.model.flash_attention import activate_flash_attention
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.status import write_status
from bertds.tracking.console import log_to_file
from bertds.training.checkpoint_policy import CheckpointPolicy, newest_step, resume
from bertds.training.fault_policy import FaultPolicy
from bertds.training.host_check import check_hosts
from bertds.training.metric_logger import MetricLogger
from bertds.training.preemption import PreemptionSignal, resume_advice
from bertds.training.profiler import traced, untraced
from bertds.training.run_info import write_run_info
from bertds.training.run_setup import RunSetup
from bertds.training.spike_guard import LossSpike, SkippedRange, find_skip
from bertds.training.stages import OtherStage
from bertds.training.state import TrainState
from bertds.training.validator import Validator

logger = logging.getLogger("bertds")

_INITIAL_WEIGHTS = 30  # the stream of the run's seed that the initial weights are drawn from


def build_engine(run: RunSetup, device: torch.device) -> Engine:
    """Make the model, whose initial weights depend on the seed alone, and its DeepSpeed engine."""
    torch.manual_seed(derive_key(run.case.bertds.run.seed, _INITIAL_WEIGHTS) >> 1)
    model = MaskedLanguageModel(run.case.bertds.model, run.vocabulary.size, run.vocabulary.pad_id)
    return Engine.build(run.case, model, run.world, device, run.split, run.schedule)


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains one run; a failure is written to its `status.json`."""

    run: RunSetup
    device: torch.device
    preemption: PreemptionSignal
    profile: bool = False
    """Whether rank 0 writes a trace of a few steps."""

    def train(self) -> int:
        """Train the run from its last checkpoint to its end, or until it is preempted.

        Returns:
            0 when done; 75 when preempted, with a checkpoint.

        Raises:
            ConfigError: A host has other shards, or does not see the run's directory.
            NonFiniteError: Losses, gradients or weights are NaN or infinite.
            CheckpointError: A checkpoint cannot be read, or the final one cannot be written.
            PeerLostError: Another rank ended, hangs, or cannot be reached.
        """
        run, settings = self.run, self.run.case.bertds.run
        try:
            with translate_peer_errors(run.world):
                if run.world.is_main:
                    run.run_dir.mkdir(parents=True, exist_ok=True)
                    step = _last_step(run)
                    write_status(run.run_dir, "running", ExitCode.PREEMPTED, "starting", step)
                self.preemption.set_deadline(settings.max_hours)
                torch.use_deterministic_algorithms(settings.deterministic)
                allow_tf32(self.device, allowed=settings.tf32)
                activate_flash_attention(run.case)
                on_timeout = partial(_record_failure, run, ExitCode.RANK_FAILURE)
                with (
                    Watchdog(run.world, settings.collective_timeout_s, on_timeout) as watchdog,
                    log_to_file(run.run_dir / "train.log", run.world),
                ):
                    return self._train_with_restarts(watchdog)
        except Exception as error:
            if run.world.is_main or not isinstance(error, COLLECTIVE_ERRORS):
                _record_failure(run, exit_code_of(error), str(error) or type(error).__name__)
            raise

    def _train_with_restarts(self, watchdog: Watchdog) -> int:
        """Attempt the run; after each loss spike attempt it again, with more steps to skip."""
        watchdog.heartbeat("comparing the hosts")
        check_hosts(self.run)
        skips: list[SkippedRange] = []
        while True:
            try:
                return self._attempt(watchdog, skips)
            except LossSpike as spike:
                skips = spike.skips

    def _attempt(self, watchdog: Watchdog, skips: list[SkippedRange]) -> int:
        """Train from the newest checkpoint to the end, to a preemption, or to a loss spike."""
        # After a spike, prefer a checkpoint from before the skipped steps.
        before = skips[-1].first if skips else None
        number = self._stage_at(newest_step(self.run, before))
        while True:
            run = self._stages[number]
            try:
                code = self._train_stage(run, watchdog, skips, before)
            except OtherStage as other:
                number = self._stage_at(other.step)
                continue
            if code != ExitCode.SUCCESS or number + 1 == len(self._stages):
                return code
            number, before = number + 1, None

    @property
    def _stages(self) -> list[RunSetup]:
        return [self.run, *self.run.later]

    def _stage_at(self, step: int) -> int:
        """The stage that a run with a checkpoint of this step resumes in."""
        return next(number for number, run in enumerate(self._stages) if run.covers(step))

    def _train_stage(
        self, run: RunSetup, watchdog: Watchdog, skips: list[SkippedRange], before: int | None
    ) -> int:
        """Build, resume, and loop to the end of a stage, to a preemption, or to a loss spike."""
        watchdog.heartbeat("building the model")
        with contextlib.closing(build_engine(run, self.device)) as engine:
            watchdog.heartbeat("loading a checkpoint")
            state = resume(run, engine, before)
            state.skips = skips or state.skips
            watchdog.heartbeat("describing the run", state.step)
            write_run_info(run, engine, state.step, watchdog)
            tracing = traced(run.run_dir) if self.profile and run.world.is_main else untraced()
            with (
                contextlib.closing(MetricLogger(run, engine, state, watchdog)) as metric_logger,
                tracing as end_step,
            ):
                loop = TrainLoop(
                    run=run,
                    engine=engine,
                    state=state,
                    preemption=self.preemption,
                    metric_logger=metric_logger,
                    validator=Validator(run, engine, state, metric_logger, watchdog),
                    checkpoints=CheckpointPolicy(run, engine, state, metric_logger, watchdog),
                    faults=FaultPolicy(run, state),
                    end_step=end_step,
                )
                is_preempted = loop.run_steps()
            watchdog.heartbeat("closing")
        code = ExitCode.PREEMPTED if is_preempted else ExitCode.SUCCESS
        if run.world.is_main and is_preempted:
            message = "run the same command again"
            write_status(run.run_dir, "pre-empted", code, message, state.step)
            saved = checkpoint_path(run.run_dir, state.step)
            advice = resume_advice(run.world)
            logger.info("stopped at step %d; checkpoint: %s; %s", state.step, saved, advice)
        elif run.world.is_main and run.last_step == run.num_steps:
            write_status(run.run_dir, "done", code, "all steps are done", state.step)
        return code


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """A step whose sums are counted if anything is to be done after it."""

    number: int
    is_last: bool
    is_stopping: bool
    """Whether a rank was asked to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoop:
    """The loop of one attempt, and the parts that it calls."""

    run: RunSetup
    engine: Engine
    state: TrainState
    preemption: PreemptionSignal
    metric_logger: MetricLogger
    validator: Validator
    checkpoints: CheckpointPolicy
    faults: FaultPolicy
    end_step: Callable[[], None]
    """Called after each step, for the profiler."""

    def run_steps(self) -> bool:
        """Run the remaining steps of the stage; True if preempted before the run's last one."""
        due = Intervals.of(self.run)
        self.validator.run_before_first_step()
        for step in self._completed_steps(due):
            if step.is_last or due.log(step.number):
                self.metric_logger.log_training()
            is_best = (step.is_last or due.evaluate(step.number)) and self.validator.run()
            is_final = step.is_last or step.is_stopping
            is_preempted = step.is_stopping and step.number < self.run.num_steps
            if is_preempted:
                logger.info("asked to stop by %s: saving a checkpoint", self.preemption.reason())
            if is_final or is_best or due.save(step.number):
                self.checkpoints.save(is_best=is_best, is_final=is_final)
            if is_preempted:
                return True
        return False

    def _completed_steps(self, due: "Intervals") -> Iterator[CompletedStep]:
        """Make one step after another.

        The sums of a step are read while the next one runs, so that the host does not wait for the
        device. They are read at once where something is logged, validated, saved or stopped.
        """
        run, state, engine = self.run, self.state, self.engine
        batches = run.loader.batches(state.step, run.last_step)
        pending: AsyncSums | None = None
        for packs in self.metric_logger.timed_batches(batches):
            previous, pending = pending, None
            skip = find_skip(state.skips, state.step + 1)
            engine.use_split(run.split_at(state.step))
            if skip is None:
                pending = engine.train_step(packs, state.step, stop=self.preemption.is_set())
            state.move_to(state.step + 1, run.loader.plan)
            self.end_step()
            is_stopping = previous is not None and self._count(previous)
            if skip is not None:
                engine.skip_step()
                self.faults.count_skipped(skip)
            is_last = state.step == run.last_step
            if pending is not None and (is_stopping or is_last or due.any(state.step)):
                is_stopping |= self._count(pending)
                pending = None
            yield CompletedStep(state.step, is_last, is_stopping)

    def _count(self, pending: AsyncSums) -> bool:
        """Wait for the sums of a step and count them; whether a rank asks to stop."""
        sums = pending.sums()
        self.faults.count(sums, has_checkpoint=self.checkpoints.has_checkpoint)
        return sums.stops > 0


@dataclass(frozen=True, slots=True)
class Intervals:
    """What is due after which step."""

    block: RunConfig
    lengths: ScheduleLengths
    keep_every: int | None

    @classmethod
    def of(cls, run: RunSetup) -> "Intervals":
        """The intervals of a case."""
        return cls(run.case.bertds.run, run.lengths, run.keep_every)

    def log(self, step: int) -> bool:
        """Whether a training line is due."""
        return self.lengths.is_due(self.block.log_every, step)

    def evaluate(self, step: int) -> bool:
        """Whether a validation is due."""
        return self.lengths.is_due(self.block.eval_every, step)

    def save(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        is_kept = is_multiple(step, self.keep_every)
        return is_kept or self.lengths.is_due(self.block.save_every, step)

    def any(self, step: int) -> bool:
        """Whether anything is due."""
        return self.log(step) or self.evaluate(step) or self.save(step)


def _record_failure(run: RunSetup, code: int, message: str) -> None:
    """Write why the run ended; the rank that the others lost knows it better than they do."""
    if code == PeerLostError.code:
        has_failed = read_json(run.run_dir / "status.json").get("state") == "failed"
        if has_failed or not run.world.is_main:
            return
    write_status(
        run.run_dir,
        "failed",
        code,
        message,
        _last_step(run),
        concurrent_writers=not run.world.is_main,
    )


def _last_step(run: RunSetup) -> int:
    """The step of the last status."""
    step: int = read_json(run.run_dir / "status.json").get("step", 0)
    return step
