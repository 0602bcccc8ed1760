"""The lengths of a schedule and of its run, in optimizer steps."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, Self

from bertds.config.batch_plan import BatchPlan
from bertds.config.optimizer_schema import Warmup, WarmupAndTotal
from bertds.config.schema import RunConfig, interval_steps


class EpochCount(Protocol):
    """Counts the epochs of a run, or of a part of it, by the step."""

    first_step: int
    """Steps of the run before the part."""

    def epochs(self, step: int) -> Fraction:
        """Epochs of the part before a step of the run."""

    def steps_in_epochs(self, epochs: float) -> int:
        """Steps of the part in this many epochs, rounded; may be 0."""


@dataclass(frozen=True, slots=True)
class ScheduleLengths:
    """The lengths of an epoch and of the run in optimizer steps."""

    steps_per_epoch: int
    num_steps: int
    is_in_epochs: bool = False
    """Whether only lengths in epochs are known; an epoch then has a made-up number of steps."""
    plan: EpochCount | None = None
    """What counts epochs, where they differ in their steps."""

    @classmethod
    def of(cls, run: RunConfig, plan: BatchPlan, mean_length: float) -> Self:
        """Compute the length of a run or a stage: the least of its limits.

        Args:
            run: The limits.
            plan: The batches.
            mean_length: Mean tokens of a training sequence, which tokens are counted by.
        """
        limits = [] if run.max_steps is None else [run.max_steps]
        if run.num_epochs is not None:
            limits.append(plan.steps_in_epochs(run.num_epochs))
        if run.max_tokens is not None:
            limits.append(plan.steps_in_sequences(run.max_tokens / mean_length))
        has_equal_epochs = plan.is_constant and plan.first_step == 0
        num_steps = max(1, min(limits))
        return cls(plan.steps_per_epoch, num_steps, plan=None if has_equal_epochs else plan)

    def steps(self, num_steps: int | None, epochs: float | None) -> int:
        """Convert a length from the start to steps; without a length, return the run's."""
        if num_steps is not None:
            return num_steps
        if epochs is None:
            return self.num_steps
        if self.plan is not None:
            return max(1, self.plan.steps_in_epochs(epochs))
        return self.period(epochs)

    def period(self, epochs: float) -> int:
        """Convert a length that recurs to steps: those of as many epochs without warm-up."""
        return max(1, round(epochs * self.steps_per_epoch))

    def last_steps(self, total: int, num_steps: int | None, epochs: float | None) -> int:
        """Convert a length before the end of a schedule of `total` steps to steps."""
        if self.plan is None or epochs is None:
            return self.steps(num_steps, epochs)
        before = float(self.plan.epochs(self.plan.first_step + total)) - epochs
        return max(1, total - self.plan.steps_in_epochs(max(0.0, before)))

    def epochs(self, step: int) -> float:
        """Return the epochs in a number of steps of the run."""
        return step / self.steps_per_epoch if self.plan is None else float(self.plan.epochs(step))

    def is_due(self, interval: int | str, step: int) -> bool:
        """Return whether something that recurs in steps or epochs is due after a step."""
        if self.plan is None or isinstance(interval, int):
            return step % interval_steps(interval, self.steps_per_epoch) == 0
        epochs = Fraction(interval.split()[0])
        return self.plan.epochs(step) // epochs > self.plan.epochs(step - 1) // epochs

    def text(self, steps: int) -> str:
        """Describe a length: `1,000 steps`."""
        if self.is_in_epochs:
            return f"{steps / self.steps_per_epoch:g} epochs"
        return f"{steps:,} steps"

    def warmup(self, params: Warmup) -> int:
        """Return the steps of the warm-up."""
        if params.warmup_epochs == 0:
            return 0
        return self.steps(params.warmup_num_steps, params.warmup_epochs)

    def total(self, params: WarmupAndTotal) -> int:
        """Return the steps of the whole schedule."""
        return self.steps(params.total_num_steps, params.total_epochs)
