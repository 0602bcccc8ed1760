"""The state of a run that a checkpoint keeps besides the engine."""

from dataclasses import dataclass, field, fields
from typing import Any

from bertds.errors import CheckpointError
from bertds.metrics.accumulators import MetricSums
from bertds.train.spike_guard import SkippedRange


@dataclass(slots=True)
class TrainState:
    """Where a run stands: plain numbers, all that a checkpoint keeps besides the engine."""

    step: int = 0
    """Batches consumed; the only coordinate of the data."""
    sequences: int = 0
    tokens: float = 0
    """Real tokens trained on."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    since_log: MetricSums = field(default_factory=MetricSums)
    """Sums of the steps after the last training line, bad ones left out."""
    bad_in_a_row: int = 0
    """Steps up to now that were not applied, since a loss or gradient was not finite."""
    losses: list[float] = field(default_factory=list)
    """Mean losses of the last good steps, as many as the guard against spikes needs."""
    skips: list[SkippedRange] = field(default_factory=list)
    """What is passed over because of spikes."""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "TrainState":
        """What a checkpoint holds of it.

        Raises:
            CheckpointError: It holds something else.
        """
        known = {each.name for each in fields(cls)}
        if unknown := saved.keys() - known:
            raise CheckpointError(
                f"state.json of the checkpoint holds {', '.join(sorted(unknown))}, which this "
                "version does not know: go on with the program that wrote it"
            )
        try:
            sums, skips = (
                MetricSums(**saved["since_log"]),
                [SkippedRange(*s) for s in saved.get("skips", [])],
            )
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"state.json of the checkpoint is damaged ({error})") from error
        return cls(**saved | {"since_log": sums, "skips": skips})

    def count(self, sums: MetricSums, batch_size: int, *, is_bad: bool) -> None:
        """Count a step's batch."""
        self.sequences += batch_size
        self.tokens += sums.tokens
        self.bad_in_a_row = self.bad_in_a_row + 1 if is_bad else 0
        if not is_bad:
            self.since_log.add(sums)
