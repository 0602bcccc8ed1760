"""Verification finds what opening cannot: flipped bytes, foreign files, wrong copies."""

import dataclasses
import json

from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import shard_name, write_shard
from bertds.errors import ShardError
from tests.data.shards.small_sets import all_rows, edit_shard_entry, replace_shard
from tests.helpers.shard_verify import faults_of


def test_every_flipped_bit_is_found(tmp_path, rows, write_shards):
    directory = tmp_path / "set"
    write_shards(directory, rows[:12], set_key=7, block_sequences=[10], num_shards=1)
    path = directory / shard_name(0)
    content = bytearray(path.read_bytes())
    original = all_rows(ShardSet.open(directory))
    unnoticed = 0
    for offset in range(0, len(content), 37):
        content[offset] ^= 1 << offset % 8
        path.write_bytes(content)
        faults = faults_of(directory)
        assert any(str(path) in fault for fault in faults)
        try:
            unnoticed += all_rows(ShardSet.open(directory)) != original
        except ShardError as error:
            assert "shard-000000.tar: block" in str(error)
        content[offset] ^= 1 << offset % 8
    assert unnoticed > 0  # another valid id: only the hash can tell


def test_foreign_files_and_a_wrong_tokenizer_are_found(plain):
    (plain / "tokenizer.json").write_bytes(b"{}")
    (plain / "shard-000009.tar").write_bytes(bytes(1024))
    faults = faults_of(plain)
    assert len(faults) == 2
    assert "it is not the tokenizer that the index names" in faults[0]
    assert "shard-000009.tar: the index does not name it" in faults[1]
    (plain / "tokenizer.json").unlink()
    assert "is missing" in faults_of(plain)[0]


def test_a_copy_that_differs_from_unmasked_tokens_is_found(masked, tokenizer):
    shards = ShardSet.open(masked)
    blocks = [shards.read_block(number) for number in (0, 1)]
    inputs, masked_positions = blocks[0].inputs[1].copy(), set(blocks[0].positions[1].tolist())
    position = min(set(range(len(inputs))) - masked_positions)
    inputs[position] = (inputs[position] + 1) % tokenizer.vocab_size
    blocks[0] = dataclasses.replace(blocks[0], inputs=(blocks[0].inputs[0], inputs))
    written = write_shard(masked / shard_name(0), 0, blocks)
    edit_shard_entry(masked, 0, sha256=written.shard.sha256)
    (fault,) = faults_of(masked)
    assert "block 0: copy 1 differs from the tokens where nothing is predicted" in fault


def test_a_missing_end_of_the_tar_is_found(plain):
    content = bytearray((plain / shard_name(0)).read_bytes())
    content[-1] = 1
    replace_shard(plain, bytes(content))
    (fault,) = faults_of(plain)
    assert "shard-000000.tar: the end of the tar is missing" in fault


def test_a_wrong_index_entry_is_found(plain):
    max_id = json.loads((plain / "index.json").read_text())["shards"][0]["max_id"]
    edit_shard_entry(plain, 0, max_id=max_id - 1)
    (fault,) = faults_of(plain)
    assert "its tokens, largest id or length differ from the index" in fault
