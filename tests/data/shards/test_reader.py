"""Shards: what is written is read, by us and by plain webdataset, and no damage goes unseen."""

import dataclasses
import gc
import hashlib
import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.data.masking import Masker, MaskRule, sequence_keys
from bertds.data.shards import reader as shards_module
from bertds.data.shards import storage
from bertds.data.shards.format import (
    BLOCK_TOKENS,
    Block,
    StoredMasking,
    decode_block,
    encode_block,
    id_dtype,
    length_dtype,
    member_names,
    read_index,
)
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import SetFacts, cut_blocks, shard_name, write_index, write_shard
from bertds.errors import ShardError
from bertds.io.atomic import atomic_write
from tests.helpers.shard_verify import faults_of

RULE = MaskRule(seed=5, ratio=0.15, mask_share=0.8, random_share=0.1, unit="token")


def make_set(directory, rows, tokenizer, *, per_block=10, per_shard=2, copies=0):
    """A set of the rows in small blocks and shards."""
    masking = StoredMasking(**dataclasses.asdict(RULE), copies=copies) if copies else None
    facts = SetFacts(
        tokenizer=tokenizer, seq_len=64, special_tokens=False, set_key=7, masking=masking
    )
    directory.mkdir(parents=True)
    blocks = [
        make_block(rows[start : start + per_block], start, tokenizer, copies)
        for start in range(0, len(rows), per_block)
    ]
    written = [
        write_shard(
            directory / shard_name(first // per_shard), first, blocks[first : first + per_shard]
        )
        for first in range(0, len(blocks), per_shard)
    ]
    write_index(directory, written, facts)
    return directory


def make_block(rows, first, tokenizer, copies):
    tokens = np.concatenate([np.array(row, dtype=id_dtype(tokenizer.vocab_size)) for row in rows])
    lengths = np.array([len(row) for row in rows], dtype=length_dtype(64))
    masker = Masker(
        RULE,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.special_ids["mask"],
        unmaskable_ids=tokenizer.unmaskable_ids,
    )
    ordinals = first + np.arange(len(rows))
    masked = [
        masker.mask(tokens, lengths, sequence_keys(RULE.seed, 7, copy, ordinals))
        for copy in range(copies)
    ]
    return Block(
        tokens=tokens,
        lengths=lengths,
        inputs=tuple(inputs for inputs, _ in masked),
        positions=tuple(positions.astype(np.uint32) for _, positions in masked),
    )


@pytest.fixture
def rows(tokenizer, lines):
    return tokenizer.encode_batch(lines["ko"][:95])


@pytest.fixture
def plain(tmp_path, rows, tokenizer):
    return make_set(tmp_path / "plain", rows, tokenizer)


@pytest.fixture
def masked(tmp_path, rows, tokenizer):
    return make_set(tmp_path / "masked", rows, tokenizer, copies=2)


def all_rows(shards):
    found = []
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        ends = np.cumsum(block.lengths.astype(int))[:-1]
        found += [row.tolist() for row in np.split(block.tokens, ends)]
    return found


def test_what_is_written_is_read(plain, rows):
    shards = ShardSet.open(plain)
    assert all_rows(shards) == rows
    assert (shards.num_sequences, shards.num_blocks) == (95, 10)
    assert len(shards.index.shards) == 5
    assert faults_of(plain) == []


def test_the_index_counts(plain, rows, tokenizer):
    index = read_index(plain)
    flat = [number for row in rows for number in row]
    assert (index.sequences, index.tokens) == (len(rows), len(flat))
    assert index.max_length == max(map(len, rows))
    assert max(shard.max_id for shard in index.shards) == max(flat)
    assert index.tokenizer == tokenizer.fingerprint
    assert index.vocab_size == tokenizer.vocab_size
    assert (index.special_ids, index.unmaskable_ids) == (
        tokenizer.special_ids,
        tokenizer.unmaskable_ids,
    )
    assert (index.dtype, index.set_key, index.masking) == ("uint16", f"{7:016x}", None)
    for shard in index.shards:
        content = (plain / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)


def test_first_sequences_are_cumulative(plain):
    shards = ShardSet.open(plain)
    counts = shards.block_sequences.tolist()
    firsts = [shards.first_sequence(block) for block in range(len(counts) + 1)]
    assert firsts == [sum(counts[:block]) for block in range(len(counts) + 1)]
    assert [shards.shard_of(block) for block in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert list(shards.blocks_of(3)) == [6, 7]
    for block in (-1, 10):
        with pytest.raises(IndexError):
            shards.read_block(block)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_strided_sums_are_sums(count):
    values = np.random.default_rng(count).integers(0, 1 << 32, count, dtype=np.uint32)
    sums = shards_module._StridedSums(values)
    wanted = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    assert [sums.before(number) for number in range(count + 1)] == wanted.tolist()


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
    path = masked / shard_name(1)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == member_names(2, 2) + member_names(3, 2)
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o444)
        assert member.isreg()
    content = path.read_bytes()
    for member in members:  # and the very bytes that the standard library would write
        header = tarfile.TarInfo(member.name)
        header.size, header.mode = member.size, 0o444
        assert content[member.offset : member.offset + 512] == header.tobuf(tarfile.USTAR_FORMAT)
    assert content[-1024:] == bytes(1024)


def test_blocks_start_where_the_table_says(masked):
    table = np.load(masked / "blocks.npy", allow_pickle=False)
    index = read_index(masked)
    assert table.dtype == np.uint32
    assert table.shape == (2, 10)
    for number, shard in enumerate(index.shards):
        sizes = table[1, 2 * number : 2 * number + 2]
        assert int(sizes.sum()) + 1024 == shard.bytes
        with tarfile.open(masked / shard.name) as tar:
            assert tar.getmembers()[6].offset == sizes[0]


def test_masked_copies_are_kept(masked, rows, tokenizer):
    shards = ShardSet.open(masked)
    assert shards.index.masking == StoredMasking(**dataclasses.asdict(RULE), copies=2)
    wanted = make_block(rows[20:30], 20, tokenizer, 2)
    found = shards.read_block(2)
    for copy in range(2):
        assert np.array_equal(found.inputs[copy], wanted.inputs[copy])
        assert np.array_equal(found.positions[copy], wanted.positions[copy])
    assert faults_of(masked) == []


def test_equal_rows_make_equal_bytes(tmp_path, rows, tokenizer):
    first = make_set(tmp_path / "a", rows, tokenizer, copies=1)
    second = make_set(tmp_path / "b", rows, tokenizer, copies=1)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    key=st.integers(0, 10**12 - 1),
    vocab_size=st.sampled_from([10, 65_536, 65_537, 200_000]),
    seq_len=st.sampled_from([300, 70_000]),
)
@settings(max_examples=50, deadline=None)
def test_blocks_of_any_shape_come_back(lengths, key, vocab_size, seq_len):
    generator = np.random.default_rng(key)
    dtype = id_dtype(vocab_size)
    block = Block(
        tokens=generator.integers(0, vocab_size, sum(lengths)).astype(dtype),
        lengths=np.array(lengths, dtype=length_dtype(seq_len)),
    )
    index = Stub(vocab_size=vocab_size, dtype=dtype, seq_len=seq_len)
    found = decode_block(encode_block(key, block), key, index)
    assert found.tokens.dtype == np.dtype(dtype)
    assert np.array_equal(found.tokens, block.tokens)
    assert np.array_equal(found.lengths, block.lengths)


