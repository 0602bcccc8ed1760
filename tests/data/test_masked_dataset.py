"""Masked datasets: masks drawn online equal stored ones; copies repeat, dynamic masks do not."""

import numpy as np
import pytest

from bertds.config.schema import MaskingConfig
from bertds.data.packing import MaskedSequences
from tests.helpers.packs import masked_datasets

STATIC = MaskingConfig(mode="static", copies=2, seed=5)


def read_all(root, name, masking: MaskingConfig, dataset_epoch: int) -> MaskedSequences:
    (dataset,) = masked_datasets(root, [{"name": name}], masking)
    blocks = range(dataset.subset.num_blocks)
    return MaskedSequences.concatenate([dataset.read(block, dataset_epoch) for block in blocks])


def equal(one: MaskedSequences, other: MaskedSequences) -> bool:
    pairs = [(one.tokens, other.tokens), (one.inputs, other.inputs), (one.ends, other.ends)]
    return all(np.array_equal(a, b) for a, b in [*pairs, (one.is_masked, other.is_masked)])


def test_stored_masks_equal_those_drawn_online(data_root):
    for dataset_epoch in range(5):
        online = read_all(data_root, "ko", STATIC, dataset_epoch)
        stored = read_all(data_root, "ko_masked", STATIC, dataset_epoch)
        assert equal(online, stored)


def test_static_copies_repeat_and_dynamic_masks_do_not(data_root):
    static = [read_all(data_root, "ko", STATIC, number) for number in range(4)]
    assert equal(static[0], static[2]) and equal(static[1], static[3])
    assert not equal(static[0], static[1])
    masking = MaskingConfig(mode="dynamic", seed=5)
    dynamic = [read_all(data_root, "ko", masking, number) for number in range(4)]
    assert not any(equal(dynamic[a], dynamic[b]) for a in range(4) for b in range(a))
    assert equal(dynamic[0], static[0])  # copy 0 has the masks of epoch 0


@pytest.mark.parametrize(
    "changed",
    [{"seed": 6}, {"ratio": 0.2}, {"copies": 3}, {"unit": "word"}, {"mask_share": 0.7},
     {"random_share": 0.2}, {"mode": "dynamic", "copies": 1}],
)  # fmt: skip
def test_stored_masks_of_another_rule_are_rejected(data_root, changed):
    masking = MaskingConfig.model_validate(STATIC.model_dump() | changed)
    with pytest.raises(ValueError, match="ko_masked is pre-masked with .*: make them equal"):
        read_all(data_root, "ko_masked", masking, 0)


def test_sequences_are_cut_and_picked(data_root):
    sequences = read_all(data_root, "en", STATIC, 0)
    count = sequences.lengths.size
    order = np.random.default_rng(0).permutation(count)[:100]
    picked = sequences.pick(order)
    for index, sequence in enumerate(order.tolist()):
        assert equal(picked.cut(index, index + 1), sequences.cut(sequence, sequence + 1))
    middle = sequences.cut(30, 70)
    parts = [sequences.cut(0, 30), middle, sequences.cut(70, count)]
    assert equal(MaskedSequences.concatenate(parts), sequences)
    assert equal(sequences.pick(np.arange(30, 70)), middle)
    assert sequences.cut(5, 5).tokens.size == 0
    assert sequences.pick(np.array([], np.int64)).tokens.size == 0


def test_whole_words_are_masked(data_root, tokenizer):
    sequences = read_all(data_root, "ko", MaskingConfig(unit="word"), 0)
    word_starts = tokenizer.word_starts()
    longer = 0
    for number in range(sequences.lengths.size):
        row = sequences.cut(number, number + 1)
        word = np.cumsum(word_starts[row.tokens])
        masked_words, counts = np.unique(word[row.is_masked], return_counts=True)
        lengths = [int((word == masked).sum()) for masked in masked_words]
        assert counts.tolist() == lengths
        longer += sum(length > 1 for length in lengths)
    assert longer > 100
