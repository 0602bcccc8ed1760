"""Validation sets: fixed masks, every sequence exactly once over all ranks."""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from bertds.config.case import Case
from bertds.config.schema import MaskingConfig
from bertds.data.data_root import DataRoot
from bertds.data.dataset import DatasetSubset
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences, PackedBatch, RankBatchSpec
from bertds.data.vocabulary import Vocabulary


def open_valid(case: Case, root: DataRoot) -> dict[str, DatasetSubset]:
    """The validation sets of a case by name.

    Raises:
        ValueError: A set is missing or damaged.
        RemoteError: One is behind a URL and cannot be reached.
    """
    sets = case.bertds.data.valid
    return {
        name: DatasetSubset.open(root, block.name, block.fraction) for name, block in sets.items()
    }


def masked_valid(case: Case, part: DatasetSubset, vocabulary: Vocabulary) -> MaskedDataset:
    """A validation set with its masks, which stay the same for ever: those of static copy 0."""
    stored, chosen = part.shards.index.masking, case.bertds.masking
    copies = 1 if stored is None else stored.copies
    fixed = {"mode": "static", "copies": copies, "ratio": chosen.valid_ratio or chosen.ratio}
    masking = MaskingConfig.model_validate(chosen.model_dump() | fixed)
    return MaskedDataset(part, vocabulary.masker(masking), masking)


def valid_packs(masked_set: MaskedDataset, share: RankBatchSpec) -> Iterator[PackedBatch]:
    """This process's packs of a validation set, each sequence once over all processes.

    Every process yields the same number of packs (a forward pass is a collective under ZeRO-3), so
    some may hold filler only. The masks are those of pass 0.
    """
    total = masked_set.subset.num_sequences
    most = -(-total // share.world_size)
    num_packs = -(-most // share.micro_batch_size)
    start = total * share.rank // share.world_size
    stop = total * (share.rank + 1) // share.world_size
    cuts = [start + (stop - start) * i // num_packs for i in range(num_packs + 1)]
    read = lru_cache(maxsize=2)(masked_set.read)
    for first, last in itertools.pairwise(cuts):
        yield share.pack(
            MaskedSequences.concatenate(
                [*_first_to_last(masked_set.subset, read, first, last), _NOTHING]
            )
        )


_NOTHING = MaskedSequences.of(
    np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, bool), np.empty(0, np.int64)
)


def _first_to_last(
    part: DatasetSubset, read: Callable[[int, int], MaskedSequences], first: int, last: int
) -> Iterator[MaskedSequences]:
    """Sequences first to last - 1 of a set, block by block."""
    while first < last:
        block = part.block_of(first)
        start = part.shards.first_sequence(block)
        stop = min(last, part.shards.first_sequence(block + 1))
        yield read(block, 0).cut(first - start, stop - start)
        first = stop
