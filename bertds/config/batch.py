"""How a global batch is divided into micro-batches."""

import math
from dataclasses import dataclass

from bertds.config.case import Case
from bertds.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSplit:
    """How a global batch is divided."""

    micro_batch_size: int
    """Sequences that a process computes at once."""
    accumulation: int
    """Micro-steps of an optimizer step."""


def split_batch(case: Case, world_size: int) -> BatchSplit:
    """The largest micro-batch up to run.max_micro_batch_size that divides a process's share.

    Raises:
        ConfigError: The number of processes does not divide the batch.
    """
    batch, most = case.train_batch_size, case.bertds.run.max_micro_batch_size
    if batch % world_size:
        nearest = sorted(_divisors(batch), key=lambda size: abs(size - world_size))[:2]
        raise ConfigError(
            f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
            f"{' or '.join(str(size) for size in nearest)}, or change the batch"
        )
    share = batch // world_size
    micro = max(size for size in _divisors(share) if size <= most)
    return BatchSplit(micro_batch_size=micro, accumulation=share // micro)


def valid_micro_batch_size(case: Case, world_size: int) -> int:
    """Sequences of a validation set that a process computes at once.

    Twice as many as in training, if run.max_micro_batch_size allows: without a backward pass no
    activations are kept, but logits have as many rows.

    Raises:
        ConfigError: The number of processes does not divide the batch.
    """
    training = split_batch(case, world_size).micro_batch_size
    return min(2 * training, case.bertds.run.max_micro_batch_size)


def _divisors(number: int) -> set[int]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return {*small, *(number // size for size in small)}
