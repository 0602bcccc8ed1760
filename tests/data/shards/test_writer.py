"""Written shards: greedy blocks, reproducible bytes, plain tars that webdataset reads."""

import hashlib
import tarfile

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.shards.format import BLOCK_TOKENS, Block, member_names, read_index
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import cut_blocks, shard_name, write_shard
from tests.data.shards.small_sets import SHAPE


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=300))
def test_blocks_are_cut_greedily(lengths):
    ends = cut_blocks(np.array(lengths, dtype=np.uint32))
    assert ends[-1] == len(lengths)
    start = 0
    for end in ends:
        assert end > start
        assert sum(lengths[start:end]) <= BLOCK_TOKENS or end == start + 1
        if end < len(lengths):
            assert sum(lengths[start : end + 1]) > BLOCK_TOKENS
        start = end


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=100), st.integers(1, 100))
def test_a_cut_does_not_depend_on_later_sequences(lengths, count):
    whole = cut_blocks(np.array(lengths, dtype=np.uint32))
    part = cut_blocks(np.array(lengths[:count], dtype=np.uint32))
    assert whole[: len(part) - 1] == part[:-1]


def test_the_index_describes_the_shards(plain, rows, tokenizer):
    index = read_index(plain)
    ids = [number for row in rows for number in row]
    assert (index.sequences, index.tokens) == (len(rows), len(ids))
    assert index.max_length == max(map(len, rows))
    assert max(shard.max_id for shard in index.shards) == max(ids)
    assert (index.tokenizer, index.vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
    assert index.special_ids == tokenizer.special_ids
    assert index.unmaskable_ids == tokenizer.unmaskable_ids
    assert (index.dtype, index.set_key, index.masking) == ("uint16", f"{7:016x}", None)
    for shard in index.shards:
        content = (plain / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)


def test_plain_webdataset_reads_the_tars(masked):
    shards = ShardSet.open(masked)
    urls = [str(masked / shard.name) for shard in shards.index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{number:012d}" for number in range(10)]
    for number, sample in enumerate(samples):
        block = shards.read_block(number)
        assert np.array_equal(sample["tokens.npy"], block.tokens)
        assert np.array_equal(sample["lengths.npy"], block.lengths)
        for copy in range(2):
            assert np.array_equal(sample[f"inputs.{copy}.npy"], block.inputs[copy])
            assert np.array_equal(sample[f"positions.{copy}.npy"], block.positions[copy])


def test_the_tars_are_plain_ustar(masked):
    """Their headers are the bytes that the standard library would write."""
    path = masked / shard_name(1)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == member_names(2, 2) + member_names(3, 2)
    content = path.read_bytes()
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o444)
        assert member.isreg()
        header = tarfile.TarInfo(member.name)
        header.size, header.mode = member.size, 0o444
        assert content[member.offset : member.offset + 512] == header.tobuf(tarfile.USTAR_FORMAT)
    assert content[-1024:] == bytes(1024)


def test_equal_sequences_give_equal_bytes(plain, tmp_path, rows, write_shards):
    write_shards(tmp_path / "again", rows, **SHAPE)
    for path in plain.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_an_interrupted_write_leaves_no_file(tmp_path):
    class StoppedError(Exception):
        pass

    def blocks():
        yield Block(tokens=np.ones(3, np.uint16), lengths=np.array([3], np.uint16))
        raise StoppedError

    with pytest.raises(StoppedError):
        write_shard(tmp_path / shard_name(0), 0, blocks())
    assert list(tmp_path.iterdir()) == []
