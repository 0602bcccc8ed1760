"""Stage 3: the pre-masked copies in the shards."""

import numpy as np

from bertds.data.masking import sequence_keys
from bertds.data.shards.format import StoredMasking
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.write import build_masker
from tests.data_prep.sharding.shard_contents import read_sequences
from tests.helpers.shard_verify import faults_of


def test_masked_copies_equal_the_masks_of_dynamic_masking(make, text):
    masking = StoredMasking(
        seed=3, ratio=0.2, mask_share=0.8, random_share=0.1, unit="word", copies=3
    )
    out = make(text, options=ShardOptions(masking=masking))
    unmasked = make(text, "unmasked", options=ShardOptions())
    shards = ShardSet.open(out / "train")
    masker = build_masker(masking, Tokenizer.load(out / "train" / "tokenizer.json"))
    assert shards.index.masking == masking
    assert shards.index.set_key == ShardSet.open(unmasked / "train").index.set_key
    assert read_sequences(out / "train") == read_sequences(unmasked / "train")
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        indexes = shards.first_sequence(number) + np.arange(len(block.lengths))
        for copy in range(3):
            keys = sequence_keys(3, int(shards.index.set_key, 16), copy, indexes)
            inputs, positions = masker.mask(block.tokens, block.lengths, keys)
            assert np.array_equal(block.inputs[copy], inputs)
            assert np.array_equal(block.positions[copy], positions)
    assert faults_of(out / "train") == []
