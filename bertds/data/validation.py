"""Validation sets: the same masks in every validation, every sequence exactly once over all ranks.

The masks of a validation set are drawn here: those of static copy 0 of the case's masking rule,
with the ratio `masking.valid_ratio` and the seed `masking.valid_seed` if these are given. They
depend on that seed, the shards and the index of a sequence only, so every validation of every run
predicts the same tokens.
"""

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from bertds.config.case import Case
from bertds.config.schema import MaskingConfig
from bertds.data.data_root import DataRoot
from bertds.data.dataset import DatasetSubset
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences, PackedBatch, RankBatchSpec
from bertds.data.vocabulary import Vocabulary

STATIC_COPY = 0
"""Validation reads this copy of the masks: `dataset.read(block, STATIC_COPY)`."""
_NO_SEQUENCES = MaskedSequences.of(
    np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, bool), np.empty(0, np.int64)
)


def open_valid(case: Case, root: DataRoot) -> dict[str, DatasetSubset]:
    """Open the validation sets of a case, by name.

    Raises:
        ValueError: A set is missing or damaged.
        RemoteError: A set behind a URL cannot be read.
    """
    sets = case.bertds.data.valid
    return {
        name: DatasetSubset.open(root, block.name, block.fraction) for name, block in sets.items()
    }


def masked_valid(
    chosen: MaskingConfig, subset: DatasetSubset, vocabulary: Vocabulary
) -> MaskedDataset:
    """Add masks to a validation set: static ones, whatever the masking of training is."""
    stored = subset.shards.index.masking
    static = {
        "mode": "static",
        "copies": 1 if stored is None else stored.copies,  # only STATIC_COPY is read
        "ratio": chosen.valid_ratio or chosen.ratio,
        "seed": chosen.seed if chosen.valid_seed is None else chosen.valid_seed,
    }
    masking = MaskingConfig.model_validate(chosen.model_dump() | static)
    return MaskedDataset(subset, vocabulary.masker(masking), masking)


def characters_per_token(sets: Mapping[str, MaskedDataset]) -> dict[str, float]:
    """Characters of the text of each set over its tokens, of the whole set for a fraction.

    0 for shards whose text is not known.
    """
    indexes = {name: dataset.subset.shards.index for name, dataset in sets.items()}
    return {name: index.characters / index.tokens for name, index in indexes.items()}


def valid_packs(dataset: MaskedDataset, spec: RankBatchSpec) -> Iterator[PackedBatch]:
    """Yield this rank's packed batches of a validation set, each sequence once over all ranks.

    Every rank yields the same number of batches, since a forward pass is a collective under ZeRO-3.
    Some may hold padding only.
    """
    return map(spec.pack, valid_micro_batches(dataset, spec))


def valid_micro_batches(dataset: MaskedDataset, spec: RankBatchSpec) -> Iterator[MaskedSequences]:
    """Yield the sequences of each packed batch of `valid_packs`, in the order of the set."""
    subset = dataset.subset
    read = lru_cache(maxsize=2)(dataset.read)  # neighbouring batches share a block
    start = subset.num_sequences * spec.rank // spec.world_size
    stop = subset.num_sequences * (spec.rank + 1) // spec.world_size
    most = -(-subset.num_sequences // spec.world_size)
    num_batches = -(-most // spec.micro_batch_size)
    cuts = [start + (stop - start) * i // num_batches for i in range(num_batches + 1)]
    for first, last in itertools.pairwise(cuts):
        parts, position = [_NO_SEQUENCES], first
        while position < last:
            block = subset.block_of(position)
            block_start = subset.shards.first_sequence(block)
            end = min(last, subset.shards.first_sequence(block + 1))
            sequences = read(block, STATIC_COPY)
            parts.append(sequences.cut(position - block_start, end - block_start))
            position = end
        yield MaskedSequences.concatenate(parts)
