"""The lengths of a schedule and of its run, in optimizer steps."""

from dataclasses import dataclass

from bertds.config.optimizer_schema import Warmup, WarmupAndTotal


@dataclass(frozen=True, slots=True)
class ScheduleLengths:
    """The lengths of an epoch and of the run in optimizer steps."""

    steps_per_epoch: int
    num_steps: int
    is_in_epochs: bool = False
    """Whether only lengths in epochs are known; an epoch then has a made-up number of steps."""

    def steps(self, num_steps: int | None, epochs: float | None) -> int:
        """Convert a length in steps or in epochs to steps; without either, return the run's."""
        if num_steps is not None:
            return num_steps
        if epochs is not None:
            return max(1, round(epochs * self.steps_per_epoch))
        return self.num_steps

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
