"""Raw text: every way to give it, and whatever bytes it holds."""

import gzip
import io
import json
import sys
import tracemalloc
import unicodedata
from collections import Counter

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import cleaning
from data_prep.readers.cleaning import CHUNK_BYTES, MAX_WORD_CHARACTERS, clean_lines
from data_prep.readers.sources import open_sources
from data_prep.readers.text import cut_chunks, read_chunks

TEXT = "첫 줄\nsecond line\n\n끝"


def read(spec, directory, counts=None):
    """The clean lines of a spec."""
    with open_sources(str(spec), directory) as found:
        return [
            line
            for source in found
            for chunk, _ in read_chunks(source)
            for line in clean_lines(chunk, source.kind, Counter() if counts is None else counts)
        ]


def clean(content, kind="lines"):
    counts = Counter()
    return clean_lines(content, kind, counts), +counts


def zipped(content: bytes) -> bytes:
    """Without the time, so that a test has the same name in every process."""
    return gzip.compress(content, mtime=0)


def json_lines(text):
    return "\n".join(json.dumps({"id": 1, "text": line}) for line in text.split("\n"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT.encode()),
        ("a", TEXT.encode()),
        ("a.txt.gz", zipped(TEXT.encode())),
        ("b.gz", zipped(TEXT.encode()[:10]) + zipped(TEXT.encode()[10:])),
        ("a.txt.zst", zstandard.compress(TEXT.encode())),
        ("b.zst", zstandard.compress(TEXT.encode()[:10]) + zstandard.compress(TEXT.encode()[10:])),
        ("a.jsonl", json_lines(TEXT).encode()),
        ("a.b.jsonl.gz", zipped(json_lines(TEXT).encode())),
        ("a.jsonl.zst", zstandard.compress(json_lines(TEXT).encode())),
        ("a.json.zstd", zstandard.compress(json_lines(TEXT).encode())),
        ("A.NDJSON.GZ", zipped(json_lines(TEXT).encode())),
        ("mark.jsonl", b"\xef\xbb\xbf" + json_lines(TEXT).encode()),
    ],
)
def test_every_form_gives_the_same_lines(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name, tmp_path) == ["첫 줄", "second line", "끝"]


def test_standard_input_is_spooled_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    with open_sources("-", tmp_path) as (source,):
        assert source.path.parent == tmp_path
        chunks = list(read_chunks(source))
    assert b"".join(chunk for chunk, _ in chunks) == TEXT.encode()
    assert list(tmp_path.iterdir()) == []


def test_lists_and_globs(tmp_path):
    for name in ("a.txt", "b.txt", "c,d.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "e.txt").write_text("e.txt")
    assert sorted(read(tmp_path / "*.txt", tmp_path)) == ["a.txt", "b.txt", "c,d.txt"]
    assert sorted(read(tmp_path / "**/[ae].txt", tmp_path)) == ["a.txt", "e.txt"]
    assert read(tmp_path / "c,d.txt", tmp_path) == ["c,d.txt"]
    both = f"{tmp_path}/a.txt,{tmp_path}/b.txt,{tmp_path}/a.txt"
    assert sorted(read(both, tmp_path)) == ["a.txt", "b.txt"]


def test_a_list_may_be_longer_than_a_path(tmp_path):
    names = [f"part-{number:05d}-of-00400.txt" for number in range(400)]
    for name in names:
        (tmp_path / name).write_text(name)
    assert sorted(read(",".join(str(tmp_path / name) for name in names), tmp_path)) == names


@pytest.mark.parametrize("name", ["a.txt.xz", "a.BZ2", "a.zip", "a.jsonl.lz4"])
def test_what_is_packed_otherwise_is_no_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"{name} is packed as .*: unpack it"):
        read(tmp_path / name, tmp_path)


