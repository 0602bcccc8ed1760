"""A file is known by its content as well as by its name."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import zstandard

from data_prep.readers.sources import open_sources
from tests.data_prep.readers.rejection import error_message
from tests.data_prep.readers.text_files import json_lines, read_lines


def zip_archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    return file.getvalue()


def numpy_array():
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


UNREADABLE = {
    "zip": (zip_archive(), "a zip archive, as .zip, .xlsx and .docx files are: extract"),
    "sqlite": (b"SQLite format 3\0" + bytes(90), "an SQLite database: extract"),
    "pdf": (b"%PDF-1.7\n...", "a PDF document: extract"),
    "xz": (b"\xfd7zXZ\0" + bytes(9), "compressed with xz: decompress it"),
    "numpy": (numpy_array(), "a NumPy array: convert it"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run git lfs pull"),
    "gzip-pdf": (gzip.compress(b"%PDF-1.7\n"), "a PDF document"),
    "gzip-gzip": (gzip.compress(gzip.compress(b"a")), "compressed twice"),
    "gzip-parquet": (
        gzip.compress(b"PAR1\x15\x04...PAR1"),
        "a compressed parquet file: decompress",
    ),
    "zeros": (bytes(5000), "is binary: more than a quarter"),
    "noise": (np.random.default_rng(1).bytes(20_000), "is not utf-8: "),
    "utf-16": ("no mark\n".encode("utf-16-le") * 9, "set --encoding to utf-16-le"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("ending", ["", ".txt", ".jsonl"])
def test_what_is_no_text_is_refused_by_name_with_a_remedy(tmp_path, capsys, name, ending):
    content, message = UNREADABLE[name]
    (tmp_path / f"a{ending}").write_bytes(content)
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a{ending}")
    assert f"{tmp_path}/a{ending} is " in error
    assert message in error


@pytest.mark.parametrize(
    "content",
    [
        b"ORC is a word, and so is Obj\nBZh\nLZIP\n",
        b"PAR1 is a word\n",
        b"ARROW1 is another one\n",
        b"{\nnot JSON\n}\n",
        b"a\x01table\x01of\x01Hive\n",
        b'{"text": "a record"}\nand a line\n',
        b"[{ a list of things\n",
        b"\x1b[31mcolor\x1b[0m\n",
        b"a line with \xff\nand a good one\n",
        b"x" * 5000 + b"\xff",
    ],
)
def test_text_that_looks_like_something_else_stays_text(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with open_sources(str(tmp_path / "a.txt"), tmp_path) as (source,):
        assert (source.kind, source.compression, source.note) == ("lines", "none", "")


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, zstandard.compress], ids=["none", "gz", "zst"]
)
def test_json_lines_and_compression_without_an_ending(tmp_path, capsys, compress):
    names = ("wiki_00", "wiki_01")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(compress(json_lines(f"line {number}\n더").encode()))
    assert sorted(read_lines(tmp_path / "wiki_*", tmp_path)) == ["line 0", "line 1", "더", "더"]
    (note,) = capsys.readouterr().err.splitlines()
    wrapped = "" if compress is bytes else " compressed with "
    assert f" and 1 more files: read as JSON lines{wrapped}" in note
    assert note.endswith(", by its content")
