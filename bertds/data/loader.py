"""The training batches of a rank: from shards on disk to packed micro-batches.

    ShuffledSampler       which sequence is in which slot of a batch
    MaskedDataset.read    read and mask the blocks of a shuffle window
    MaskedSequences.pick  shuffle the window, then take the sequences of this rank's slots
    RankBatchSpec.pack    pack each micro-batch

A block is read and masked as a whole. Each shuffle lane keeps one shuffle window in memory (64 lanes
of 16 full blocks: 170 MB, divided among the ranks), and a batch takes the next few sequences of
each lane. A rank reads only the blocks of its own slots. The loader has no state but caches: every
batch is a function of its number, which is all that a resume needs. One core makes about 20 million
tokens/s.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from bertds.config.batch import largest_micro_batch
from bertds.config.batch_plan import BatchPlan, Level, Stretch
from bertds.config.schema import DataConfig
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences, PackedBatch, RankBatchSpec
from bertds.data.prefetch import prefetch
from bertds.data.sampler import ShuffledSampler, Window, whole_batches

_CHUNK_TOKENS = 1 << 17  # computed at once
_PREFETCH_TOKENS = 1 << 20  # enough to hide the reading of a new epoch's windows
_CACHED_BLOCKS = 32  # a block may serve several lanes


class TrainLoader:
    """The packed micro-batches of one rank, for any global batch."""

    def __init__(
        self,
        datasets: list[MaskedDataset],
        data: DataConfig,
        spec: RankBatchSpec,
        *,
        batch_size: int,
        seed: int,
        warmup: Sequence[Level] = (),
        first_step: int = 0,
        first_epoch: int = 0,
    ) -> None:
        """Build the sampler.

        Args:
            datasets: The training datasets.
            data: Number of lanes and size of the window.
            spec: This rank's part of a batch, and its layout. A batch is cut into the largest
                micro-batches up to the one given here.
            batch_size: Sequences of a global batch, after the warm-up.
            seed: Seed of the order.
            warmup: Smaller batch sizes at the start.
            first_step: Steps of the run before the first batch.
            first_epoch: Number of the first epoch, which order and masks depend on.

        Raises:
            ConfigError: The datasets have fewer sequences than one batch.
        """
        # An entry is one epoch over one dataset. The sampler runs over the blocks of all entries.
        self._entries = [(each, k) for each in datasets for k in range(each.subset.weight)]
        counts = [dataset.subset.block_sequences() for dataset, _ in self._entries]
        self._first_block = np.cumsum([0, *[sum(map(len, c)) for c in counts]])
        num_sequences = sum(each.subset.num_sequences for each, _ in self._entries)
        whole_batches(num_sequences, batch_size)
        self.plan = BatchPlan(
            num_sequences, batch_size, warmup, first_step=first_step, first_epoch=first_epoch
        )
        """Where each batch lies in the order."""
        self.sampler = ShuffledSampler(
            list(itertools.chain.from_iterable(counts)),
            batch_size=self.plan.multiple,
            lanes=data.lanes or default_lanes(self.plan.multiple),
            window=data.window,
            seed=seed,
        )
        self._spec = spec
        slots = batch_size // spec.world_size
        self._batch_tokens = slots * max(each.subset.mean_length for each in datasets)
        self._windows: dict[int, tuple[int, Window, MaskedSequences]] = {}
        self._read = lru_cache(maxsize=_CACHED_BLOCKS)(self._read_block)

    def batches(self, first: int, stop: int) -> Iterator[list[PackedBatch]]:
        """Yield batches first to stop - 1 of the run, prefetched by a thread.

        Yields:
            This rank's micro-batches of one global batch.
        """
        depth = max(2, int(_PREFETCH_TOKENS / self._batch_tokens))
        return prefetch(self._batches(first, stop), depth)

    def batch(self, number: int) -> list[PackedBatch]:
        """Compute this rank's micro-batches of one global batch.

        Args:
            number: Number of batches before it in the run.
        """
        return next(self._batches(number, number + 1))

    def origins(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Locate the sequences of a global batch in their datasets, without reading them.

        Args:
            number: Number of batches before it in the run.

        Yields:
            For each slot: name of the dataset, epoch over the dataset, sequence index in it.
        """
        batch = self.plan.at(number)
        epoch, lanes = batch.epoch, self.sampler.lanes
        for lane in range(lanes):
            position, stop = batch.first // lanes, (batch.first + batch.size) // lanes
            while position < stop:
                window = self.sampler.window_at(epoch, lane, position)
                end = min(stop, window.stop)
                for index in range(position - window.start, end - window.start):
                    block = int(window.blocks[window.owners[index]])
                    dataset, block, dataset_epoch = self._locate(epoch, block)
                    first = dataset.subset.shards.first_sequence(block)
                    yield dataset.subset.name, dataset_epoch, first + int(window.rows[index])
                position = end

    def _batches(self, first: int, stop: int) -> Iterator[list[PackedBatch]]:
        """Yield batches, computed a chunk at a time: one may be too small for numpy to be fast."""
        chunk = max(1, int(_CHUNK_TOKENS / self._batch_tokens))
        while first < stop:
            stretch = self.plan.at(first)
            count = min(chunk, stretch.steps, stop - first)
            sequences = self._sequences(stretch, count)
            slots = stretch.size // self._spec.world_size
            micro = largest_micro_batch(slots, self._spec.micro_batch_size)
            for number in range(count):
                batch = sequences.cut(number * slots, (number + 1) * slots)
                starts = range(0, slots, micro)
                yield [self._spec.pack(batch.cut(start, start + micro)) for start in starts]
            first += count

    def _sequences(self, stretch: Stretch, count: int) -> MaskedSequences:
        """Read the sequences of this rank's slots of the first batches, batch after batch."""
        per_lane = stretch.size // self.sampler.lanes
        slots = stretch.size // self._spec.world_size
        numbers = np.arange(slots) + self._spec.rank * slots
        lanes, offsets = np.divmod(numbers, per_lane)  # a slot is one of per_lane slots of a lane
        start = stretch.first // self.sampler.lanes
        stop = start + count * per_lane
        first_lane, last_lane = int(lanes[0]), int(lanes[-1])
        by_lane = [
            part
            for lane in range(first_lane, last_lane + 1)
            for part in self._lane_sequences(stretch.epoch, lane, start, stop)
        ]
        first_batch = (lanes - first_lane) * (stop - start) + offsets
        order = np.arange(0, stop - start, per_lane)[:, None] + first_batch
        return MaskedSequences.concatenate(by_lane).pick(order.ravel())

    def _lane_sequences(
        self, epoch: int, lane: int, start: int, stop: int
    ) -> Iterator[MaskedSequences]:
        """Yield the sequences at positions start to stop - 1 of a lane, window by window."""
        while start < stop:
            window, sequences = self._window(epoch, lane, start)
            end = min(stop, window.stop)
            yield sequences.cut(start - window.start, end - window.start)
            start = end

    def _window(self, epoch: int, lane: int, position: int) -> tuple[Window, MaskedSequences]:
        """Return the window at a position of a lane, read, masked and shuffled; one is cached."""
        cached = self._windows.get(lane)
        if cached is not None:
            cached_epoch, window, sequences = cached
            if cached_epoch == epoch and window.start <= position < window.stop:
                return window, sequences
        window = self.sampler.window_at(epoch, lane, position)
        blocks = [self._read(epoch, block) for block in window.blocks.tolist()]
        first_row = np.cumsum([0, *[block.lengths.size for block in blocks[:-1]]])
        order = first_row[window.owners] + window.rows
        sequences = MaskedSequences.concatenate(blocks).pick(order)
        self._windows[lane] = (epoch, window, sequences)
        return window, sequences

    def _read_block(self, epoch: int, block: int) -> MaskedSequences:
        dataset, block, dataset_epoch = self._locate(epoch, block)
        return dataset.read(block, dataset_epoch)

    def _locate(self, epoch: int, block: int) -> tuple[MaskedDataset, int, int]:
        """Find a block of the sampler: its dataset, its number there, the epoch over the dataset."""
        entry = int(np.searchsorted(self._first_block, block, side="right")) - 1
        dataset, repetition = self._entries[entry]
        dataset_epoch = epoch * dataset.subset.weight + repetition
        return dataset, block - int(self._first_block[entry]), dataset_epoch


def default_lanes(batch_size: int) -> int:
    """Return the largest divisor of the batch size up to 64."""
    return max(lanes for lanes in range(1, 65) if batch_size % lanes == 0)


def shared_lanes(world_size: int, lanes: int) -> str:
    """Return a warning if several ranks read each lane; empty otherwise."""
    if world_size <= lanes:
        return ""
    return (
        f"data.lanes is {lanes}, so about {world_size / lanes:.0f} of the {world_size} ranks read "
        f"each block: start a new run of this size with data.lanes={world_size}"
    )
