"""One run: build, resume, loop, stop.

    prepare (files only) --> build (model, DeepSpeed) --> resume --> loop --> done, or pre-empted

`_loop` is the place to read first.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from bertds.checkpoint import saver
from bertds.config.schema import interval_steps
from bertds.data.rng import derive_key
from bertds.distributed.failures import translate_peer_errors
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.errors import COLLECTIVE_ERRORS, ConfigError, ExitCode, PeerLostError, exit_code_of
from bertds.io.json_files import read_json
from bertds.metrics.accumulators import AsyncSums
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.status import write_status
from bertds.tracking.console import add_file
from bertds.tracking.jsonl import MetricsLog
from bertds.tracking.tensorboard import opening
from bertds.train.host_check import check_hosts
from bertds.train.metric_logger import Record
from bertds.train.preemption import PreemptionSignal
from bertds.train.profiler import traced, untraced
from bertds.train.run_info import write_run_info
from bertds.train.setup import RunSetup
from bertds.train.spike_guard import LossSpike, SkippedRange, find_skip
from bertds.train.state import TrainState

logger = logging.getLogger("bertds")

_WEIGHTS = 30  # the stream of the run's seed that the first weights are drawn from


def train(
    run: RunSetup, device: torch.device, stop: PreemptionSignal, *, profile: bool = False
) -> int:
    """Train one run from where it stands to its end; a failure is written to its `status.json`.

    Args:
        run: From `prepare`.
        device: From `engine.start`.
        stop: Whether to stop before the end.
        profile: Whether process 0 writes a trace of a few steps.

    Returns:
        0 when done, 75 when stopped before the end, with a checkpoint.

    Raises:
        ConfigError: A host has other shards, or does not see the run's directory.
        NonFiniteError: Losses, gradients or weights are not finite.
        CheckpointError: A checkpoint cannot be read, or the final one not be written.
        PeerLostError: Another process ended, hangs, or cannot be reached.
    """
    try:
        with translate_peer_errors(run.world):
            return _begin(run, device, stop, profile=profile)
    except Exception as error:
        if run.world.is_main or not isinstance(error, COLLECTIVE_ERRORS):
            _record_failure(run, exit_code_of(error), str(error) or type(error).__name__)
        raise


def _begin(run: RunSetup, device: torch.device, stop: PreemptionSignal, *, profile: bool) -> int:
    """The run under its clock, its watchdog and its log; the exit code."""
    if run.world.is_main:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        write_status(run.run_dir, "running", ExitCode.PREEMPTED, "starting", _last_step(run))
    stop.set_deadline(run.case.bertds.run.max_hours)
    torch.use_deterministic_algorithms(run.case.bertds.run.deterministic)
    timeout_s = run.case.bertds.run.collective_timeout_s
    with (
        Watchdog(run.world, timeout_s, partial(_record_failure, run, ExitCode.RANK_FAILURE)) as dog,
        _log_file(run),
    ):
        return _train(run, device, stop, dog, profile=profile)


def _train(
    run: RunSetup, device: torch.device, stop: PreemptionSignal, dog: Watchdog, *, profile: bool
) -> int:
    """The run's course, begun again at each loss spike; the exit code."""
    dog.heartbeat("comparing the hosts")
    check_hosts(run)
    skips: list[SkippedRange] = []
    while True:
        try:
            return _course(run, device, stop, dog, skips, profile=profile)
        except LossSpike as spike:
            skips = spike.skips


def _course(
    run: RunSetup,
    device: torch.device,
    stop: PreemptionSignal,
    dog: Watchdog,
    skips: list[SkippedRange],
    *,
    profile: bool,
) -> int:
    """Build, resume, loop, to the end or to a loss spike; the exit code."""
    dog.heartbeat("building the model")
    with contextlib.closing(build(run, device)) as engine:
        dog.heartbeat("loading a checkpoint")
        # Over a spike to what was saved before the steps that are suspected, if there is such.
        state = _resume(run, engine, before=skips[-1].first if skips else None)
        state.skips = skips or state.skips
        dog.heartbeat("describing the run", state.step)
        write_run_info(run, engine, state.step)
        log = _open_log(run, state.step) if run.world.is_main else None
        tracing = traced(run.run_dir) if profile and run.world.is_main else untraced()
        with (
            contextlib.closing(Record(run, engine, state, log, dog)) as record,
            tracing as end_step,
        ):
            stopped = _loop(run, engine, state, record, stop, end_step)
        dog.heartbeat("closing")
    if run.world.is_main and stopped:
        write_status(
            run.run_dir, "pre-empted", ExitCode.PREEMPTED, "run the same command again", state.step
        )
    elif run.world.is_main:
        write_status(run.run_dir, "done", 0, "all steps are done", state.step)
    return ExitCode.PREEMPTED if stopped else 0


