"""The state of a run that a checkpoint keeps, apart from the engine's."""

from dataclasses import dataclass, field, fields
from typing import Any

from bertds.errors import CheckpointError
from bertds.metrics.accumulators import MetricSums
from bertds.training.spike_guard import SkippedRange


@dataclass(slots=True)
class TrainState:
    """How far a run has come, in plain numbers."""

    step: int = 0
    """Batches consumed: the only coordinate of the data order."""
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

    def count(self, sums: MetricSums, batch_size: int, *, is_bad: bool) -> None:
        """Count the batch of a step."""
        self.sequences += batch_size
        self.tokens += sums.tokens
        self.bad_in_a_row = self.bad_in_a_row + 1 if is_bad else 0
        if not is_bad:
            self.since_log.add(sums)
