"""Text in tars: which members are documents, and which tars are rejected."""

import gzip
import io
import json
import tarfile
import tracemalloc
from collections import Counter

import pytest

from data_prep.readers import tar
from data_prep.readers.sources import open_sources
from data_prep.readers.streams import Reader
from data_prep.readers.tar import tar_lines
from data_prep.readers.text import read_chunks
from tests.helpers.dataset_files import write_tar


def documents(path, column="text"):
    """The documents of a tar, as lines."""
    with path.open("rb") as file:
        content = b"".join(tar_lines(Reader(file, str(path)), column, Counter()))
    return content.decode().split("\n")[:-1]


def as_json(**fields):
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("members", "texts"),
    [
        ({"a.txt": b"one\ntwo\n", "b.txt": b""}, ["one\x1etwo\x1e", ""]),
        ({"./a.txt": b"one", "./b/c.TXT": b"two"}, ["one", "two"]),
        ({"a.json": as_json(text="no"), "a.txt": b"one"}, ["one"]),
        ({"a.txt": b"one", "a.json": as_json(text="no"), "a.jpg": b"\xff"}, ["one"]),
        ({"a.en.txt": b"one", "a.ko.txt": b"two"}, ["one", "two"]),
        ({"a.json": as_json(text="one\n1"), "b.txt": b"two"}, ["one\x1e1", "two"]),
        ({"a/x.json": as_json(text="one"), "b/x.txt": b"two"}, ["one", "two"]),
        ({"a.json": b"\xef\xbb\xbf" + as_json(text="\ud800")}, ["\ufffd"]),
        ({"a.txt": b"one", "b.json": b"{", "c.json": as_json(text=3)}, ["one", "", ""]),
        ({"a.txt": b"one", "._a.txt": b"\0\5", ".b.txt": b"no", "c": b"no", "d.cls": b"1"}, ["one"]),
        ({}, []),
        ({f"{'x' * 300}/{'y' * 200}.txt": b"one"}, ["one"]),
        ({"가.txt": b"one"}, ["one"]),
    ],
    ids=range(13),
)  # fmt: skip
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_which_members_are_documents(tmp_path, members, texts, form):
    assert documents(write_tar(tmp_path / "a.tar", members.items(), form=form)) == texts


def test_concatenated_tars_and_directories(tmp_path):
    first = write_tar(tmp_path / "a.tar", [directory("d"), ("d/a.txt", b"one")])
    second = write_tar(tmp_path / "b.tar", [("d/b.txt", b"two")])
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert documents(first) == ["one", "two"]


def info(name, kind, **fields):
    header = tarfile.TarInfo(name)
    header.type = kind
    for field, value in fields.items():
        setattr(header, field, value)
    return header


def directory(name):
    return info(name, tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../a.txt", b"x"), "'../a.txt' points outside the directory"),
        (("a/../../b.txt", b"x"), "points outside the directory"),
        (("/etc/a.txt", b"x"), "'/etc/a.txt' points outside"),
        (info("a.txt", tarfile.SYMTYPE, linkname="/etc/passwd"), "'a.txt' is a link"),
        (info("b.txt", tarfile.LNKTYPE, linkname="first.txt"), "'b.txt' is a link"),
        (info("c.txt", tarfile.CHRTYPE), "'c.txt' is a special file"),
        (info("d.txt", tarfile.FIFOTYPE), "'d.txt' is a special file"),
        (info("e.txt", tarfile.GNUTYPE_SPARSE), "'e.txt' is a special file"),
        (info("f.txt", b"0", pax_headers={"GNU.sparse.realsize": "9"}), "'f.txt' is a special"),
        (info("a\n\x1b.txt", tarfile.FIFOTYPE), "'a\\n\\x1b.txt' is a special file"),
        (info("\udcff.txt", tarfile.FIFOTYPE), "'\\udcff.txt' is a special file"),
    ],
    ids=range(11),
)
def test_links_devices_and_names_outside_are_rejected(tmp_path, member, message):
    path = write_tar(tmp_path / "a.tar", [("first.txt", b"x"), member])
    with pytest.raises(ValueError) as raised:
        documents(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    str(raised.value).encode()  # can be printed


@pytest.mark.parametrize(
    "members", [{"a.jpg": b"x", "b.json": b"{}"}, {"a.json": as_json(body="x")}], ids=range(2)
)
def test_a_tar_without_text_is_rejected(tmp_path, members):
    path = write_tar(tmp_path / "a.tar", members.items())
    with pytest.raises(ValueError, match=r"has no text in its . members: .*--column"):
        documents(path)
    if "a.json" in members:
        assert documents(path, "body") == ["x"]


def test_a_tar_truncated_at_any_length_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x" * 200 + ".txt", b"y" * 700), ("b.json", b"{}")])
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) + 512  # the rest repeats the end of the tar
    for length in range(1, end, 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.tar is damaged or truncated"):
            documents(path)


def test_damaged_headers_give_text_or_an_error_with_the_path(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"x" * 600), ("b.txt", b"y")])
    content = path.read_bytes()
    for position in range(0, 512 * 5, 7):
        damaged = bytearray(content)
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        try:
            documents(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "record",
    [b"5 a=b\n", b"999 path=x\n", b"x path=y\n", b"0 a\n", b"9" * 5000 + b" a=b\n", b"path=x\n",
     b"13 size=-100\n", b"15 size=\xc2\xb2\xc2\xb2\xc2\xb2\n"],
    ids=range(8),
)  # fmt: skip
def test_invalid_pax_headers_are_errors(tmp_path, record):
    header = info("h", tarfile.XHDTYPE, size=len(record))
    content = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    plain = write_tar(tmp_path / "b.tar", [("a.txt", b"x")], form=tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(content + plain.read_bytes())
    with pytest.raises(ValueError, match=r"a\.tar is damaged"):
        documents(tmp_path / "a.tar")


class Endless(io.RawIOBase):
    """A stream of `head`, then of spaces without end."""

    def __init__(self, head):
        self._head = io.BytesIO(head)

    def read(self, size=-1):
        return self._head.read(size).ljust(size)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (info("x", tarfile.XHDTYPE, size=8 << 30), "a header of 8,589,934,592 bytes"),
        (info("x", tarfile.GNUTYPE_LONGNAME, size=8 << 30), "a header of 8,589,934,592 bytes"),
        (info("x.json", tarfile.REGTYPE, size=8 << 30), "'x.json' has 8,589,934,592 bytes"),
    ],
    ids=range(3),
)
def test_sizes_beyond_the_limits_are_errors(header, message):
    stream = Endless(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match=message):
        list(tar_lines(Reader(stream, "a.tar"), "text", Counter()))


def test_memory_does_not_grow_with_a_member(tmp_path):
    """A text of 100 MiB, and another member of 100 MiB before it, in little gzip."""
    size = 100 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        for name in ("a.bin", "b.txt"):
            file.write(info(name, b"0", size=size).tobuf())
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
        file.write(bytes(1024))
    with open_sources(str(tmp_path / "a.tar.gz"), tmp_path) as (source,):
        tracemalloc.start()
        total = sum(len(chunk) for chunk, _ in read_chunks(source))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert total == size + 1
    assert peak < 40 << 20


def test_a_json_member_that_is_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MAX_JSON_BYTES", 100)
    path = write_tar(tmp_path / "a.tar", [("a.json", as_json(text="x" * 100))])
    with pytest.raises(ValueError, match=r"the maximum for JSON is 100: store such text as \.txt"):
        documents(path)
