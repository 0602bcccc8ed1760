"""One run: build, resume, loop, stop.

    prepare (files only) --> build (model, DeepSpeed) --> resume --> loop --> done, or pre-empted

`_loop` is the place to read first.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType

import torch

from bertds import checkpoint
from bertds.bad_steps import NumbersError
from bertds.board import opening
from bertds.case.config import interval_steps
from bertds.case.file import CaseError
from bertds.command_line import code_of
from bertds.data.keyed_hash import key_of
from bertds.describe import describe
from bertds.engine import Engine
from bertds.explained import PeerLostError, naming_lost_peers
from bertds.hosts import check_hosts
from bertds.log import add_file
from bertds.metrics import MetricsLog
from bertds.model.mlm import MaskedLanguageModel
from bertds.prepare import Prepared
from bertds.profiling import traced, untraced
from bertds.record import Record, TrainState
from bertds.run_dir import PREEMPTED, read_json, write_status
from bertds.spikes import LossSpike, Skip, skip_at
from bertds.state.fragments import CheckpointError
from bertds.sums import Reading
from bertds.watchdog import HUNG, Watchdog

logger = logging.getLogger("bertds")
SEEN_BY_ALL = (CaseError, CheckpointError, NumbersError)
"""Errors that all processes raise alike, so that none of them waits for another."""
_WEIGHTS = 30  # the stream of the run's seed that the first weights are drawn from


class StopRequest:
    """Whether this process was asked to stop: by a signal, or by its time being up."""

    def __init__(self) -> None:
        self._signal = ""
        self._began = time.monotonic()
        self._deadline: float | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Take SIGTERM, SIGUSR1 and the first Ctrl-C as a request; the second one interrupts."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT and self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def set_deadline(self, max_hours: float | None) -> None:
        """Hours since this request was made, the start of the program and not of an arm."""
        self._deadline = None if max_hours is None else self._began + 3600 * max_hours

    def asked(self) -> bool:
        """Whether to stop after this step, and to begin no further arm."""
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        return bool(self._signal) or is_late


def train(run: Prepared, device: torch.device, stop: StopRequest, *, profile: bool = False) -> int:
    """Train one run from where it stands to its end; a failure is written to its `status.json`.

    Args:
        run: From `prepare`.
        device: From `engine.start`.
        stop: Whether to stop before the end.
        profile: Whether process 0 writes a trace of a few steps.

    Returns:
        0 when done, 75 when stopped before the end, with a checkpoint.

    Raises:
        CaseError: A host has other shards, or does not see the run's directory.
        NumbersError: Losses, gradients or weights are not finite.
        CheckpointError: A checkpoint cannot be read, or the final one not be written.
        PeerLostError: Another process ended, hangs, or cannot be reached.
    """
    try:
        with naming_lost_peers(run.world):
            return _begin(run, device, stop, profile=profile)
    except Exception as error:
        if run.world.is_main or not isinstance(error, SEEN_BY_ALL):
            _record_failure(run, code_of(error), str(error) or type(error).__name__)
        raise


def _begin(run: Prepared, device: torch.device, stop: StopRequest, *, profile: bool) -> int:
    """The run under its clock, its watchdog and its log; the exit code."""
    if run.world.is_main:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        write_status(run.run_dir, "running", PREEMPTED, "starting", _last_step(run))
    stop.set_deadline(run.case.bertds.run.max_hours)
    torch.use_deterministic_algorithms(run.case.bertds.run.deterministic)
    timeout_s = run.case.bertds.run.collective_timeout_s
    with Watchdog(run.world, timeout_s, partial(_record_failure, run, HUNG)) as dog, _log_file(run):
        return _train(run, device, stop, dog, profile=profile)


def _train(
    run: Prepared, device: torch.device, stop: StopRequest, dog: Watchdog, *, profile: bool
) -> int:
    """The run's course, begun again at each loss spike; the exit code."""
    dog.sees("comparing the hosts")
    check_hosts(run)
    skips: list[Skip] = []
    while True:
        try:
            return _course(run, device, stop, dog, skips, profile=profile)
        except LossSpike as spike:
            skips = spike.skips


