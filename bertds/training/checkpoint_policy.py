"""When a run saves, what a failed save means, and where a run resumes."""

import logging
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bertds.checkpoint import saver
from bertds.checkpoint.directory import Checkpoint, list_checkpoints
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.engine.process_group import broadcast_object
from bertds.errors import CheckpointWriteError, ConfigError, ExitCode
from bertds.huggingface.source_model import SourceModel
from bertds.runs.status import write_status
from bertds.tracking.jsonl import read_metrics
from bertds.training.branch import Branch
from bertds.training.metric_logger import MetricLogger
from bertds.training.run_setup import RunSetup
from bertds.training.stages import OtherStage, seam_updates
from bertds.training.state import TrainState

logger = logging.getLogger("bertds")

_RATE_KEYS = re.compile(
    r"(stage \S+: )?(scheduler|optimizer\.params\.lr|bertds\.run\.(num_epochs|max_steps|max_tokens))"
)
_RISE = 1.1  # times the last logged rate


def newest_step(run: RunSetup, before: int | None) -> int:
    """The step of the checkpoint that `resume` will find, if it is not damaged; 0 without one.

    All ranks must call it; the arguments are those of `resume`.
    """
    paths = list_checkpoints(run.run_dir) if run.world.is_main else []
    steps = [int(path.name.removeprefix("step_")) for path in paths]
    preferred = [step for step in steps if before is None or step < before]
    newest: int = broadcast_object(max(preferred or steps, default=0))
    return newest


def resume(run: RunSetup, engine: Engine, before: int | None) -> TrainState:
    """Load the newest complete checkpoint or, without one, what the run begins with.

    That is the checkpoint of `run.branch_from`, or the weights of `run.init_from`.

    Args:
        run: The run.
        engine: A fresh engine.
        before: Prefer checkpoints of earlier steps than this one, to go back over a loss spike.

    Raises:
        ConfigError: The checkpoint was trained on other shards.
        CheckpointError: Every checkpoint is damaged, or of another model or version; or a rank cannot
            read or keep what the run begins with.
        OtherStage: The checkpoint belongs to another stage of the run.
    """
    checkpoint = saver.find_newest(engine, run.run_dir, before)
    if checkpoint is None:
        return _begin(run, engine)
    if not run.covers(checkpoint.manifest["step"]):
        raise OtherStage(checkpoint.manifest["step"])
    changes = [f"changed since the start: {change}" for change in run.changes]
    for message in [*checkpoint.skipped, *changes]:
        logger.warning("%s", message)
    if run.previous is not None and checkpoint.manifest["step"] == run.first_step:
        return _start_stage(run, run.previous, engine, checkpoint)
    state = saver.load(engine, checkpoint)
    has_more_sets = _check_shards(run, checkpoint.path, state)
    resumed = TrainState.from_checkpoint(state)
    resumed.check_position(run.loader.plan)
    if has_more_sets:
        logger.warning("there are more validation sets now: the best checkpoint is chosen anew")
        resumed.best_loss = None
    _warn_of_rate_rise(run, engine, run.run_dir, resumed.step, run.changes)
    return resumed


def _begin(run: RunSetup, engine: Engine) -> TrainState:
    """Start without a checkpoint of the run's own."""
    if run.branch is not None:
        return _begin_branch(run, run.branch, engine)
    if run.pretrained is not None:
        logger.info("initial weights: %s", run.pretrained.directory)
        for note in run.pretrained.notes():
            logger.info("%s: %s", run.pretrained.directory.name, note)
    weights: dict[str, Tensor] = {}

    def read_source() -> None:
        _keep_source(run)
        if run.pretrained is not None:
            weights.update(run.pretrained.weights())

    saver.run_on_all_ranks(read_source)
    if weights:
        engine.set_weights(weights)
    return TrainState()


def _keep_source(run: RunSetup) -> None:
    """Keep what an export will need of the model that the run continues; rank 0 does it.

    An earlier start without a checkpoint may have continued another model, or none.
    """
    if not run.world.is_main:
        return
    if run.branch is not None:
        SourceModel.copy(run.branch.run_dir, run.run_dir)
    elif run.pretrained is not None:
        SourceModel.keep(run.pretrained, run.run_dir)
    else:
        SourceModel.remove(run.run_dir)


def _begin_branch(run: RunSetup, branch: Branch, engine: Engine) -> TrainState:
    """Load the checkpoint of the trunk; the best checkpoint is chosen among the branch's own."""
    logger.info("branch of %s", branch)
    for difference in branch.differences:
        logger.info("differs from there: %s", difference)
    saver.run_on_all_ranks(branch.check_exists)
    saver.run_on_all_ranks(partial(_keep_source, run))
    checkpoint = saver.open_on_all_ranks(engine, branch.checkpoint)
    state = saver.load(engine, checkpoint, is_own=False)
    _check_shards(run, checkpoint.path, state)
    begun = TrainState.from_checkpoint(state)
    begun.check_position(run.loader.plan)
    begun.best_loss = None
    _warn_of_rate_rise(run, engine, branch.run_dir, begun.step, branch.differences)
    return begun


