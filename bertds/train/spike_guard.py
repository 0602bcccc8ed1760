"""A training loss that jumps, and the batches that are left out for it.

The guard of `run.spike_sigmas` looks at the mean loss of each step, a ratio of all-reduced sums, so
all processes decide alike. At a spike the run goes back to its last checkpoint, as a restart would,
and passes over the batches around the spike: they count as steps that were not applied, and stand
in `bad_steps.jsonl`. What the guard knows is part of a checkpoint. A run that is killed between the
spike and the next checkpoint meets the same spike again, and so takes the same course.
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
    """Batches that are passed over, counted from 1 as steps are."""

    first: int
    last: int
    spike: int
    """The step that had the spike."""
    loss: float
    """Its mean loss."""


class LossSpike(Exception):  # noqa: N818 - it is handled, and no error to the user
    """Go back to the last checkpoint."""

    def __init__(self, skips: list[SkippedRange]) -> None:
        """All that is passed over from now on, the new one last."""
        super().__init__(f"a loss spike at step {skips[-1].spike}")
        self.skips = skips


def find_skip(skips: Sequence[SkippedRange], step: int) -> SkippedRange | None:
    """The reason why a step's batch is passed over, if it is.

    Args:
        skips: In the order in which they were found.
        step: From 1.
    """
    return next((skip for skip in skips if skip.first <= step <= skip.last), None)


def check_for_spike(
    run: RunConfig,
    step: int,
    loss: float,
    losses: list[float],
    skips: list[SkippedRange],
    *,
    back: bool,
) -> None:
    """Look at the loss of a good step, and remember it; nothing if the case wants no guard.

    Args:
        run: The settings.
        step: From 1.
        loss: Its mean loss.
        losses: Those of the steps before it; this one is added.
        skips: What is passed over already.
        back: Whether there is a checkpoint to go back to.

    Raises:
        LossSpike: The loss jumped.
        NonFiniteError: It did, and was gone back for `run.max_spikes` times already.
    """
    if run.spike_sigmas is None:
        return
    del losses[: -run.spike_window]
    if len(losses) == run.spike_window and _is_spike(loss, losses, run.spike_sigmas):
        said = (
            f"step {step} had a loss of {loss:.4f} after a mean of {statistics.fmean(losses):.4f}"
        )
        if back:
            raise LossSpike([*skips, _skip(run, step, loss, skips, said)])
        logger.warning("%s; there is no checkpoint to go back to, so training goes on", said)
    losses.append(loss)


def _is_spike(loss: float, before: Sequence[float], sigmas: float) -> bool:
    """Whether a loss is further above those before it than chance explains."""
    mean = statistics.fmean(before)
    return loss > mean + sigmas * statistics.stdev(before, mean)


def _skip(
    run: RunConfig, step: int, loss: float, skips: Sequence[SkippedRange], said: str
) -> SkippedRange:
    if len(skips) >= run.max_spikes:
        raise NonFiniteError(
            f"{said}, and the run has gone back for {len(skips)} such spikes already: lower "
            "optimizer.params.lr, raise run.spike_sigmas or run.max_spikes, or look at the "
            f"sequences in {NAME}"
        )
    skip = SkippedRange(max(1, step - run.spike_skip), step + run.spike_skip, step, loss)
    logger.warning(
        "%s: going back to a checkpoint; of steps %d to %d, those after it are passed over, %s says "
        "what is in them",
        *(said, skip.first, skip.last, NAME),
    )
    return skip
