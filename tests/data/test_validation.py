"""Validation batches: the same masks always, every sequence once over all ranks."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.packing import RankBatchSpec, pack
from bertds.data.validation import masked_valid, valid_packs
from bertds.data.vocabulary import Vocabulary
from tests.helpers.packs import all_tokens, content, flat, masked_datasets, sequences_of


@pytest.mark.parametrize("seeds", [{"seed": 5}, {"seed": 6, "valid_seed": 5}])
@pytest.mark.parametrize("name", ["ko", "ko_masked"])
def test_the_masks_are_those_of_static_copy_0(data_root, name, seeds):
    """They stay the same where training draws new ones; validation has its own ratio and seed."""
    masking = MaskingConfig(mode="dynamic", ratio=0.4, valid_ratio=0.15, **seeds)
    case = SimpleNamespace(bertds=SimpleNamespace(masking=masking))
    subset = DatasetSubset.open(data_root, name, 1.0)
    valid = masked_valid(case.bertds.masking, subset, Vocabulary.of([subset]))
    static = MaskingConfig(mode="static", copies=2, ratio=0.15, seed=5)
    (expected,) = masked_datasets(data_root, [{"name": "ko"}], static)
    masks = [expected.read(block, 0) for block in range(subset.num_blocks)]
    assert content(valid_packs(valid, RankBatchSpec(0, 1, 100, 64, 0))) == content(
        [pack(sequences, row_length=64, pad_id=0) for sequences in masks]
    )
    if name == "ko":
        assert np.array_equal(valid.read(1, 3).inputs, masks[1].inputs)


@pytest.mark.parametrize(
    ("world_size", "micro"), [(1, 400), (1, 7), (2, 7), (3, 64), (7, 5), (64, 3)]
)
def test_every_sequence_is_in_one_batch_of_one_rank(data_root, world_size, micro):
    sets = [{"name": "en", "fraction": 0.7}]
    (dataset,) = masked_datasets(data_root, sets)
    whole = content(valid_packs(dataset, RankBatchSpec(0, 1, 280, 64, 0)))
    assert whole.total() == 280
    assert Counter(sequence.tokens for sequence in whole) == all_tokens(data_root, sets)
    packs = [
        list(valid_packs(dataset, RankBatchSpec(rank, world_size, micro, 64, 0)))
        for rank in range(world_size)
    ]
    assert len({len(of_rank) for of_rank in packs}) == 1
    assert content(flat(packs)) == whole
    assert max(len(sequences_of(pack, 0)) for pack in flat(packs)) <= micro


def test_more_ranks_than_sequences(data_root):
    (dataset,) = masked_datasets(data_root, [{"name": "en", "fraction": 0.01}])
    packs = [list(valid_packs(dataset, RankBatchSpec(rank, 6, 2, 0, 0))) for rank in range(6)]
    assert [len(of_rank) for of_rank in packs] == [1] * 6
    assert content(flat(packs)).total() == 4
