"""Split a global batch into micro-batches."""

import math
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
        ConfigError: The world size does not divide the batch.
    """
    batch = case.train_batch_size
    if batch % world_size:
        nearest = sorted(_divisors(batch), key=lambda size: abs(size - world_size))[:2]
        raise ConfigError(
            f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
            f"{' or '.join(str(size) for size in nearest)}, or change the batch"
        )
    rank_batch, maximum = batch // world_size, case.bertds.run.max_micro_batch_size
    micro = max(size for size in _divisors(rank_batch) if size <= maximum)
    return BatchSplit(micro_batch_size=micro, accumulation=rank_batch // micro)


def valid_micro_batch_size(case: Case, world_size: int) -> int:
    """Return the micro-batch size for validation: twice that of training, up to the maximum.

    Without a backward pass no activations are kept, but the logits have as many rows.

    Raises:
        ConfigError: The world size does not divide the batch.
    """
    training = split_batch(case, world_size).micro_batch_size
    return min(2 * training, case.bertds.run.max_micro_batch_size)


def _divisors(number: int) -> set[int]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return {*small, *(number // size for size in small)}
