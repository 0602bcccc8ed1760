"""Which sequences of which epoch a step trains on: the arithmetic of batch sizes that may vary.

    step -> (epoch, sequences of the epoch before it, batch size)

A plan depends on the number of sequences and on the batch sizes alone. An epoch ends where the next
batch would not fit. With one batch size, step s is number `s mod S` of epoch `s div S`, with
S = floor(N / B).
"""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from bertds.config.schema import BatchSizeWarmup


class Level(NamedTuple):
    """Consecutive steps with one batch size."""

    size: int
    """Sequences of a batch."""
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Consecutive batches of one size within one epoch."""

    epoch: int
    first: int
    """Sequences of the epoch before these batches."""
    size: int
    """Sequences of a batch."""
    steps: int
    """Number of batches."""


class BatchPlan:
    """The batches of a run, as a function of the step."""

    def __init__(
        self,
        num_sequences: int,
        batch_size: int,
        warmup: Iterable[Level] = (),
        *,
        first_step: int = 0,
        first_epoch: int = 0,
    ) -> None:
        """Compute where the steps of the warm-up lie.

        Args:
            num_sequences: Sequences of an epoch; no batch is larger.
            batch_size: Sequences of a batch after the warm-up.
            warmup: The batch sizes before that.
            first_step: Steps before the plan.
            first_epoch: Number of its first epoch.
        """
        warmup = [level for level in warmup if level.steps]
        self.batch_size = batch_size
        self.first_step, self.first_epoch = first_step, first_epoch
        self.sizes = (*(level.size for level in warmup), batch_size)
        """All batch sizes, in their order."""
        self.multiple = math.gcd(*self.sizes)
        """The greatest common divisor of all batch sizes."""
        self.steps_per_epoch = num_sequences // batch_size
        """Steps of an epoch without warm-up."""
        self._usable = num_sequences
        self._warmup = list(self._place(warmup, first_step, first_epoch))
        last = self._warmup[-1][1] if self._warmup else None
        self._tail_step = self._warmup[-1][0] + last.steps if last else first_step
        first = last.first + last.steps * last.size if last else 0
        self._tail = Stretch(
            epoch=last.epoch if last else first_epoch,
            first=first,
            size=batch_size,
            steps=(num_sequences - first) // batch_size,
        )
        self._starts = [step for step, _ in self._warmup]

    def _place(
        self, warmup: Iterable[Level], step: int, epoch: int
    ) -> Iterator[tuple[int, Stretch]]:
        """Yield the stretches of the warm-up, each with its first step."""
        first = 0
        for size, steps in warmup:
            left = steps
            while left:
                if first + size > self._usable:
                    epoch, first = epoch + 1, 0
                count = min(left, (self._usable - first) // size)
                yield step, Stretch(epoch=epoch, first=first, size=size, steps=count)
                step, first, left = step + count, first + count * size, left - count

    @property
    def is_constant(self) -> bool:
        """Whether all batches have the same size."""
        return len(self.sizes) == 1

    def describe(self) -> str:
        """Describe the warm-up: `64 to 448 sequences in the first 1,000 steps, then 512`."""
        first, last = self.sizes[0], self.sizes[-2]
        growing = f"{first} sequences" if first == last else f"{first} to {last} sequences"
        steps = self._tail_step - self.first_step
        return f"{growing} in the first {steps:,} steps, then {self.batch_size}"

    def at(self, step: int) -> Stretch:
        """The stretch that begins with a step: its epoch, position and size.

        Args:
            step: Steps of the run before it.
        """
        if step < self._tail_step:
            start, stretch = self._warmup[bisect.bisect_right(self._starts, step) - 1]
            return _later(stretch, step - start)
        done = step - self._tail_step
        if done < self._tail.steps:
            return _later(self._tail, done)
        epochs, done = divmod(done - self._tail.steps, self.steps_per_epoch)
        whole = Stretch(
            epoch=self._tail.epoch + 1 + epochs,
            first=0,
            size=self.batch_size,
            steps=self.steps_per_epoch,
        )
        return _later(whole, done)

    def sequences(self, step: int) -> int:
        """Sequences of all batches of the plan before a step."""
        if step >= self._tail_step:
            warmup = sum(stretch.steps * stretch.size for _, stretch in self._warmup)
            return warmup + (step - self._tail_step) * self.batch_size
        return sum(
            min(stretch.steps, step - start) * stretch.size
            for start, stretch in self._warmup
            if start < step
        )

    def epochs(self, step: int) -> Fraction:
        """Epochs of the plan before a step, exactly."""
        stretch = self.at(step)
        part = Fraction(stretch.first, self._epoch_sequences(stretch.epoch))
        return stretch.epoch - self.first_epoch + part

    def _epoch_sequences(self, epoch: int) -> int:
        """Sequences of all batches of an epoch."""
        if epoch > self._tail.epoch:
            return self.steps_per_epoch * self.batch_size
        if epoch == self._tail.epoch:
            return self._tail.first + self._tail.steps * self.batch_size
        last = [stretch for _, stretch in self._warmup if stretch.epoch == epoch][-1]
        return last.first + last.steps * last.size

    def steps_in_epochs(self, epochs: float) -> int:
        """Steps of the plan in this many epochs, rounded; may be 0."""
        if self.is_constant:
            return round(epochs * self.steps_per_epoch)
        # Whole epochs with the smallest batch take no more steps than this.
        most = self._tail_step - self.first_step + math.ceil(epochs + 1) * self.steps_per_epoch
        return self._nearest(most, lambda step: float(self.epochs(step)), epochs)

    def steps_in_sequences(self, sequences: float) -> int:
        """Steps of the plan that train on this many sequences, rounded; may be 0."""
        if self.is_constant:
            return round(sequences / self.batch_size)
        most = self._tail_step - self.first_step + math.ceil(sequences / self.batch_size) + 1
        return self._nearest(most, self.sequences, sequences)

    def _nearest(self, most: int, reached: Callable[[int], float], wanted: float) -> int:
        """The number of steps after which a rising quantity is nearest to a value."""
        steps = range(most)
        after = bisect.bisect_left(steps, wanted, key=lambda n: reached(self.first_step + n))
        if after == 0:
            return 0
        before = wanted - reached(self.first_step + after - 1)
        return after if reached(self.first_step + after) - wanted <= before else after - 1


class ChainedPlans:
    """Counts the epochs of a run with several stages, each of which starts an epoch."""

    first_step = 0

    def __init__(self, parts: Sequence[tuple[BatchPlan, int]]) -> None:
        """Take the plan of each stage, and the last step of it."""
        self._parts = parts

    def epochs(self, step: int) -> Fraction:
        """Epochs of the run before a step, exactly."""
        before = Fraction(0)
        for plan, last_step in self._parts[:-1]:
            if step <= last_step:
                return before + plan.epochs(step)
            before += plan.epochs(last_step)
        return before + self._parts[-1][0].epochs(step)

    def steps_in_epochs(self, epochs: float) -> int:
        """Steps of the run in this many epochs, rounded; may be 0."""
        left = epochs
        for plan, last_step in self._parts[:-1]:
            in_stage = float(plan.epochs(last_step))
            if left <= in_stage:
                return plan.first_step + plan.steps_in_epochs(left)
            left -= in_stage
        plan, _ = self._parts[-1]
        return plan.first_step + plan.steps_in_epochs(left)


def warmup_levels(
    warmup: BatchSizeWarmup | None, batch_size: int, mean_length: float
) -> list[Level]:
    """The batch sizes of a warm-up, with the number of steps of each.

    The size rises linearly in steps or in tokens, rounded down to the multiple.

    Args:
        warmup: The setting; without it there are no levels.
        batch_size: The size after the warm-up.
        mean_length: Mean tokens of a training sequence, which tokens are counted by.
    """
    if warmup is None:
        return []
    sizes = range(warmup.from_size, batch_size, warmup.step_size)
    if warmup.num_steps is not None:
        ends = [-(-warmup.num_steps * (k + 1) // len(sizes)) for k in range(len(sizes))]
        starts = [0, *ends[:-1]]
        return [Level(*level) for level in zip(sizes, map(int.__sub__, ends, starts), strict=True)]
    assert warmup.num_tokens is not None
    levels, consumed = [], 0
    for number, size in enumerate(sizes, 1):
        end = math.ceil(warmup.num_tokens / mean_length * number / len(sizes))
        steps = max(0, -(-(end - consumed) // size))
        levels.append(Level(size, steps))
        consumed += steps * size
    return levels


def _later(stretch: Stretch, steps: int) -> Stretch:
    """A stretch without its first steps."""
    return Stretch(
        epoch=stretch.epoch,
        first=stretch.first + steps * stretch.size,
        size=stretch.size,
        steps=stretch.steps - steps,
    )
