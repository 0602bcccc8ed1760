"""TODO."""

import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.config.schema import MaskingConfig
from bertds.data.dataset import DatasetSubset, mean_length_of
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences
from bertds.data.vocabulary import Vocabulary
from bertds.errors import ShardError

STATIC = MaskingConfig(mode="static", copies=2, seed=5)


class SetOfSize:
    """A set of a thousand sequences a block, of which only the counts are asked."""

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
    shards = SetOfSize(num_sequences)
    monkeypatch.setattr("bertds.data.dataset.ShardSet.open", lambda _, **__: shards)
    part = DatasetSubset.open(tmp_path, "ko", fraction)
    assert part.num_sequences == expected
    used = np.concatenate(part.block_sequences())
    assert used.sum() == expected and used.min() > 0


@given(st.integers(1, 400))
def test_a_part_is_the_first_sequences_in_shard_order(data_root, count):
    whole = DatasetSubset.open(data_root, "ko", 1.0)
    part = DatasetSubset("ko", whole.shards, count)
    used = np.concatenate(part.block_sequences())
    blocks = whole.shards.block_sequences[: used.size]
    assert used.sum() == count
    assert np.array_equal(used[:-1], blocks[:-1]) and 0 < used[-1] <= blocks[-1]
    assert part.block_of(count - 1) == used.size - 1


def test_a_fraction_of_nothing_is_refused(data_root):
    with pytest.raises(ValueError, match="fraction 0.001 of the 400 sequences of .*ko is none"):
        DatasetSubset.open(data_root, "ko", 0.001)


@given(counts=st.tuples(*[st.integers(1, 400)] * 2), weights=st.tuples(*[st.integers(1, 4)] * 2))
def test_the_mean_length_is_over_all_sequences_of_an_epoch(data_root, counts, weights):
    parts = [
        DatasetSubset(name, DatasetSubset.open(data_root, name, 1.0).shards, count, weight)
        for name, count, weight in zip(("ko", "en"), counts, weights, strict=True)
    ]
    lengths = [
        length
        for part in parts
        for length in [part.mean_length] * (part.num_sequences * part.weight)
    ]
    assert mean_length_of(parts) == pytest.approx(np.mean(lengths))
    assert mean_length_of(parts[:1]) == pytest.approx(parts[0].mean_length)


def test_vocabulary_is_that_of_the_shards(data_root, tokenizer):
    parts = [DatasetSubset.open(data_root, name, 1.0) for name in ("ko", "en")]
    vocabulary = Vocabulary.of(parts)
    assert vocabulary.size == tokenizer.vocab_size
    assert (vocabulary.pad_id, vocabulary.mask_id) == (0, 4)
    assert vocabulary.unmaskable_ids == tokenizer.unmaskable_ids == (0, 1, 2, 3, 4)


def test_the_tokenizer_beside_the_shards_must_be_theirs(data_root, tmp_path):
    """A run takes it for its own: whole words, `fill`, `export`."""
    shutil.copytree(data_root / "ko", tmp_path / "ko")
    path = tmp_path / "ko" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ShardError, match="is not the tokenizer that the shards were made with"):
        Vocabulary.of([DatasetSubset.open(tmp_path, "ko", 1.0)])
    path.unlink()
    with pytest.raises(ShardError, match=r"tokenizer.json is missing"):
        Vocabulary.of([DatasetSubset.open(tmp_path, "ko", 1.0)])


def read_all(root, name, masking: MaskingConfig, pass_number: int) -> MaskedSequences:
    part = DatasetSubset.open(root, name, 1.0)
    masked = MaskedDataset(part, Vocabulary.of([part]).masker(masking), masking)
    return MaskedSequences.concatenate(
        [masked.read(block, pass_number) for block in range(part.shards.num_blocks)]
    )


def equal(one: MaskedSequences, other: MaskedSequences) -> bool:
    pairs = [(one.tokens, other.tokens), (one.inputs, other.inputs), (one.ends, other.ends)]
    return all(np.array_equal(a, b) for a, b in [*pairs, (one.is_masked, other.is_masked)])


def test_stored_masks_are_those_made_online(data_root):
    for pass_number in range(5):
        online = read_all(data_root, "ko", STATIC, pass_number)
        stored = read_all(data_root, "ko_masked", STATIC, pass_number)
        assert equal(online, stored)


def test_copies_repeat_and_dynamic_masks_do_not(data_root):
    static = [read_all(data_root, "ko", STATIC, number) for number in range(4)]
    assert equal(static[0], static[2]) and equal(static[1], static[3])
    assert not equal(static[0], static[1])
    dynamic = [
        read_all(data_root, "ko", MaskingConfig(mode="dynamic", seed=5), number)
        for number in range(4)
    ]
    assert not any(equal(dynamic[a], dynamic[b]) for a in range(4) for b in range(a))
    assert equal(dynamic[0], static[0])  # copy 0 is pass 0


@pytest.mark.parametrize(
    "changed",
    [{"seed": 6}, {"ratio": 0.2}, {"copies": 3}, {"unit": "word"}, {"mask_share": 0.7},
     {"random_share": 0.2}, {"mode": "dynamic", "copies": 1}],
)  # fmt: skip
def test_stored_masks_serve_no_other_rule(data_root, changed):
    masking = MaskingConfig.model_validate(STATIC.model_dump() | changed)
    with pytest.raises(ValueError, match="ko_masked is pre-masked with .*: make them equal"):
        read_all(data_root, "ko_masked", masking, 0)


def test_rows_are_cut_and_picked(data_root):
    rows = read_all(data_root, "en", STATIC, 0)
    count = rows.ends.size - 1
    order = np.random.default_rng(0).permutation(count)[:100]
    picked = rows.pick(order)
    for place, sequence in enumerate(order.tolist()):
        assert equal(picked.cut(place, place + 1), rows.cut(sequence, sequence + 1))
    middle = rows.cut(30, 70)
    assert equal(MaskedSequences.concatenate([rows.cut(0, 30), middle, rows.cut(70, count)]), rows)
    assert equal(rows.pick(np.arange(30, 70)), middle)
    assert rows.cut(5, 5).tokens.size == rows.pick(np.array([], np.int64)).tokens.size == 0


def test_whole_words_of_the_vocabulary_are_masked(data_root, tokenizer):
    rows = read_all(data_root, "ko", MaskingConfig(unit="word"), 0)
    first_pieces = tokenizer.word_starts()
    longer = 0
    for number in range(rows.lengths.size):
        row = rows.cut(number, number + 1)
        word = np.cumsum(first_pieces[row.tokens])
        masked_words, counts = np.unique(word[row.is_masked], return_counts=True)
        lengths = [int((word == one).sum()) for one in masked_words]
        assert counts.tolist() == lengths
        longer += sum(length > 1 for length in lengths)
    assert longer > 100


def test_sets_of_two_vocabularies_are_refused(data_root):
    parts = [DatasetSubset.open(data_root, name, 1.0) for name in ("ko", "en")]
    index = parts[1].shards.index
    parts[1].shards.index = dataclasses.replace(index, tokenizer="0" * 64)
    with pytest.raises(ValueError, match="en was made with another tokenizer than .*ko"):
        Vocabulary.of(parts)
