"""The data order: which sequence is in which slot of which batch, computed without state.

    blocks --permuted in each epoch--> one list of all sequences
           --cut into `lanes` equal parts--> lanes, each shuffled inside windows of a few blocks
           --slot j of a batch reads lane floor(j * lanes / B)--> batch

A lane is one of several parallel read streams; a window is its shuffle buffer.

- A batch is the same list of sequences for every number of ranks and accumulation steps.
- Every rank has the same number of steps in an epoch, floor(N / B). The N - B floor(N / B)
  sequences left over differ between epochs.
- The order at any position is computed directly. To resume, the number of consumed batches is
  enough.
- Memory does not grow with the corpus: above a million blocks, neighbouring blocks are permuted
  together, as one unit.

Cost: a sort of at most a million integers in each epoch, and of its sequences in each window.
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


# The random streams of the order.
_UNITS, _ROWS, _WINDOW = 10, 11, 12
_MAX_UNITS = 1 << 20
_SUMS_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True)
class Window:
    """A range of positions of one lane, and the sequences at them."""

    start: int
    """First position in the lane."""
    blocks: Ints
    """(blocks,) that hold the sequences."""
    owners: Ints
    """(n,) index into `blocks` for each position."""
    rows: Ints
    """(n,) index of the sequence in its block for each position."""

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + self.rows.size


@dataclass(frozen=True, slots=True)
class _UnitOrder:
    """The permuted units of one epoch."""

    units: Ints
    """(U,) units in the order of the epoch."""
    ends: Ints
    """(U,) number of sequences up to and including each of them."""


class ShuffledSampler:
    """The order of a run over blocks of known sizes."""

    def __init__(
        self,
        block_sequences: Sequence[npt.NDArray[np.integer]],
        *,
        batch_size: int,
        lanes: int,
        window: int,
        seed: int,
    ) -> None:
        """Group the blocks into units.

        Args:
            block_sequences: Number of sequences of each block, in several arrays. They may be
                memory-mapped and are not copied.
            batch_size: B, sequences of a global batch.
            lanes: Parallel read streams; divides B.
            window: Blocks that a lane shuffles together.
            seed: Seed of the order.

        Raises:
            ConfigError: There are fewer sequences than one batch.
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
        """Sequences that each lane adds to a batch."""
        self._unit_order = lru_cache(maxsize=2)(self._permute_units)

    def window_at(self, epoch: int, lane: int, position: int) -> Window:
        """Compute the window that holds a position of a lane.

        Args:
            epoch: From 0.
            lane: From 0.
            position: Below steps_per_epoch * per_lane.
        """
        order = self._unit_order(epoch)
        length = self.steps_per_epoch * self.per_lane
        start, stop = lane * length, (lane + 1) * length
        assert 0 <= position < length
        first, current = np.searchsorted(
            order.ends, [start, start + position], side="right"
        ).tolist()
        # The windows of the lanes end at different steps, so that reading is spread over time.
        phase = self._window - 1 - lane * self._window // self.lanes
        number = (current - first + phase) // self._window
        begin = max(first, first + number * self._window - phase)
        end = min(first + (number + 1) * self._window - phase, order.ends.size)
        blocks, owners, rows = self._sequences(epoch, order, range(begin, end), start, stop)
        shuffle = permutation(derive_key(self._seed, _WINDOW, epoch, lane, number), rows.size)
        before = int(order.ends[begin - 1]) if begin else 0
        return Window(max(before, start) - start, blocks, owners[shuffle], rows[shuffle])

    def _permute_units(self, epoch: int) -> _UnitOrder:
        units = permutation(derive_key(self._seed, _UNITS, epoch), self._unit_sequences.size)
        return _UnitOrder(units, np.cumsum(self._unit_sequences[units]))

    def _sequences(
        self, epoch: int, order: _UnitOrder, indices: range, start: int, stop: int
    ) -> tuple[Ints, Ints, Ints]:
        """List the sequences of some units that lie between start and stop of the epoch's list.

        Args:
            epoch: From 0.
            order: The units of the epoch.
            indices: The units, as indices into `order`.
            start: First sequence of the lane in the epoch's list.
            stop: One past the last.

        Returns:
            (blocks,) the blocks, (n,) index into them for each sequence, (n,) index in its block.
        """
        blocks, owners, rows = [], [], []
        num_blocks = 0
        for index in indices:
            unit, end = int(order.units[index]), int(order.ends[index])
            begin = end - int(self._unit_sequences[unit])
            if begin >= stop:
                break
            unit_blocks, unit_owners, unit_rows = self._unit(unit)
            if begin < start or end > stop:
                # The edge of a lane, or of the epoch, cuts the unit. Which of its sequences fall on
                # which side must differ between epochs.
                shuffle = permutation(derive_key(self._seed, _ROWS, epoch, unit), unit_rows.size)
                kept = shuffle[max(start - begin, 0) : stop - begin]
                unit_owners, unit_rows = unit_owners[kept], unit_rows[kept]
            blocks.append(unit_blocks)
            owners.append(unit_owners + num_blocks)
            rows.append(unit_rows)
            num_blocks += unit_blocks.size
        return np.concatenate(blocks), np.concatenate(owners), np.concatenate(rows)

    def _unit(self, unit: int) -> tuple[Ints, Ints, Ints]:
        """List the sequences of a unit; returns the same as `_sequences`."""
        first = unit * self._blocks_per_unit
        counts = self._counts.between(first, first + self._blocks_per_unit)
        numbers = np.arange(counts.size)
        owners = np.repeat(numbers, counts)
        rows = np.arange(owners.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return first + numbers, owners, rows


class _Counts:
    """The concatenation of several arrays, without a copy of all values."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.integer]]) -> None:
        self._arrays = arrays
        self._starts = list(itertools.accumulate((array.size for array in arrays), initial=0))

    @property
    def size(self) -> int:
        return self._starts[-1]

    def between(self, first: int, stop: int) -> Ints:
        """Copy values first to stop - 1, or to the last one."""
        pieces = [
            array[max(first - start, 0) : max(stop - start, 0)]
            for array, start in zip(self._arrays, self._starts, strict=False)
        ]
        return np.concatenate(pieces).astype(np.int64)

    def sums(self, width: int) -> Ints:
        """Compute the sum of every `width` values."""
        stride = width * _SUMS_AT_ONCE
        sums = []
        for first in range(0, self.size, stride):
            values = self.between(first, first + stride)
            sums.append(np.add.reduceat(values, np.arange(0, values.size, width)))
        return np.concatenate(sums)


def whole_batches(num_sequences: int, batch_size: int) -> int:
    """Return the optimizer steps of an epoch; a different remainder is left out in each epoch.

    Raises:
        ConfigError: There are fewer sequences than one batch.
    """
    if num_sequences < batch_size:
        raise ConfigError(
            f"the training sets have {num_sequences} sequences, fewer than one batch of "
            f"{batch_size}: lower train_batch_size or add text"
        )
    return num_sequences // batch_size