@dataclasses.dataclass
class Stub:
    """The part of an index that decoding looks at."""

    vocab_size: int = 100
    dtype: str = "uint16"
    seq_len: int = 64
    copies: int = 0


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
def test_cuts_do_not_depend_on_what_follows(lengths, count):
    whole = cut_blocks(np.array(lengths, dtype=np.uint32))
    part = cut_blocks(np.array(lengths[:count], dtype=np.uint32))
    assert whole[: len(part) - 1] == part[:-1]


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_are_open_and_threads_share_them(plain, rows, monkeypatch):
    monkeypatch.setattr(storage, "_MAX_OPEN_FILES", 2)
    gc.collect()  # sets of other tests close their files
    before = num_open_files()
    shards = ShardSet.open(plain)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(all_rows, [shards] * 16))
    assert found == [rows] * 16
    assert before < num_open_files() <= before + 4
    del shards
    assert num_open_files() == before


def test_an_interrupted_write_leaves_no_file_under_its_name(tmp_path):
    class StoppedError(Exception):
        pass

    def blocks():
        yield Block(tokens=np.ones(3, np.uint16), lengths=np.array([3], np.uint16))
        raise StoppedError

    with pytest.raises(StoppedError):
        write_shard(tmp_path / "shard-000000.tar", 0, blocks())
    assert [path.name for path in tmp_path.iterdir()] == []
    with atomic_write(tmp_path / "x") as file:
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"