def test_a_long_document_of_json_is_cut_as_the_same_text_in_a_file_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 3000)
    texts = ["가나다 " * 1000, "short", "word " * 1500 + "end", "", "last"]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "b.jsonl").write_text(json_lines("\n".join(texts)))
    (tmp_path / "c.jsonl.gz").write_bytes(zipped(json_lines("\n".join(texts)).encode()))
    expected = read(tmp_path / "a.txt", tmp_path)
    assert len(expected) > 5
    for name in ("b.jsonl", "c.jsonl.gz"):
        assert read(tmp_path / name, tmp_path) == expected
        with open_sources(str(tmp_path / name), tmp_path) as (source,):
            where = [stop for _, stop in cut_chunks(source)]
            assert where == sorted(where)
            whole = b"".join(
                one if isinstance(one, bytes) else one.read() for one, _ in cut_chunks(source)
            )
        assert whole.count(b"\n") == len(texts) - 1


def test_the_order_of_files_does_not_matter(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(f"line of {name}")
    one = read(",".join(str(tmp_path / name) for name in "abc"), tmp_path)
    other = read(",".join(str(tmp_path / name) for name in "cab"), tmp_path)
    assert one == other
    (tmp_path / "b").rename(tmp_path / "z")
    assert read(tmp_path / "*", tmp_path) == one


@pytest.mark.parametrize("spec", ["gone.txt", "*.nothing", "a.txt,gone.txt", "."])
def test_what_is_not_there_is_named(tmp_path, spec):
    (tmp_path / "a.txt").write_text("a")
    spec = ",".join(f"{tmp_path}/{part}" for part in spec.split(","))
    with pytest.raises(ValueError, match="a file or a glob is wanted|does not exist"):
        read(spec, tmp_path)


@pytest.mark.parametrize("name", ["empty.txt", "empty.gz"])
def test_no_bytes_at_all_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="has no bytes"):
        read(tmp_path / name, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", zipped(TEXT.encode() * 9)[:-20]),
        ("a.gz", b"no gzip"),
        ("a.gz", zipped(TEXT.encode() * 9)[:20] + b"x" * 40),
        ("a.zst", b"no zstandard"),
        ("a.zst", zstandard.compress(TEXT.encode() * 9)[:-1]),
        ("a.zst", zstandard.compress(TEXT.encode() * 9)[:9]),
        ("a.zst", zstandard.compress(TEXT.encode() * 9) + b"rest"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged or cut off"):
        read(tmp_path / name, tmp_path)


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n"), max_size=40), max_size=30),
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


def test_long_lines_are_cut_counted_and_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 30)
    (tmp_path / "a").write_text("가나 " * 20 + "\nshort\n" + "x" * 29 + "\n" + "y" * 30 + "\n")
    counts = Counter()
    lines = read(tmp_path / "a", tmp_path, counts)
    assert "".join(lines[:-3]).replace(" ", "") == "가나" * 20
    assert lines[-3:] == ["short", "x" * 29, "y" * 30]
    assert counts["long lines cut"] == 4
    assert counts["lines"] == len(lines) == 8


def test_chunks_do_not_depend_on_compression(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 50)
    content = b"".join(b"%d words of a line\n" % number for number in range(200))
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content))
    found = {}
    for name in ("a", "b.gz"):
        with open_sources(str(tmp_path / name), tmp_path) as (source,):
            found[name] = [chunk for chunk, _ in read_chunks(source)]
    assert found["a"] == found["b.gz"]


