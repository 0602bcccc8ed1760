"""Split a global batch into micro-batches."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertds.config.case import Case
from bertds.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSplit:
    """How a global batch is split on each rank."""

    micro_batch_size: int
    """Sequences of one forward and backward pass."""
    accumulation: int
    """Micro-steps of one optimizer step."""


def split_batch(case: Case, world_size: int) -> BatchSplit:
    """Choose the largest micro-batch, up to run.max_micro_batch_size, that divides a rank's batch.

    Raises:
        ConfigError: The world size does not divide the batch, or a batch of the warm-up.
    """
    batch = case.train_batch_size
    if batch % world_size:
        nearest = sorted(_divisors(batch), key=lambda size: abs(size - world_size))[:2]
        raise ConfigError(
            f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
            f"{' or '.join(str(size) for size in nearest)}, or change the batch"
        )
    warmup = case.bertds.run.batch_size_warmup
    if warmup is not None and warmup.step_size % world_size:
        raise ConfigError(
            f"run.batch_size_warmup has batches of every multiple of {warmup.step_size} sequences, "
            f"which cannot be divided among {world_size} processes: set multiple_of to a multiple "
            "of their number"
        )
    return split_of_size(case, batch, world_size)


def common_size(cases: Sequence[Case]) -> int:
    """Return the greatest number of which all batch sizes of some cases are multiples."""
    sizes = [case.train_batch_size for case in cases]
    warmups = (case.bertds.run.batch_size_warmup for case in cases)
    return math.gcd(*sizes, *(warmup.step_size for warmup in warmups if warmup is not None))


def split_of_size(case: Case, batch: int, world_size: int) -> BatchSplit:
    """Choose the largest micro-batch for a batch that the world size divides."""
    rank_batch = batch // world_size
    micro = largest_micro_batch(rank_batch, case.bertds.run.max_micro_batch_size)
    return BatchSplit(micro_batch_size=micro, accumulation=rank_batch // micro)


def largest_micro_batch(rank_batch: int, maximum: int) -> int:
    """Return the largest divisor of a rank's batch up to the maximum."""
    return max(size for size in _divisors(rank_batch) if size <= maximum)


def valid_micro_batch_size(case: Case, world_size: int) -> int:
    """Return the micro-batch size for validation: twice that of training, up to the maximum.

    Without a backward pass no activations are kept, but the logits have as many rows.

    Raises:
        ConfigError: The world size does not divide the batch.
    """
    training = split_batch(case, world_size).micro_batch_size
    return min(2 * training, case.bertds.run.max_micro_batch_size)


@functools.lru_cache(maxsize=64)
def _divisors(number: int) -> frozenset[int]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return frozenset({*small, *(number // size for size in small)})