def rewrite_index(directory, **changes):
    path = directory / "index.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def refused(directory):
    """The sentence with which opening fails."""
    with pytest.raises(ShardError) as caught:
        ShardSet.open(directory)
    assert caught.value.code == 3
    assert "\n" not in str(caught.value)
    assert faults_of(directory) == [str(caught.value)]
    return str(caught.value)


def test_every_cut_of_a_shard_is_seen_at_once(plain):
    path = plain / shard_name(2)
    content = path.read_bytes()
    for size in range(0, len(content), 512):
        path.write_bytes(content[:size])
        assert "shard-000002.tar: it has" in refused(plain)
    path.unlink()
    assert "shard-000002.tar: it is missing" in refused(plain)


def test_every_flipped_byte_is_seen(tmp_path, rows, tokenizer):
    directory = make_set(tmp_path / "set", rows[:12], tokenizer, copies=1)
    path = directory / shard_name(0)
    content = bytearray(path.read_bytes())
    original = all_rows(ShardSet.open(directory))
    unseen = 0
    for place in range(0, len(content), 37):
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        faults = faults_of(directory)
        assert any(str(path) in fault for fault in faults)
        try:
            unseen += all_rows(ShardSet.open(directory)) != original
        except ShardError as error:
            assert "shard-000000.tar: block" in str(error)
        content[place] ^= 1 << place % 8
    assert unseen > 0  # another id in range: only the hash can tell


@pytest.mark.parametrize("place", [0, 30, 124, 148, 156, 257, 300])
def test_a_damaged_header_stops_the_reading(plain, place):
    """Where webdataset ends early in silence."""
    path = plain / shard_name(1)
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        ShardError, match=r"block 2 is damaged \(the tar header of 000000000002.tok"
    ):
        ShardSet.open(plain).read_block(2)


def test_swapped_shards_are_seen(tmp_path, tokenizer):
    directory = make_set(tmp_path / "set", [[7, 8, 9]] * 40, tokenizer)
    first, second = directory / shard_name(0), directory / shard_name(1)
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    with pytest.raises(ShardError, match="block 0 is damaged"):
        ShardSet.open(directory).read_block(0)
    assert len([fault for fault in faults_of(directory) if "SHA-256" in fault]) == 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format": "other"}, "at format"),
        ({"version": 2}, "at version"),
        ({"extra": 1}, "at extra"),
        ({"sequences": "95"}, "at sequences"),
        ({"sequences": 96}, "totals"),
        ({"tokens": 1}, "totals"),
        ({"max_length": 63}, "totals"),
        ({"seq_len": 3}, "totals"),
        ({"vocab_size": 10}, "totals"),
        ({"dtype": "float16"}, "at dtype"),
        ({"shards": []}, "at shards"),
        ({"set_key": "xyz"}, "at set_key"),
        ({"special_ids": {"mask": -1}}, "at special_ids.mask"),
    ],
)
def test_an_index_that_cannot_be_is_refused(plain, changes, part):
    rewrite_index(plain, **changes)
    assert part in refused(plain)


@pytest.mark.parametrize("name", ["../shard-000000.tar", "/etc/passwd", "pipe:ls", "shard-0.tar"])
def test_an_index_names_only_its_own_shards(plain, name):
    shards = json.loads((plain / "index.json").read_text())["shards"]
    shards[0]["name"] = name
    rewrite_index(plain, shards=shards)
    assert "at shards.0.name" in refused(plain)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000])
def test_an_index_that_is_none_is_refused(plain, content):
    (plain / "index.json").write_bytes(content)
    assert "is not an index of bertds-shards version 1" in refused(plain)