def _course(
    run: Prepared,
    device: torch.device,
    stop: StopRequest,
    dog: Watchdog,
    skips: list[Skip],
    *,
    profile: bool,
) -> int:
    """Build, resume, loop, to the end or to a loss spike; the exit code."""
    dog.sees("building the model")
    with contextlib.closing(build(run, device)) as engine:
        dog.sees("loading a checkpoint")
        # Over a spike to what was saved before the steps that are suspected, if there is such.
        state = _resume(run, engine, before=skips[-1].first if skips else None)
        state.skips = skips or state.skips
        dog.sees("describing the run", state.step)
        describe(run, engine, state.step)
        log = _open_log(run, state.step) if run.world.is_main else None
        tracing = traced(run.run_dir) if profile and run.world.is_main else untraced()
        with (
            contextlib.closing(Record(run, engine, state, log, dog)) as record,
            tracing as end_step,
        ):
            stopped = _loop(run, engine, state, record, stop, end_step)
        dog.sees("closing")
    if run.world.is_main and stopped:
        write_status(run.run_dir, "pre-empted", PREEMPTED, "run the same command again", state.step)
    elif run.world.is_main:
        write_status(run.run_dir, "done", 0, "all steps are done", state.step)
    return PREEMPTED if stopped else 0


def _open_log(run: Prepared, step: int) -> MetricsLog:
    """The log of a run; a new one begins with what TensorBoard shows of it as a whole."""
    log = MetricsLog(run.run_dir, step)
    for summary in opening(read_json(run.run_dir / "case.json")) if step == 0 else ():
        log.show(summary)
    return log


def _record_failure(run: Prepared, code: int, sentence: str) -> None:
    """Write what ended the run; the process that others lost says it better than they."""
    if code == PeerLostError.code:
        has_failed = read_json(run.run_dir / "status.json").get("state") == "failed"
        if has_failed or not run.world.is_main:
            return
    contested = not run.world.is_main
    write_status(run.run_dir, "failed", code, sentence, _last_step(run), contested=contested)


def _last_step(run: Prepared) -> int:
    """Of the last checkpoint, as far as the status tells."""
    step: int = read_json(run.run_dir / "status.json").get("step", 0)
    return step


def _loop(
    run: Prepared,
    engine: Engine,
    state: TrainState,
    record: Record,
    stop: StopRequest,
    end_step: Callable[[], None],
) -> bool:
    """Steps to the end; True if it stopped before."""
    due = _Intervals.of(run)
    pending: Reading | None = None
    for packs in record.waiting(run.loader.batches(state.step, run.lengths.num_steps)):
        # A step's sums are read while the next one runs; all processes see the same.
        late, pending = pending, None
        skip = skip_at(state.skips, state.step + 1)
        if skip is None:
            pending = engine.train_step(packs, state.step, stop=stop.asked())
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
    def of(cls, run: Prepared) -> "_Intervals":
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


def build(run: Prepared, device: torch.device) -> Engine:
    """The model with its first weights, which depend on the seed alone, in DeepSpeed's hands."""
    torch.manual_seed(key_of(run.case.bertds.run.seed, _WEIGHTS) >> 1)
    model = MaskedLanguageModel(run.case.bertds.model, run.vocabulary.size, run.vocabulary.pad_id)
    return Engine.build(run.case, model, run.world, device, run.split, run.lengths)


def _resume(run: Prepared, engine: Engine, before: int | None) -> TrainState:
    """Go on from the newest complete checkpoint, if there is one, else from `run.init_from`."""
    found = checkpoint.find_newest(engine, run.run_dir, before)
    if found is None and run.pretrained is not None:
        logger.info("first weights: %s", run.pretrained.directory)
        engine.set_weights(run.pretrained.weights())
    if found is None:
        return TrainState()
    for sentence in [*found.skipped, *(f"changed since the start: {c}" for c in run.changes)]:
        logger.warning("%s", sentence)
    state = checkpoint.load(engine, found)
    for use, identity in run.data_identity().items():
        absent = identity if use == "valid" else None  # which older checkpoints do not hold
        if state.pop(use, absent) != identity:
            names = ", ".join(part.name for part in run.parts()[use])
            done = "trained" if use == "data" else "validated"
            raise CaseError(
                f"{found.path} was {done} on other shards than those that --data now has as "
                f"{names}: point it at those of before, or train into another --out"
            )
    return TrainState.of(state)


@contextlib.contextmanager
def _log_file(run: Prepared) -> Iterator[None]:
    """`train.log` in the run's directory, of this run only."""
    handler = add_file(run.run_dir / "train.log", run.world)
    try:
        yield
    finally:
        logging.getLogger("bertds").removeHandler(handler)
        handler.close()
