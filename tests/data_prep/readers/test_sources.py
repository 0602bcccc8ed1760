"""Ways to name text: files, lists, globs, standard input and compressed forms."""

import gzip
import io
import json
import sys

import pytest
import zstandard

from data_prep.readers.sources import open_sources
from data_prep.readers.text import read_chunks
from tests.data_prep.readers.rejection import error_message
from tests.data_prep.readers.text_files import json_lines, read_lines

TEXT = "첫 줄\nsecond line\n\n끝"


def gz(content: bytes) -> bytes:
    """Compressed without a time, so that the bytes are always the same."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT.encode()),
        ("a", TEXT.encode()),
        ("a.txt.gz", gz(TEXT.encode())),
        ("b.gz", gz(TEXT.encode()[:10]) + gz(TEXT.encode()[10:])),
        ("a.txt.zst", zstandard.compress(TEXT.encode())),
        ("a.txt.gz", zstandard.compress(TEXT.encode())),
        ("b.zst", zstandard.compress(TEXT.encode()[:10]) + zstandard.compress(TEXT.encode()[10:])),
        ("a.jsonl", json_lines(TEXT).encode()),
        ("a.b.jsonl.gz", gz(json_lines(TEXT).encode())),
        ("a.jsonl.zst", zstandard.compress(json_lines(TEXT).encode())),
        ("a.json.zstd", zstandard.compress(json_lines(TEXT).encode())),
        ("A.NDJSON.GZ", gz(json_lines(TEXT).encode())),
        ("mark.jsonl", b"\xef\xbb\xbf" + json_lines(TEXT).encode()),
    ],
)
def test_every_form_gives_the_same_lines(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_lines(tmp_path / name, tmp_path) == ["첫 줄", "second line", "끝"]


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
    assert sorted(read_lines(tmp_path / "*.txt", tmp_path)) == ["a.txt", "b.txt", "c,d.txt"]
    assert sorted(read_lines(tmp_path / "**/[ae].txt", tmp_path)) == ["a.txt", "e.txt"]
    assert read_lines(tmp_path / "c,d.txt", tmp_path) == ["c,d.txt"]
    repeated = f"{tmp_path}/a.txt,{tmp_path}/b.txt,{tmp_path}/a.txt"
    assert sorted(read_lines(repeated, tmp_path)) == ["a.txt", "b.txt"]


def test_a_list_may_be_longer_than_a_path(tmp_path):
    names = [f"part-{number:05d}-of-00400.txt" for number in range(400)]
    for name in names:
        (tmp_path / name).write_text(name)
    spec = ",".join(str(tmp_path / name) for name in names)
    assert sorted(read_lines(spec, tmp_path)) == names


def test_names_and_order_of_files_do_not_matter(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(f"line of {name}")
    lines = read_lines(",".join(str(tmp_path / name) for name in "abc"), tmp_path)
    assert read_lines(",".join(str(tmp_path / name) for name in "cab"), tmp_path) == lines
    (tmp_path / "b").rename(tmp_path / "z")
    assert read_lines(tmp_path / "*", tmp_path) == lines


@pytest.mark.parametrize("name", ["a.txt.xz", "a.BZ2", "a.zip", "a.jsonl.lz4"])
def test_unsupported_compressions_are_rejected(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"{name} has the unsupported compression .*: decompress"):
        read_lines(tmp_path / name, tmp_path)


@pytest.mark.parametrize("spec", ["gone.txt", "*.nothing", "a.txt,gone.txt", "."])
def test_missing_files_and_directories_are_rejected(tmp_path, spec):
    (tmp_path / "a.txt").write_text("a")
    spec = ",".join(f"{tmp_path}/{part}" for part in spec.split(","))
    with pytest.raises(ValueError, match="which does not exist|names the directory"):
        read_lines(spec, tmp_path)


@pytest.mark.parametrize("name", ["empty.txt", "empty.gz"])
def test_empty_files_are_rejected(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} is empty"):
        read_lines(tmp_path / name, tmp_path)


def test_no_input_is_rejected(tmp_path, capsys):
    assert "set --input, --from_hf or --from_mds" in error_message(tmp_path, capsys)


def test_json_lines_without_the_column_are_rejected(tmp_path, capsys):
    objects = [json.dumps({"body": f"{number} words"}) for number in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(objects))
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.jsonl")
    assert "none of the 50 records has a text in the field 'text'" in error
    assert "--column" in error
