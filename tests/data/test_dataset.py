"""Dataset subsets: the first sequences of a shard set, and the blocks that hold them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.dataset import DatasetSubset, mean_length_of


class FakeShardSet:
    """The counts of a shard set with a thousand sequences per block."""

    def __init__(self, num_sequences: int) -> None:
        self.num_sequences = num_sequences
        self.num_blocks = -(-num_sequences // 1000)
        self.block_sequences = np.full(self.num_blocks, 1000, np.uint32)
        self.block_sequences[-1] -= 1000 * self.num_blocks - num_sequences

    def first_sequence(self, block: int) -> int:
        return min(1000 * block, self.num_sequences)


@pytest.mark.parametrize(
    ("num_sequences", "fraction", "expected"),
    [
        (1_442_176, 0.2, 288_435),
        (1_442_176, 0.1, 144_217),
        (1_442_176, 0.4, 576_870),
        (100, 0.29, 29),  # floor(0.29 * 100) is 28 in binary
        (1000, 0.7, 700),
        (1000, 1.0, 1000),
        (1000, 1e-3, 1),
    ],
)
def test_a_fraction_is_rounded_down_in_decimals(
    monkeypatch, tmp_path, num_sequences, fraction, expected
):
    shards = FakeShardSet(num_sequences)
    monkeypatch.setattr("bertds.data.dataset.ShardSet.open", lambda _, **__: shards)
    subset = DatasetSubset.open(tmp_path, "ko", fraction)
    assert subset.num_sequences == expected
    used = np.concatenate(subset.block_sequences())
    assert used.sum() == expected and used.min() > 0


@given(st.integers(1, 400))
def test_a_subset_is_the_first_sequences_in_shard_order(data_root, count):
    whole = DatasetSubset.open(data_root, "ko", 1.0)
    subset = DatasetSubset("ko", whole.shards, count)
    used = np.concatenate(subset.block_sequences())
    blocks = whole.shards.block_sequences[: used.size]
    assert used.sum() == count
    assert np.array_equal(used[:-1], blocks[:-1]) and 0 < used[-1] <= blocks[-1]
    assert subset.block_of(count - 1) == used.size - 1


def test_a_fraction_without_a_sequence_is_rejected(data_root):
    with pytest.raises(ValueError, match="fraction 0.001 of the 400 sequences of .*ko is none"):
        DatasetSubset.open(data_root, "ko", 0.001)


@given(counts=st.tuples(*[st.integers(1, 400)] * 2), weights=st.tuples(*[st.integers(1, 4)] * 2))
def test_the_mean_length_is_over_all_sequences_of_an_epoch(data_root, counts, weights):
    subsets = [
        DatasetSubset(name, DatasetSubset.open(data_root, name, 1.0).shards, count, weight)
        for name, count, weight in zip(("ko", "en"), counts, weights, strict=True)
    ]
    lengths = [
        length
        for subset in subsets
        for length in [subset.mean_length] * (subset.num_sequences * subset.weight)
    ]
    assert mean_length_of(subsets) == pytest.approx(np.mean(lengths))
    assert mean_length_of(subsets[:1]) == pytest.approx(subsets[0].mean_length)
