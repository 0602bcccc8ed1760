"""Shards to packs: what a process computes in each micro-step.

    Order: which sequences --windows of blocks read and masked--> sequences of the next few batches
          --cut into micro-batches--> packs

A block is read and masked as a whole; each lane keeps one window of sequences in memory (64 lanes
of 16 full blocks: 170 MB, divided among the processes), and a batch takes the next few of each
lane. Nothing here has a state but the place in the order, and a process reads only the blocks of
its own slots. About 20 million tokens a second come out of one core.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from bertds.config.schema import DataConfig
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences, PackedBatch, RankBatchSpec
from bertds.data.prefetch import prefetch
from bertds.data.sampler import ShuffledSampler, Window

_STRETCH_TOKENS = 1 << 17  # made at once
_AHEAD_TOKENS = 1 << 20  # ready before they are needed, so that a new epoch's windows come in time
_BLOCKS_KEPT = 32  # one block may serve several lanes


class TrainLoader:
    """The packs of one process, batch after batch."""

    def __init__(
        self,
        sets: list[MaskedDataset],
        data: DataConfig,
        share: RankBatchSpec,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """Lay out the order.

        Raises:
            ValueError: The sets have fewer sequences than one batch.
        """
        # An entry is one pass over one set; the order runs over the blocks of all entries.
        self._entries = [(s, k) for s in sets for k in range(s.subset.weight)]
        counts = [s.subset.block_sequences() for s, _ in self._entries]
        self._first_block = np.cumsum([0, *[sum(map(len, c)) for c in counts]])
        self.sampler = ShuffledSampler(
            list(itertools.chain.from_iterable(counts)),
            batch_size=batch_size,
            lanes=data.lanes or default_lanes(batch_size),
            window=data.window,
            seed=seed,
        )
        self._share = share
        self._slots = batch_size // share.world_size
        self._tokens = self._slots * max(s.subset.mean_length for s in sets)
        self._windows: dict[int, tuple[int, Window, MaskedSequences]] = {}
        self._read = lru_cache(maxsize=_BLOCKS_KEPT)(self._read_block)

    def batches(self, first: int, stop: int) -> Iterator[list[PackedBatch]]:
        """Batches first to stop - 1 of the run, read ahead of need."""
        depth = max(2, int(_AHEAD_TOKENS / self._tokens))
        return prefetch(self._batches(first, stop), depth)

    def batch(self, number: int) -> list[PackedBatch]:
        """This process's micro-batches of one global batch.

        Args:
            number: Batches before it in the run.
        """
        return next(self._batches(number, number + 1))

    def origins(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Where the sequences of a global batch come from; nothing is read.

        Args:
            number: Batches before it in the run.

        Yields:
            In the batch's order: the set's name, the pass over it that masks, the ordinal in it.
        """
        epoch, step = divmod(number, self.sampler.steps_per_epoch)
        for lane in range(self.sampler.lanes):
            position, stop = (count * self.sampler.per_lane for count in (step, step + 1))
            while position < stop:
                window = self.sampler.window_at(epoch, lane, position)
                end = min(stop, window.stop)
                for place in range(position - window.start, end - window.start):
                    block = int(window.blocks[window.owners[place]])
                    yield self._origin(epoch, block, int(window.rows[place]))
                position = end

    def _origin(self, epoch: int, block: int, row: int) -> tuple[str, int, int]:
        masked_set, number, pass_number = self._place_of(epoch, block)
        part = masked_set.subset
        return part.name, pass_number, part.shards.first_sequence(number) + row

    def _batches(self, first: int, stop: int) -> Iterator[list[PackedBatch]]:
        """Made a stretch of batches at a time, since a batch may be too small for numpy."""
        stretch = max(1, int(_STRETCH_TOKENS / self._tokens))
        while first < stop:
            epoch, step = divmod(first, self.sampler.steps_per_epoch)
            last = min(step + stretch, self.sampler.steps_per_epoch, step + stop - first)
            rows = self._sequences(epoch, range(step, last))
            for number in range(last - step):
                yield self._packs(rows.cut(number * self._slots, (number + 1) * self._slots))
            first += last - step

    def _packs(self, rows: MaskedSequences) -> list[PackedBatch]:
        micro = self._share.micro_batch_size
        cuts = range(0, self._slots, micro)
        return [self._share.pack(rows.cut(start, start + micro)) for start in cuts]

    def _sequences(self, epoch: int, steps: range) -> MaskedSequences:
        """The sequences of this process's slots, step after step."""
        per_lane = self.sampler.per_lane
        lanes, places = np.divmod(np.arange(self._slots) + self._share.rank * self._slots, per_lane)
        start, stop = steps.start * per_lane, steps.stop * per_lane
        first_lane, last_lane = int(lanes[0]), int(lanes[-1])
        by_lane = [
            part
            for lane in range(first_lane, last_lane + 1)
            for part in self._positions(epoch, lane, start, stop)
        ]
        slots = (lanes - first_lane) * (stop - start) + places
        order = np.arange(0, stop - start, per_lane)[:, None] + slots
        return MaskedSequences.concatenate(by_lane).pick(order.ravel())

    def _positions(self, epoch: int, lane: int, start: int, stop: int) -> Iterator[MaskedSequences]:
        """The sequences at positions start to stop - 1 of a lane."""
        while start < stop:
            window, rows = self._window(epoch, lane, start)
            end = min(stop, window.stop)
            yield rows.cut(start - window.start, end - window.start)
            start = end

    def _window(self, epoch: int, lane: int, position: int) -> tuple[Window, MaskedSequences]:
        held = self._windows.get(lane)
        if held is None or held[0] != epoch or not held[1].start <= position < held[1].stop:
            window = self.sampler.window_at(epoch, lane, position)
            held = self._windows[lane] = (epoch, window, self._gather(epoch, window))
        return held[1], held[2]

    def _gather(self, epoch: int, window: Window) -> MaskedSequences:
        """Read, mask and shuffle the sequences of a window."""
        blocks = [self._read(epoch, block) for block in window.blocks.tolist()]
        first_row = np.cumsum([0, *[block.lengths.size for block in blocks[:-1]]])
        return MaskedSequences.concatenate(blocks).pick(first_row[window.owners] + window.rows)

    def _read_block(self, epoch: int, block: int) -> MaskedSequences:
        masked_set, number, pass_number = self._place_of(epoch, block)
        return masked_set.read(number, pass_number)

    def _place_of(self, epoch: int, block: int) -> tuple[MaskedDataset, int, int]:
        """The set of a block of the order, its number there, and the pass over the set."""
        entry = int(np.searchsorted(self._first_block, block, side="right")) - 1
        masked_set, pass_of_epoch = self._entries[entry]
        pass_number = epoch * masked_set.subset.weight + pass_of_epoch
        return masked_set, block - int(self._first_block[entry]), pass_number


def default_lanes(batch_size: int) -> int:
    """The largest divisor of the batch up to 64."""
    return max(lanes for lanes in range(1, 65) if batch_size % lanes == 0)


def shared_lanes(world_size: int, lanes: int) -> str:
    """What it costs that several processes share a lane; empty if none do."""
    if world_size <= lanes:
        return ""
    return (
        f"data.lanes is {lanes}, so each block is read by about {world_size / lanes:.0f} of the "
        f"{world_size} processes: begin a run of this size with data.lanes={world_size}"
    )