def test_memory_does_not_grow_with_a_line(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(200 << 20)  # zeros, no line end
    with open_sources(str(tmp_path / "a"), tmp_path) as (source,):
        tracemalloc.start()
        sizes = [len(chunk) for chunk, _ in read_chunks(source)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sum(sizes) == 200 << 20
    assert max(sizes) <= CHUNK_BYTES
    assert peak < 40 << 20


@pytest.mark.parametrize(
    ("content", "lines", "counts"),
    [
        (b"one\ntwo\n", ["one", "two"], {}),
        (b"one\ntwo", ["one", "two"], {}),
        (b"one\r\ntwo\r\n", ["one", "two"], {"carriage returns": 2}),
        (b"a\rb", ["a b"], {"carriage returns": 1}),
        (b" a \t b  \n", ["a b"], {}),
        (b"\n\n a\n", ["a"], {"blank lines": 2, "lines": 3}),
        (b"\xef\xbb\xbfa\n", ["a"], {"byte order marks": 1, "lines with control characters": 1}),
        (b"a\0b\0\n", ["ab"], {"NUL characters": 2, "lines with control characters": 1}),
        (b"a\x1b[0m\x7f", ["a[0m"], {"lines with control characters": 1}),
        ("a\u2028b\u2029c\u0085d\u00a0e\u3000f".encode(), ["a b c d e f"], {}),
        (b"\x0b\x0c\x1c\x1d", [], {"blank lines": 1}),
        (b"\xff\xfe\n", ["\ufffd\ufffd"], {"lines with invalid UTF-8": 1}),
        (b"ok\na\xed\xa0\x80b\n", ["ok", "a\ufffd\ufffd\ufffdb"], {"lines with invalid UTF-8": 1}),
        (b"\xc0\xaf\n\xea\xb0", ["\ufffd\ufffd", "\ufffd"], {"lines with invalid UTF-8": 2}),
        ("한글".encode()[:-1], ["한\ufffd"], {"lines with invalid UTF-8": 1}),
        ("\u1112\u1161\u11ab\n글".encode(), ["한", "글"], {"lines not NFC": 1}),
        ("e\0\u0301".encode(), ["é"], {"lines not NFC": 1, "NUL characters": 1,
                                       "lines with control characters": 1}),
        ("\ufffd".encode(), ["\ufffd"], {}),
        ("👩\u200d🔬 a\u200bb".encode(), ["👩\u200d🔬 a\u200bb"], {}),
        (b"", [], {}),
        (b"\n", [], {"blank lines": 1}),
    ],
)  # fmt: skip
def test_cleaning(content, lines, counts):
    found, counted = clean(content)
    assert found == lines
    wanted = {"lines": content.count(b"\n") + (content[-1:] not in (b"\n", b""))} | counts
    assert counted == +Counter(wanted)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(content):
    lines, counts = clean(content)
    assert counts["lines"] == len(content.split(b"\n")) - (not content.split(b"\n")[-1])
    assert counts["lines"] == len(lines) + counts["blank lines"]
    for line in lines:
        assert line == " ".join(line.split())
        assert unicodedata.is_normalized("NFC", line)
        assert not any(unicodedata.category(character) == "Cc" for character in line)


@given(st.lists(st.text(), max_size=5))
def test_cleaning_twice_changes_nothing(lines):
    content = "\n".join(lines).encode("utf-8", "replace")
    once, _ = clean(content)
    again, counts = clean("\n".join(once).encode())
    assert again == once
    assert set(counts) <= {"lines"}


def test_giant_words_are_cut_by_blanks():
    (line,), counts = clean(("가" * (3 * MAX_WORD_CHARACTERS + 1)).encode())
    assert [len(word) for word in line.split()] == [MAX_WORD_CHARACTERS] * 3 + [1]
    assert counts["lines with words cut"] == 1
    (line,), counts = clean(b"x" * MAX_WORD_CHARACTERS)
    assert " " not in line
    assert counts["lines with words cut"] == 0


def test_json_lines():
    content = "\n".join(
        [
            '{"text": "good\\nold  text"}',
            '{"text": 5}',
            '{"other": "x"}',
            "no json",
            "",
            "[1]",
            '{"text": "lone \\ud800 surrogate"}',
            '{"text": ""}',
            "[" * 100_000,
            '"text"',
        ]
    ).encode()
    lines, counts = clean(content, "jsonl")
    assert lines == ["good old text", "lone \ufffd surrogate"]
    assert counts["lines"] == 10
    assert counts["lines that are no JSON with a text"] == 6
    assert counts["blank lines"] == 2
