"""A run that is ready to start, or one of its stages: what `prepare_run` found out about it."""

import logging
from dataclasses import dataclass
from pathlib import Path

from bertds.config.batch import (
    BatchSplit,
    split_of_size,
)
from bertds.config.case import Case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import interval_steps
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.vocabulary import Vocabulary
from bertds.distributed.world import World
from bertds.huggingface.pretrained import Pretrained
from bertds.io.json_files import read_json
from bertds.training.branch import Branch, Trunk
from bertds.training.stages import (
    StageSpan,
)

logger = logging.getLogger("bertds")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetup:
    """A run that is ready to start, or is finished."""

    case: Case
    run_dir: Path
    world: World
    split: BatchSplit
    """Of a batch with train_batch_size."""
    loader: TrainLoader
    train: list[DatasetSubset]
    valid: dict[str, MaskedDataset]
    vocabulary: Vocabulary
    train_row_length: int
    """Tokens of the longest row of a training batch; 0 for the varlen layout."""
    valid_spec: RankBatchSpec
    """This rank's part of a validation set, and its layout."""
    lengths: ScheduleLengths
    """Of the stage."""
    schedule: ScheduleLengths
    """What the learning-rate schedule spans: the stage, or all stages."""
    spans: tuple[StageSpan, ...]
    """All stages of the run; one if it has none."""
    number: int
    """Which of them this is, from 0."""
    whole: Case
    """The case with all stages."""
    pretrained: Pretrained | None
    """The weights to start from, if not random ones; None also for a run that resumes."""
    branch: Branch | None
    """The checkpoint of another run to start from; None also for a run that resumes."""
    changes: list[str]
    """Settings that differ from those the run started with."""
    previous: "RunSetup | None" = None
    """The stage before."""
    later: "tuple[RunSetup, ...]" = ()
    """The stages after the first one, in the setup of the first."""

    @property
    def first_step(self) -> int:
        """Steps of the run before this stage."""
        return self.spans[self.number].first_step

    @property
    def last_step(self) -> int:
        """The last step of this stage."""
        return self.spans[self.number].last_step

    @property
    def num_steps(self) -> int:
        """Steps of all stages."""
        return self.spans[-1].last_step

    @property
    def has_own_schedule(self) -> bool:
        """Whether the learning-rate schedule starts with this stage."""
        return self.schedule is self.lengths

    def covers(self, step: int) -> bool:
        """Whether this stage makes the step after this one, or the run ends there."""
        is_end = step >= self.last_step
        return self.first_step <= step and (not is_end or self.number == len(self.spans) - 1)

    def epochs(self, step: int) -> float:
        """Epochs of the run before a step, over the data of each stage."""
        before = sum(span.epochs for span in self.spans[: self.number])
        return before + self.lengths.epochs(step)

    def split_at(self, step: int) -> BatchSplit:
        """How the batch after this many steps is split."""
        size = self.loader.plan.at(step).size
        return split_of_size(self.case, size, self.world.world_size)

    @property
    def begins_at(self) -> int:
        """The step that the run begins at, without a checkpoint of its own."""
        return self.branch.step if self.branch is not None else 0

    @property
    def keep_every(self) -> int | None:
        """Interval in steps between two checkpoints that are never removed."""
        interval = self.case.bertds.run.keep_every
        return None if interval is None else interval_steps(interval, self.lengths.steps_per_epoch)

    def is_finished(self) -> bool:
        """Whether the run is done, up to the number of steps that the case has now."""
        status = read_json(self.run_dir / "status.json")
        return status.get("state") == "done" and status["step"] >= self.num_steps

    def as_trunk(self) -> Trunk:
        """The run as another one sees that branches from it, and is trained after it."""
        return Trunk(
            run_dir=self.run_dir,
            config=self.case.resolved,
            train_row_length=self.train_row_length,
            num_steps=0 if self.is_finished() else self.num_steps,
            keep_every=self.keep_every,
        )

    def warn_if_changed(self) -> None:
        """Warn that changed settings have no effect on a finished run."""
        if self.changes:
            logger.warning(
                "%s is finished and not trained again, so these changes have no effect: %s; use "
                "another --out to train with them",
                *(self.run_dir, ", ".join(self.changes)),
            )

    def subsets(self) -> dict[str, list[DatasetSubset]]:
        """The datasets by use, under the keys of a checkpoint."""
        return {"data": self.train, "valid": [dataset.subset for dataset in self.valid.values()]}

    def data_identity(self) -> dict[str, list[list[str | int]]]:
        """Key, length and weight of each dataset: a resumed run must find them unchanged."""
        return {
            use: [[subset.set_key, subset.num_sequences, subset.weight] for subset in subsets]
            for use, subsets in self.subsets().items()
        }
