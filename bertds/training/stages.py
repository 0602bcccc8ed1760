"""The stages of a run on the axis of its steps, and what they share: lanes, schedule, tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.batch import common_size
from bertds.config.batch_plan import ChainedPlans
from bertds.config.case import Case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.stages import follows_whole_run
from bertds.data.loader import default_lanes
from bertds.errors import ConfigError
from bertds.io.json_files import read_json

if TYPE_CHECKING:
    from bertds.training.run_setup import RunSetup


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpan:
    """Where a stage lies in its run."""

    name: str
    """Empty if the run has one stage only."""
    first_step: int
    """Steps of the run before the stage."""
    last_step: int
    """Its last step, from 1."""
    sequences: int
    """Sequences that it trains on."""
    epochs: float
    """Epochs over its data."""


class OtherStage(Exception):  # noqa: N818 - it is handled, and no error to the user
    """The checkpoint to resume from belongs to another stage than the engine's."""

    def __init__(self, step: int) -> None:
        """Take the step of the checkpoint."""
        super().__init__(f"a checkpoint of step {step}")
        self.step = step


def seam_updates(counters: Mapping[str, Any], *, restarts: bool) -> int:
    """The position in the schedule of the first step of a stage, in applied updates.

    Args:
        counters: DeepSpeed's counters at the end of the stage before.
        restarts: Whether the stage has a schedule of its own.
    """
    return 0 if restarts else int(counters["global_steps"]) - int(counters["skipped_steps"])


def with_schedules(stages: "list[RunSetup]") -> "list[RunSetup]":
    """Tell each stage of all others, and span the schedule of the file over all stages."""
    if len(stages) == 1:
        return stages
    spans, content = stages[-1].spans, stages[0].whole.resolved
    plans = ChainedPlans([(run.loader.plan, run.last_step) for run in stages])
    steps_per_epoch = stages[0].lengths.steps_per_epoch
    whole = ScheduleLengths(steps_per_epoch, spans[-1].last_step, plan=plans)
    linked: list[RunSetup] = []
    for run in stages:
        schedule = whole if follows_whole_run(content, run.case.stage) else run.lengths
        previous = linked[-1] if linked else None
        linked.append(replace(run, spans=spans, schedule=schedule, previous=previous))
    return linked


def lanes_of_stages(whole: Case, run_dir: Path) -> int | None:
    """The lanes of a run with stages, which are chosen once for all; None without stages.

    Raises:
        ConfigError: The lanes that the run was started with do not divide a batch.
    """
    if not whole.stages:
        return None
    multiple = common_size(whole.stages)
    lanes: int = whole.bertds.data.lanes or default_lanes(multiple)
    if list_checkpoints(run_dir):
        lanes = read_json(run_dir / "case.json").get("resolved", {}).get("lanes", lanes)
    if multiple % lanes:
        raise ConfigError(
            f"{run_dir} was started with {lanes} lanes, but a stage has batches of a multiple of "
            f"{multiple} sequences: choose multiples of {lanes}"
        )
    return lanes


def check_tokenizers(stages: "list[RunSetup]") -> None:
    """All stages have the tokenizer of the first: the weights of the embedding are kept."""
    first = stages[0].vocabulary
    for run in stages[1:]:
        if run.vocabulary.fingerprint != first.fingerprint:
            raise ConfigError(
                f"stage {run.case.stage} has shards of another tokenizer ({run.vocabulary.source}) "
                f"than stage {stages[0].case.stage} ({first.source}): make them with the same one"
            )


def epoch_after(run: "RunSetup") -> int:
    """An epoch after a stage, such that no set has an epoch in both, whatever its weight there."""
    last_epoch = run.loader.plan.at(run.last_step - 1).epoch
    return (last_epoch + 1) * max(subset.weight for subset in run.train)
