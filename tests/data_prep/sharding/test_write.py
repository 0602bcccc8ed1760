"""Stage 3: the pre-masked copies in the shards."""

import json
from dataclasses import replace

import numpy as np

from bertds.data.masked_ratio import MaskedRatio
from bertds.data.masking import sequence_keys
from bertds.data.shards.format import StoredMasking
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep.output.manifest import read_counts
from data_prep.sharding.options import ShardOptions, parse_masking
from data_prep.sharding.write import build_masker
from tests.data_prep.sharding.shard_contents import read_sequences
from tests.helpers.shard_verify import faults_of


def test_the_reached_masking_ratio_is_counted_and_a_version_is_stored(make, text):
    masking = parse_masking("static", copies=2, ratio=0.15, unit="word", seed=0)
    no_blanks = [line.replace(" ", "") for line in text]
    out = make(no_blanks, options=ShardOptions(masking=masking))
    shards = ShardSet.open(out / "train")
    assert shards.index.masking.version == 2
    blocks = [shards.read_block(number) for number in range(shards.num_blocks)]
    masked = sum(len(positions) for block in blocks for positions in block.positions)
    is_maskable = [~np.isin(block.tokens, shards.index.unmaskable_ids) for block in blocks]
    maskable = 2 * sum(int(flags.sum()) for flags in is_maskable)
    counts = read_counts(out / "made.json", "masked")["train"]
    assert counts == {"masked": masked, "maskable": maskable}
    assert not MaskedRatio.of(masking, **counts).is_off
    # The first version would have masked each of these lines whole.
    first = MaskedRatio.of(replace(masking, version=1), masked=maskable, maskable=maskable)
    assert first.is_off and "use masking.version 2" in str(first)


def test_an_index_of_the_first_masking_version_is_written_as_before(make, text):
    out = make(text, options=ShardOptions(masking=parse_masking("static", 1, 0.15, "token", 0)))
    assert "version" not in json.loads((out / "train" / "index.json").read_bytes())["masking"]
    assert (
        "version"
        not in json.loads((out / "made.json").read_bytes())["recipe"]["options"]["masking"]
    )
    assert ShardSet.open(out / "train").index.masking.version == 1


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
