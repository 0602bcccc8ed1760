"""Chunks: whole lines, cut by content alone, in bounded memory; damaged files are errors."""

import gzip
import tracemalloc
from collections import Counter

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import cleaning
from data_prep.readers import text as text_module
from data_prep.readers.cleaning import CHUNK_BYTES
from data_prep.readers.sources import open_sources
from data_prep.readers.text import cut_chunks, read_chunks
from tests.data_prep.readers.text_files import json_lines, read_lines

TEXT = "첫 줄\nsecond line\n\n끝" * 9
GZ = gzip.compress(TEXT.encode(), mtime=0)
ZST = zstandard.compress(TEXT.encode())


@given(
    lines=st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40), max_size=30
    ),
    size=st.integers(8, 60),
)
def test_chunks_are_whole_lines_and_lose_nothing(tmp_path_factory, lines, size):
    directory = tmp_path_factory.mktemp("chunks")
    content = "\n".join(lines).encode("utf-8", "replace")
    (directory / "a").write_bytes(content + b"\nx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "CHUNK_BYTES", size)
        with open_sources(str(directory / "a"), directory) as (source,):
            chunks = [chunk for chunk, _ in read_chunks(source)]
    assert b"".join(chunks) == content + b"\nx"
    for chunk in chunks[:-1]:
        assert len(chunk) <= size + 1
        assert chunk.endswith(b"\n") or len(chunk) > size - 4
        chunk.decode()  # no character is cut


def test_long_lines_are_cut_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 30)
    (tmp_path / "a").write_text("가나 " * 20 + "\nshort\n" + "x" * 29 + "\n" + "y" * 30 + "\n")
    counts = Counter()
    lines = read_lines(tmp_path / "a", tmp_path, counts)
    assert "".join(lines[:-3]).replace(" ", "") == "가나" * 20
    assert lines[-3:] == ["short", "x" * 29, "y" * 30]
    assert counts["long lines cut"] == 4
    assert counts["lines"] == len(lines) == 8


def test_long_json_documents_are_cut_like_long_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)
    texts = ["가나다 " * 1000, "short", "word " * 1500 + "end", "", "last"]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "b.jsonl").write_text(json_lines("\n".join(texts)))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json_lines("\n".join(texts)).encode()))
    expected = read_lines(tmp_path / "a.txt", tmp_path)
    assert len(expected) > 5
    for name in ("b.jsonl", "c.jsonl.gz"):
        assert read_lines(tmp_path / name, tmp_path) == expected
        with open_sources(str(tmp_path / name), tmp_path) as (source,):
            positions = [position for _, position in cut_chunks(source)]
            assert positions == sorted(positions)
            content = b"".join(
                chunk if isinstance(chunk, bytes) else chunk.read()
                for chunk, _ in cut_chunks(source)
            )
        assert content.count(b"\n") == len(texts) - 1


def test_chunks_do_not_depend_on_compression(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 50)
    content = b"".join(b"%d words of a line\n" % number for number in range(200))
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content))
    chunks = {}
    for name in ("a", "b.gz"):
        with open_sources(str(tmp_path / name), tmp_path) as (source,):
            chunks[name] = [chunk for chunk, _ in read_chunks(source)]
    assert chunks["a"] == chunks["b.gz"]


@pytest.mark.parametrize("size", [100, 997, 4000])
@pytest.mark.parametrize("tail", [10, 64 << 10])
def test_file_ranges_equal_the_chunks(tmp_path, monkeypatch, size, tail):
    """Also for lines longer than a chunk, and multi-byte characters at the cuts."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", size)
    monkeypatch.setattr(text_module, "_TAIL_BYTES", tail)
    lines = ["가나다" * (7 * number % 90) for number in range(200)]
    (tmp_path / "text").write_text("\n".join(lines))
    with open_sources(str(tmp_path / "text"), tmp_path) as (source,):
        ranges = [(file_range.read(), position) for file_range, position in cut_chunks(source)]
        chunks = [chunk for chunk, _ in read_chunks(source)]
    assert [content for content, _ in ranges] == chunks
    assert ranges[-1][1] == source.size


def test_memory_does_not_grow_with_a_line(tmp_path):
    size = 100 << 20
    with (tmp_path / "a").open("wb") as file:
        for _ in range(size >> 20):
            file.write(b"x" * (1 << 20))  # without a line end
    with open_sources(str(tmp_path / "a"), tmp_path) as (source,):
        tracemalloc.start()
        sizes = [len(chunk) for chunk, _ in read_chunks(source)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sum(sizes) == size
    assert max(sizes) <= CHUNK_BYTES
    assert peak < 40 << 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", GZ[:-20]),
        ("a.gz", b"no gzip"),
        ("a.gz", GZ[:20] + b"x" * 40),
        ("a.zst", b"no zstandard"),
        ("a.zst", ZST[:-1]),
        ("a.zst", ZST[:9]),
        ("a.zst", ZST + b"rest"),
    ],
)
def test_damaged_compressed_files_are_errors(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged or truncated"):
        read_lines(tmp_path / name, tmp_path)