def _warn_of_rate_rise(
    run: RunSetup, engine: Engine, logged_in: Path, step: int, changes: list[str]
) -> None:
    """Warn if changed settings raise the learning rate above the last one logged in a run."""
    if run.world.is_main and any(map(_RATE_KEYS.match, changes)):
        warning = rate_rise(logged_in, step, engine.next_learning_rate)
        if warning:
            logger.warning("%s", warning)


def _start_stage(
    run: RunSetup, previous: RunSetup, engine: Engine, checkpoint: Checkpoint
) -> TrainState:
    """Load the last checkpoint of the stage before; weights, moments and counters are kept."""
    updates = partial(seam_updates, restarts=run.has_own_schedule)
    state = saver.load(engine, checkpoint, updates=updates)
    _check_shards(previous, checkpoint.path, state)
    started = TrainState.from_checkpoint(state)
    started.check_position(previous.loader.plan)
    started.move_to(started.step, run.loader.plan)
    started.best_loss = None  # of other validation sets, perhaps
    started.losses = []
    return started


def _check_shards(run: RunSetup, checkpoint: Path, state: dict[str, Any]) -> bool:
    """Compare the shards with those of a checkpoint, and take the latter out of its state.

    Returns:
        Whether validation sets were added, on which nothing that is trained depends.
    """
    has_more_sets = False
    for use, identity in run.data_identity().items():
        if_absent = identity if use == "valid" else None  # older checkpoints do not hold it
        saved = state.pop(use, if_absent)
        if use == "valid" and len(identity) > len(saved):
            has_more_sets = all(each in identity for each in saved)
        if saved != identity and not has_more_sets:
            names = ", ".join(subset.name for subset in run.subsets()[use])
            done = "trained" if use == "data" else "validated"
            is_own = checkpoint.is_relative_to(run.run_dir)
            other = "train into another --out" if is_own else "leave run.branch_from out"
            raise ConfigError(
                f"{checkpoint} was {done} on other shards than those that --data now has as "
                f"{names}: point --data at the former shards, or {other}"
            )
    return has_more_sets


def rate_rise(run_dir: Path, step: int, rate: float) -> str:
    """A warning if the learning rate rises where a run resumes; empty otherwise.

    Args:
        run_dir: The run directory.
        step: The step that it resumes from.
        rate: The learning rate of the next step.
    """
    lines = read_metrics(run_dir / "metrics.jsonl")
    logged = [line for line in lines if "lr" in line and line["step"] <= step]
    rates = [line["lr"] for line in logged]
    is_warmup = len(rates) > 1 and rates[-2] < rates[-1]  # rises in any case
    if not rates or is_warmup or rate <= _RISE * rates[-1]:
        return ""
    return (
        f"the learning rate rises from {rates[-1]:.3g} at step {logged[-1]['step']} to {rate:.3g} "
        f"at step {step + 1}, because settings that it depends on have changed: if that is not "
        "meant, stop and change them back; scheduler.params.total_num_steps, where the scheduler "
        "has it, keeps the length of the schedule when a run is extended"
    )


class CheckpointPolicy:
    """Saves a run; a failed save ends it only if no later one can make up for it."""

    def __init__(
        self,
        run: RunSetup,
        engine: Engine,
        state: TrainState,
        metric_logger: MetricLogger,
        watchdog: Watchdog,
    ) -> None:
        self._run, self._engine, self._state = run, engine, state
        self._metric_logger, self._watchdog = metric_logger, watchdog
        self._saved_best_loss = state.best_loss
        self.has_checkpoint = state.step > 0
        """Whether there is a checkpoint to go back to."""

    def save(self, *, is_best: bool, is_final: bool) -> None:
        """Write a checkpoint of this step; all ranks must call it.

        If it cannot be written, training continues and the next save is tried in its turn.

        Args:
            is_best: Whether its validation loss is the best so far.
            is_final: Whether no other checkpoint will follow.

        Raises:
            CheckpointWriteError: The final checkpoint could not be written.
            NonFiniteError: A weight or moment is NaN or infinite.
        """
        run, state = self._run, self._state
        self._watchdog.heartbeat("saving", state.step)
        self._metric_logger.sync()  # before a checkpoint from which they are not written again
        try:
            saver.save(
                self._engine,
                run.run_dir,
                asdict(state) | run.data_identity(),
                keep_last=run.case.bertds.run.keep_last,
                keep_every=run.keep_every,
                best=is_best,
            )
        except CheckpointWriteError as error:
            if is_final:
                raise
            if is_best:
                state.best_loss = self._saved_best_loss
            if run.world.is_main:
                logger.error(
                    "%s; training continues, and the next save is tried in its turn", error
                )
            return
        self._saved_best_loss = state.best_loss
        self.has_checkpoint = True
        self._metric_logger.restart_throughput()
        if run.world.is_main:
            write_status(run.run_dir, "running", ExitCode.PREEMPTED, "training", state.step)
