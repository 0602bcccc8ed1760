"""What happens to a step that went wrong: it is counted, logged, skipped, or it ends the run."""

import logging
import math

from bertds.errors import NonFiniteError
from bertds.metrics.accumulators import MetricSums
from bertds.tracking.skipped_batches import NAME, SkippedBatchLog
from bertds.training.run_setup import RunSetup
from bertds.training.spike_guard import SkippedRange, check_for_spike
from bertds.training.state import TrainState

logger = logging.getLogger("bertds")


class FaultPolicy:
    """Counts the steps of a run, and handles non-finite numbers and loss spikes.

    All ranks see the same sums, so they decide alike.
    """

    def __init__(self, run: RunSetup, state: TrainState) -> None:
        """Cut `bad_steps.jsonl` to the step that the run resumes from."""
        self._run, self._state = run, state
        self._counted = state.step
        self._log = SkippedBatchLog(run.run_dir, state.step) if run.world.is_main else None

    def count(self, sums: MetricSums, *, has_checkpoint: bool) -> None:
        """Count a step.

        Args:
            sums: Of the step, over all ranks.
            has_checkpoint: Whether a loss spike can be answered by going back.

        Raises:
            NonFiniteError: It is the last of `run.max_bad_steps` in a row, or one loss spike more
                than `run.max_spikes`.
            LossSpike: Its loss is a spike, and the run goes back to a checkpoint.
        """
        run, state, case = self._run.case.bertds.run, self._state, self._run.case
        # While fp16 searches its loss scale, the gradient of a finite loss may overflow.
        is_bad = sums.skips > 0 and not (case.seeks_loss_scale and math.isfinite(sums.loss))
        step, batch_size = self._next_batch()
        state.count(sums, batch_size, is_bad=is_bad)
        if is_bad:
            self._skipped_as_non_finite(step, sums.loss)
        elif sums.skips == 0:
            check_for_spike(
                run, step, sums.mean_loss, state.losses, state.skips, can_go_back=has_checkpoint
            )

    def count_skipped(self, skip: SkippedRange) -> None:
        """Count a step whose batch was skipped because of a loss spike."""
        step, batch_size = self._next_batch()
        self._state.sequences += batch_size
        self._write(step, {"spike": {"step": skip.spike, "loss": skip.loss}})

    def _next_batch(self) -> tuple[int, int]:
        """Count a batch; its step, which the state may be ahead of, and its size."""
        self._counted += 1
        return self._counted, self._run.loader.plan.at(self._counted - 1).size

    def _skipped_as_non_finite(self, step: int, loss: float) -> None:
        in_a_row, limit = self._state.bad_in_a_row, self._run.case.bertds.run.max_bad_steps
        fault = f"a summed loss of {loss}" if not math.isfinite(loss) else "an infinite gradient"
        logger.warning(
            "step %d had %s and was skipped (%d in a row, the run stops at %d); its sequences are "
            "listed in %s",
            *(step, fault, in_a_row, limit, NAME),
        )
        self._write(step, {"loss": str(loss)})
        if in_a_row >= limit:
            raise NonFiniteError(
                f"{in_a_row} steps in a row up to step {step} had a non-finite loss or gradient "
                "(NaN/Inf) and were skipped: lower optimizer.params.lr, set gradient_clipping, or "
                f"inspect the sequences in {NAME}; the last checkpoint is good"
            )

    def _write(self, step: int, reason: dict[str, object]) -> None:
        if self._log is not None:
            self._log.write(step, reason, self._run.loader.origins(step - 1))