def test_a_directory_without_index_is_refused(plain, tmp_path):
    (plain / "index.json").unlink()
    assert "is not a finished shard set" in refused(plain)
    with pytest.raises(ShardError, match="is not a finished shard set"):
        ShardSet.open(tmp_path / "nowhere")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def object_array():
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", object_array()])
def test_a_block_table_that_is_none_is_refused(plain, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (plain / "blocks.npy").write_bytes(content)
    assert "blocks.npy" in refused(plain)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("row", [0, 1])
def test_a_block_table_of_another_set_is_refused(plain, row):
    table = np.load(plain / "blocks.npy")
    table[row, 3] += 1
    np.save(plain / "blocks.npy", table)
    assert "shard-000001.tar: blocks.npy and the index disagree" in refused(plain)
    np.save(plain / "blocks.npy", table[:, :5])
    assert "is not a table of 10 blocks" in refused(plain)


def test_a_pickle_in_a_member_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = Block(tokens=np.ones(4, np.uint16), lengths=np.array([4], np.uint16))
    content = encode_block(0, good)
    for evil in (object_array(), pickle.dumps(Evil()), b"\x93NUMPY\x03\x00" + bytes(120)):
        size = int(content[124:135], 8)
        spoilt = content[:512] + evil[:size].ljust(size, b"\0") + content[512 + size :]
        with pytest.raises(ValueError):
            decode_block(spoilt, 0, Stub())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("tokens", "lengths", "part"),
    [
        ([1, 2, 3], [3, 0], "a sequence without a token"),
        ([1, 2, 3], [], "a sequence without a token"),
        ([1, 2, 3], [2], "do not sum to its 3 tokens"),
        ([1] * 65, [65], "65 tokens, but seq_len is 64"),
        ([1, 100, 3], [3], "token 1 has id 100, but the vocabulary has 100 ids"),
    ],
)
def test_blocks_that_cannot_be_are_refused(tokens, lengths, part):
    block = Block(tokens=np.array(tokens, np.uint16), lengths=np.array(lengths, np.uint16))
    with pytest.raises(ValueError, match=part):
        decode_block(encode_block(0, block), 0, Stub())


@pytest.mark.parametrize(
    ("inputs", "positions", "part"),
    [
        ([1, 2], [0], "a masked copy has 2 tokens, but the block has 3"),
        ([1, 2, 100], [0], "has id 100"),
        ([1, 2, 3], [3], "do not ascend inside the block"),
        ([1, 2, 3], [1, 1], "do not ascend inside the block"),
        ([1, 2, 3], [2, 1], "do not ascend inside the block"),
    ],
)
def test_copies_that_cannot_be_are_refused(inputs, positions, part):
    block = Block(
        tokens=np.array([1, 2, 3], np.uint16),
        lengths=np.array([3], np.uint16),
        inputs=(np.array(inputs, np.uint16),),
        positions=(np.array(positions, np.uint32),),
    )
    with pytest.raises(ValueError, match=part):
        decode_block(encode_block(0, block), 0, Stub(copies=1))


def test_verify_sees_what_opening_cannot(masked):
    (masked / "tokenizer.json").write_bytes(b"{}")
    (masked / "shard-000009.tar").write_bytes(bytes(1024))
    faults = faults_of(masked)
    assert len(faults) == 2
    assert "it is not the tokenizer that the index names" in faults[0]
    assert "shard-000009.tar: the index does not name it" in faults[1]
    (masked / "tokenizer.json").unlink()
    assert "is missing" in faults_of(masked)[0]


def test_verify_sees_copies_that_differ_elsewhere(tmp_path, rows, tokenizer):
    block = make_block(rows[:10], 0, tokenizer, 1)
    inputs = block.inputs[0].copy()
    free = next(i for i in range(len(inputs)) if i not in block.positions[0])
    inputs[free] = (inputs[free] + 1) % tokenizer.vocab_size
    directory = tmp_path / "set"
    directory.mkdir()
    facts = SetFacts(
        tokenizer=tokenizer,
        seq_len=64,
        special_tokens=False,
        set_key=7,
        masking=StoredMasking(**dataclasses.asdict(RULE), copies=1),
    )
    spoilt = dataclasses.replace(block, inputs=(inputs,))
    write_index(directory, [write_shard(directory / shard_name(0), 0, [spoilt])], facts)
    (fault,) = faults_of(directory)
    assert "block 0: copy 0 differs from the tokens where nothing is predicted" in fault


def test_verify_sees_wrong_entries(plain):
    shards = json.loads((plain / "index.json").read_text())["shards"]
    shards[0]["max_id"] -= 1
    rewrite_index(plain, shards=shards)
    (fault,) = faults_of(plain)
    assert "its tokens, largest id or length differ from the index" in fault