def _open_log(run: RunSetup, step: int) -> MetricsLog:
    """The log of a run; a new one begins with what TensorBoard shows of it as a whole."""
    log = MetricsLog(run.run_dir, step)
    for summary in opening(read_json(run.run_dir / "case.json")) if step == 0 else ():
        log.show(summary)
    return log


def _record_failure(run: RunSetup, code: int, sentence: str) -> None:
    """Write what ended the run; the process that others lost says it better than they."""
    if code == PeerLostError.code:
        has_failed = read_json(run.run_dir / "status.json").get("state") == "failed"
        if has_failed or not run.world.is_main:
            return
    concurrent_writers = not run.world.is_main
    write_status(
        run.run_dir,
        "failed",
        code,
        sentence,
        _last_step(run),
        concurrent_writers=concurrent_writers,
    )


def _last_step(run: RunSetup) -> int:
    """Of the last checkpoint, as far as the status tells."""
    step: int = read_json(run.run_dir / "status.json").get("step", 0)
    return step


def _loop(
    run: RunSetup,
    engine: Engine,
    state: TrainState,
    record: Record,
    stop: PreemptionSignal,
    end_step: Callable[[], None],
) -> bool:
    """Steps to the end; True if it stopped before."""
    due = _Intervals.of(run)
    pending: AsyncSums | None = None
    for packs in record.waiting(run.loader.batches(state.step, run.lengths.num_steps)):
        # A step's sums are read while the next one runs; all processes see the same.
        late, pending = pending, None
        skip = find_skip(state.skips, state.step + 1)
        if skip is None:
            pending = engine.train_step(packs, state.step, stop=stop.is_set())
        state.step += 1
        end_step()
        stopping = late is not None and record.count(late)
        if skip is not None:
            engine.skip_step()
            record.skipped(skip)
        last = state.step == run.lengths.num_steps
        if pending is not None and (stopping or last or due.any(state.step)):
            stopping |= record.count(pending)
            pending = None
        if last or due.log(state.step):
            record.training()
        is_best = (last or due.evaluate(state.step)) and record.validation()
        if stopping or last or is_best or due.save(state.step):
            record.save(best=is_best, final=stopping or last)
        if stopping and not last:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Intervals:
    """What is due after which step."""

    log_every: int
    eval_every: int
    save_every: int

    @classmethod
    def of(cls, run: RunSetup) -> "_Intervals":
        block, epoch = run.case.bertds.run, run.lengths.steps_per_epoch
        intervals = (block.log_every, block.eval_every, block.save_every)
        return cls(*(interval_steps(interval, epoch) for interval in intervals))

    def log(self, step: int) -> bool:
        return step % self.log_every == 0

    def evaluate(self, step: int) -> bool:
        return step % self.eval_every == 0

    def save(self, step: int) -> bool:
        return step % self.save_every == 0

    def any(self, step: int) -> bool:
        return self.log(step) or self.evaluate(step) or self.save(step)


def build(run: RunSetup, device: torch.device) -> Engine:
    """The model with its first weights, which depend on the seed alone, in DeepSpeed's hands."""
    torch.manual_seed(derive_key(run.case.bertds.run.seed, _WEIGHTS) >> 1)
    model = MaskedLanguageModel(run.case.bertds.model, run.vocabulary.size, run.vocabulary.pad_id)
    return Engine.build(run.case, model, run.world, device, run.split, run.lengths)


def _resume(run: RunSetup, engine: Engine, before: int | None) -> TrainState:
    """Go on from the newest complete checkpoint, if there is one, else from `run.init_from`."""
    found = saver.find_newest(engine, run.run_dir, before)
    if found is None and run.pretrained is not None:
        logger.info("first weights: %s", run.pretrained.directory)
        engine.set_weights(run.pretrained.weights())
    if found is None:
        return TrainState()
    for sentence in [*found.skipped, *(f"changed since the start: {c}" for c in run.changes)]:
        logger.warning("%s", sentence)
    state = saver.load(engine, found)
    for use, identity in run.data_identity().items():
        absent = identity if use == "valid" else None  # which older checkpoints do not hold
        if state.pop(use, absent) != identity:
            names = ", ".join(part.name for part in run.parts()[use])
            done = "trained" if use == "data" else "validated"
            raise ConfigError(
                f"{found.path} was {done} on other shards than those that --data now has as "
                f"{names}: point it at those of before, or train into another --out"
            )
    return TrainState.of(state)


@contextlib.contextmanager
def _log_file(run: RunSetup) -> Iterator[None]:
    """`train.log` in the run's directory, of this run only."""
    handler = add_file(run.run_dir / "train.log", run.world)
    try:
        yield
    finally:
        logging.getLogger("bertds").removeHandler(handler)
        handler.close()
