"""The state of a run that a checkpoint keeps, apart from the engine's."""

from dataclasses import dataclass, field, fields
from typing import Any

from bertds.config.batch_plan import BatchPlan
from bertds.errors import CheckpointError, ConfigError
from bertds.metrics.accumulators import MetricSums
from bertds.training.spike_guard import SkippedRange


@dataclass(slots=True)
class TrainState:
    """How far a run has come, in plain numbers."""

    step: int = 0
    """Batches consumed."""
    epoch: int | None = None
    """Epoch of the next batch; older checkpoints hold batches only."""
    epoch_sequences: int | None = None
    """Sequences of that epoch consumed: with the epoch, the coordinate of the data order."""
    sequences: int = 0
    """Sequences consumed."""
    tokens: float = 0
    """Real tokens trained on."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    since_log: MetricSums = field(default_factory=MetricSums)
    """Sums of the steps since the last training line, without skipped steps."""
    bad_in_a_row: int = 0
    """Consecutive steps up to now that were skipped for a non-finite loss or gradient."""
    losses: list[float] = field(default_factory=list)
    """Mean losses of the last good steps: the window of the spike guard."""
    skips: list[SkippedRange] = field(default_factory=list)
    """Steps that are skipped because of loss spikes."""

    @classmethod
    def from_checkpoint(cls, saved: dict[str, Any]) -> "TrainState":
        """Restore what a checkpoint holds.

        Raises:
            CheckpointError: The checkpoint is of another version, or damaged.
        """
        known = {each.name for each in fields(cls)}
        if unknown := saved.keys() - known:
            raise CheckpointError(
                f"state.json of the checkpoint holds {', '.join(sorted(unknown))}, which this "
                "version does not know: resume with the version that wrote it"
            )
        try:
            sums = MetricSums(**saved["since_log"])
            skips = [SkippedRange(*skip) for skip in saved.get("skips", [])]
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"state.json of the checkpoint is damaged ({error})") from error
        return cls(**saved | {"since_log": sums, "skips": skips})

    def check_position(self, plan: BatchPlan) -> None:
        """Check that the run's batches lead to where the checkpoint stands.

        Raises:
            ConfigError: Other batch sizes led there.
        """
        position = plan.at(self.step)
        found, expected = (self.epoch, self.epoch_sequences), (position.epoch, position.first)
        if self.epoch is not None and found != expected:
            raise ConfigError(
                f"the checkpoint of step {self.step} is at sequence {found[1]} of epoch {found[0]}, "
                f"but the batch sizes of the case lead to sequence {expected[1]} of epoch "
                f"{expected[0]}: restore them, or train into another --out"
            )

    def move_to(self, step: int, plan: BatchPlan) -> None:
        """Set the number of batches consumed."""
        position = plan.at(step)
        self.step, self.epoch, self.epoch_sequences = step, position.epoch, position.first

    def count(self, sums: MetricSums, batch_size: int, *, is_bad: bool) -> None:
        """Count the batch of a step."""
        self.sequences += batch_size
        self.tokens += sums.tokens
        self.bad_in_a_row = self.bad_in_a_row + 1 if is_bad else 0
        if not is_bad:
            self.since_log.add(sums)
