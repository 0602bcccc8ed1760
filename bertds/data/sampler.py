"""Which sequence stands in which slot of which batch: arithmetic, without a state.

    blocks --permuted per epoch--> one long list of sequences
           --cut into `lanes` equal parts--> each shuffled inside windows of a few blocks
           --slot j of a batch reads lane floor(j * lanes / B)--> batch

So a batch is the same list of sequences whatever the number of processes, workers or accumulation
steps; every process has the same number of steps, floor(N / B) an epoch; the N - B floor(N / B)
sequences left over are others each epoch; and the order at any position is computed at once: the
only coordinate of a resume is the number of batches consumed.

Memory does not grow with the corpus: past a million blocks, neighbouring ones are permuted
together. Cost: one sort of at most a million numbers an epoch, one of a window's sequences each
window.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bertds.data.rng import derive_key, permutation
from bertds.errors import ConfigError

Ints = npt.NDArray[np.int64]


# The streams of randomness that the order draws from.
_UNITS, _ROWS, _WINDOW = 10, 11, 12
_MAX_UNITS = 1 << 20
_SUMS_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True)
class Window:
    """A run of positions of one lane, with the sequences that stand there."""

    start: int
    """First position in the lane."""
    blocks: Ints
    """(blocks,) that are read for it."""
    owners: Ints
    """(n,) for each position, which of these blocks holds its sequence."""
    rows: Ints
    """(n,) and the sequence's number in the block."""

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + self.rows.size


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The permuted units of one epoch."""

    units: Ints
    """(U,) unit at each place of the list."""
    ends: Ints
    """(U,) sequences up to and with that place."""


class ShuffledSampler:
    """The order of one run over blocks of known sizes."""

    def __init__(
        self,
        block_sequences: Sequence[npt.NDArray[np.integer]],
        *,
        batch_size: int,
        lanes: int,
        window: int,
        seed: int,
    ) -> None:
        """Prepare the arithmetic.

        Args:
            block_sequences: Sequences of each block, in arrays that are taken end to end; they
                may be mapped files and are never copied.
            batch_size: B, sequences of a global batch.
            lanes: Parallel readers; divides B.
            window: Blocks that a lane shuffles together.
            seed: The run's seed.

        Raises:
            ConfigError: There are fewer sequences than one batch has.
        """
        assert batch_size % lanes == 0
        self._counts = _Counts(block_sequences)
        self._blocks_per_unit = max(1, math.ceil(self._counts.size / _MAX_UNITS))
        self._unit_sequences = self._counts.sums(self._blocks_per_unit)
        self.num_sequences = int(self._unit_sequences.sum())
        self.batch_size, self.lanes, self._seed = batch_size, lanes, seed
        self._window = max(1, window // self._blocks_per_unit)
        self.steps_per_epoch = whole_batches(self.num_sequences, batch_size)
        self.per_lane = batch_size // lanes
        """Sequences that each lane gives to a batch."""
        self._epoch = lru_cache(maxsize=2)(self._permute)

    def window_at(self, epoch: int, lane: int, position: int) -> Window:
        """The window that holds a position of a lane.

        Args:
            epoch: From 0.
            lane: From 0.
            position: Below steps_per_epoch * per_lane.
        """
        places = self._epoch(epoch)
        length = self.steps_per_epoch * self.per_lane
        start, stop = lane * length, (lane + 1) * length
        assert 0 <= position < length
        first, place = np.searchsorted(
            places.ends, [start, start + position], side="right"
        ).tolist()
        # Windows of the lanes end at different steps, so that reading is spread over time.
        phase = self._window - 1 - lane * self._window // self.lanes
        number = (place - first + phase) // self._window
        begin = max(first, first + number * self._window - phase)
        end = min(first + (number + 1) * self._window - phase, places.ends.size)
        blocks, owners, rows = self._sequences(epoch, places, range(begin, end), start, stop)
        shuffle = permutation(derive_key(self._seed, _WINDOW, epoch, lane, number), rows.size)
        before = int(places.ends[begin - 1]) if begin else 0
        return Window(max(before, start) - start, blocks, owners[shuffle], rows[shuffle])

    def _permute(self, epoch: int) -> _Epoch:
        units = permutation(derive_key(self._seed, _UNITS, epoch), self._unit_sequences.size)
        return _Epoch(units, np.cumsum(self._unit_sequences[units]))

    def _sequences(
        self, epoch: int, places: _Epoch, span: range, start: int, stop: int
    ) -> tuple[Ints, Ints, Ints]:
        """The sequences between list positions start and stop of the places in `span`."""
        blocks, owners, rows = [], [], []
        num_blocks = 0
        for place in span:
            unit, end = int(places.units[place]), int(places.ends[place])
            begin = end - int(self._unit_sequences[unit])
            if begin >= stop:
                break
            unit_blocks, unit_owners, unit_rows = self._unit(unit)
            if begin < start or end > stop:
                # A lane's edge cuts the unit: which of its sequences fall on which side (or off
                # the epoch's end) must differ between epochs.
                mixed = permutation(derive_key(self._seed, _ROWS, epoch, unit), unit_rows.size)
                kept = mixed[max(start - begin, 0) : stop - begin]
                unit_owners, unit_rows = unit_owners[kept], unit_rows[kept]
            blocks.append(unit_blocks)
            owners.append(unit_owners + num_blocks)
            rows.append(unit_rows)
            num_blocks += unit_blocks.size
        return np.concatenate(blocks), np.concatenate(owners), np.concatenate(rows)

    def _unit(self, unit: int) -> tuple[Ints, Ints, Ints]:
        """A unit's blocks, and for every sequence which of them holds it, and where in it."""
        first = unit * self._blocks_per_unit
        counts = self._counts.between(first, first + self._blocks_per_unit)
        numbers = np.arange(counts.size)
        owners = np.repeat(numbers, counts)
        rows = np.arange(owners.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return first + numbers, owners, rows


class _Counts:
    """The numbers of several arrays that are taken end to end, without a copy of all."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.integer]]) -> None:
        self._arrays = arrays
        self._starts = list(itertools.accumulate((array.size for array in arrays), initial=0))

    @property
    def size(self) -> int:
        return self._starts[-1]

    def between(self, first: int, stop: int) -> Ints:
        """Numbers first to stop - 1, or to the last."""
        pieces = [
            array[max(first - start, 0) : max(stop - start, 0)]
            for array, start in zip(self._arrays, self._starts, strict=False)
        ]
        return np.concatenate(pieces).astype(np.int64)

    def sums(self, width: int) -> Ints:
        """The sum of every `width` numbers."""
        stride = width * _SUMS_AT_ONCE
        sums = [
            np.add.reduceat(numbers, np.arange(0, numbers.size, width))
            for first in range(0, self.size, stride)
            for numbers in [self.between(first, first + stride)]
        ]
        return np.concatenate(sums)


def whole_batches(num_sequences: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the sequences that are left over come in another one.

    Raises:
        ConfigError: There are fewer sequences than one batch has.
    """
    if num_sequences < batch_size:
        raise ConfigError(
            f"the training sets have {num_sequences} sequences, fewer than one batch of "
            f"{batch_size}: lower train_batch_size or add text"
        )
    return num_sequences // batch_size
