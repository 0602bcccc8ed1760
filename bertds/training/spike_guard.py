"""Loss spikes: detecting them, and the steps that are skipped because of them.

The guard of `run.spike_sigmas` looks at the mean loss of each step. That is a ratio of all-reduced
sums, so all ranks decide alike. At a spike the run goes back to its last checkpoint, as a restart
would, and skips the batches around the spike. They count as steps that were not applied, and are
listed in `bad_steps.jsonl`. The guard's state is part of a checkpoint. A run that is killed between
the spike and the next checkpoint meets the same spike again, and so takes the same course.
"""

import logging
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bertds.config.schema import RunConfig
from bertds.errors import NonFiniteError
from bertds.tracking.skipped_batches import NAME

logger = logging.getLogger("bertds")


class SkippedRange(NamedTuple):
    """Steps whose batches are skipped, counted from 1."""

    first: int
    last: int
    spike: int
    """The step that had the loss spike."""
    loss: float
    """Its mean loss."""


class LossSpike(Exception):  # noqa: N818 - it is handled, and no error to the user
    """Go back to the last checkpoint."""

    def __init__(self, skips: list[SkippedRange]) -> None:
        """Take all ranges to skip from now on, the new one last."""
        super().__init__(f"a loss spike at step {skips[-1].spike}")
        self.skips = skips


def find_skip(skips: Sequence[SkippedRange], step: int) -> SkippedRange | None:
    """The range that a step (from 1) belongs to, if its batch is skipped.

    The ranges are searched in the order in which they were found.
    """
    return next((skip for skip in skips if skip.first <= step <= skip.last), None)


def check_for_spike(
    run: RunConfig,
    step: int,
    loss: float,
    losses: list[float],
    skips: list[SkippedRange],
    *,
    can_go_back: bool,
) -> None:
    """Compare the loss of a good step with the losses before it, and remember it.

    Does nothing if the case sets no `run.spike_sigmas`.

    Args:
        run: The settings.
        step: From 1.
        loss: Its mean loss.
        losses: The losses of the steps before it; this one is appended.
        skips: The ranges that are skipped already.
        can_go_back: Whether there is a checkpoint to go back to.

    Raises:
        LossSpike: The loss is more than `spike_sigmas` standard deviations above the mean.
        NonFiniteError: The same, after the run went back `run.max_spikes` times already.
    """
    if run.spike_sigmas is None:
        return
    del losses[: -run.spike_window]
    if len(losses) == run.spike_window:
        mean = statistics.fmean(losses)
        if loss > mean + run.spike_sigmas * statistics.stdev(losses, mean):
            finding = f"step {step} had a loss of {loss:.4f} after a mean of {mean:.4f}"
            if can_go_back:
                raise LossSpike([*skips, _range_around(run, step, loss, skips, finding)])
            logger.warning("%s; no checkpoint to go back to, training continues", finding)
    losses.append(loss)


def _range_around(
    run: RunConfig, step: int, loss: float, skips: Sequence[SkippedRange], finding: str
) -> SkippedRange:
    if len(skips) >= run.max_spikes:
        raise NonFiniteError(
            f"{finding}, and the run has gone back for {len(skips)} such spikes already: lower "
            "optimizer.params.lr, raise run.spike_sigmas or run.max_spikes, or inspect the "
            f"sequences in {NAME}"
        )
    skip = SkippedRange(max(1, step - run.spike_skip), step + run.spike_skip, step, loss)
    logger.warning(
        "%s: going back to a checkpoint; the batches of steps %d to %d that follow it are skipped "
        "and listed in %s",
        *(finding, skip.first, skip.last, NAME),
    )
    return skip
