"""Reading shard sets: what was written is read, and every damage is an error that names it."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bertds.data.shards import reader, storage
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.writer import shard_name
from bertds.errors import ShardError
from tests.data.shards.small_sets import all_rows, edit_index, edit_shard_entry, object_array
from tests.helpers.shard_verify import faults_of


def error_of(directory: Path) -> str:
    """Open a set that is rejected; returns the error message, one line."""
    with pytest.raises(ShardError) as caught:
        ShardSet.open(directory)
    assert caught.value.code == 3
    assert "\n" not in str(caught.value)
    assert faults_of(directory) == [str(caught.value)]
    return str(caught.value)


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_what_is_written_is_read(kind, rows, request):
    directory = request.getfixturevalue(kind)
    shards = ShardSet.open(directory)
    assert all_rows(shards) == rows
    assert (shards.num_sequences, shards.num_blocks) == (95, 10)
    assert len(shards.index.shards) == 5
    assert faults_of(directory) == []


def test_sequences_and_shards_are_located(plain):
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
def test_strided_sums_are_prefix_sums(count):
    values = np.random.default_rng(count).integers(0, 1 << 32, count, dtype=np.uint32)
    sums = reader._StridedSums(values)
    expected = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    assert [sums.before(number) for number in range(count + 1)] == expected.tolist()


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_threads_share_a_few_open_files(plain, rows, monkeypatch):
    monkeypatch.setattr(storage, "_MAX_OPEN_FILES", 2)
    gc.collect()  # closes the files of other tests
    before = num_open_files()
    shards = ShardSet.open(plain)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(all_rows, [shards] * 16)) == [rows] * 16
    assert before < num_open_files() <= before + 4
    del shards
    assert num_open_files() == before


def test_a_shard_of_the_wrong_size_is_rejected_at_opening(plain):
    path = plain / shard_name(2)
    content = path.read_bytes()
    for size in (0, 512, len(content) - 1024, len(content) - 1):
        path.write_bytes(content[:size])
        assert "shard-000002.tar: it has" in error_of(plain)
    for longer in (content + b"\0", content + bytes(512)):
        path.write_bytes(longer)
        assert "shard-000002.tar: it has" in error_of(plain)
    path.unlink()
    assert "shard-000002.tar: it is missing" in error_of(plain)


@pytest.mark.parametrize("offset", [0, 30, 124, 148, 156, 257, 300])
def test_a_damaged_tar_header_is_an_error(plain, offset):
    """Webdataset would end early without an error."""
    path = plain / shard_name(1)
    content = bytearray(path.read_bytes())
    content[offset] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        ShardError, match=r"block 2 is damaged \(the tar header of 000000000002.tok"
    ):
        ShardSet.open(plain).read_block(2)


def test_swapped_shards_are_an_error(tmp_path, write_shards):
    directory = tmp_path / "set"
    rows = [[7, 8, 9]] * 40
    write_shards(directory, rows, set_key=7, block_sequences=[10], num_shards=2)
    first, second = directory / shard_name(0), directory / shard_name(1)
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    with pytest.raises(ShardError, match="block 0 is damaged"):
        ShardSet.open(directory).read_block(0)
    assert len([fault for fault in faults_of(directory) if "SHA-256" in fault]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
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
def test_an_index_with_a_wrong_value_is_rejected(plain, changes, message):
    edit_index(plain, **changes)
    assert message in error_of(plain)


@pytest.mark.parametrize("name", ["../shard-000000.tar", "/etc/passwd", "pipe:ls", "shard-0.tar"])
def test_an_index_names_only_shards_beside_it(plain, name):
    edit_shard_entry(plain, 0, name=name)
    assert "at shards.0.name" in error_of(plain)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000])
def test_a_file_that_is_not_an_index_is_rejected(plain, content):
    (plain / "index.json").write_bytes(content)
    assert "is not an index of bertds-shards version 1" in error_of(plain)


def test_a_directory_without_index_is_rejected(plain, tmp_path):
    (plain / "index.json").unlink()
    assert "is not a finished shard set" in error_of(plain)
    with pytest.raises(
        ShardError, match="make one with python -m data_prep shard, or check --data"
    ):
        ShardSet.open(tmp_path / "nowhere")


def test_a_directory_of_shard_sets_is_answered_with_one_of_them(plain):
    with pytest.raises(ShardError, match=f"name one of them, such as {plain}"):
        ShardSet.open(plain.parent)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", object_array()])
def test_a_file_that_is_not_a_block_table_is_rejected(plain, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (plain / "blocks.npy").write_bytes(content)
    assert "blocks.npy" in error_of(plain)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("row", [0, 1])
def test_a_block_table_of_another_set_is_rejected(plain, row):
    table = np.load(plain / "blocks.npy")
    table[row, 3] += 1
    np.save(plain / "blocks.npy", table)
    assert "shard-000001.tar: blocks.npy and the index disagree" in error_of(plain)
    np.save(plain / "blocks.npy", table[:, :5])
    assert "is not a table of 10 blocks" in error_of(plain)
