"""Text in tars: which members are documents, and what no corpus has is refused."""

import gzip
import io
import json
import tarfile
import tracemalloc

import pytest

from data_prep.readers import tar
from data_prep.readers.sources import open_sources
from data_prep.readers.streams import Reader
from data_prep.readers.tar import tar_lines
from data_prep.readers.text import read_chunks
from tests.helpers.dataset_files import write_tar


def documents(path, column="text"):
    """The lines of a tar."""
    with path.open("rb") as file:
        content = b"".join(tar_lines(Reader(file, str(path)), column))
    return content.decode().split("\n")[:-1]


def as_json(**fields):
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("members", "texts"),
    [
        ({"a.txt": b"one\ntwo\n", "b.txt": b""}, ["one two ", ""]),
        ({"./a.txt": b"one", "./b/c.TXT": b"two"}, ["one", "two"]),
        ({"a.json": as_json(text="no"), "a.txt": b"one"}, ["one"]),
        ({"a.txt": b"one", "a.json": as_json(text="no"), "a.jpg": b"\xff"}, ["one"]),
        ({"a.en.txt": b"one", "a.ko.txt": b"two"}, ["one", "two"]),
        ({"a.json": as_json(text="one\n1"), "b.txt": b"two"}, ["one 1", "two"]),
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


def test_tars_end_to_end_and_directories(tmp_path):
    one = write_tar(tmp_path / "a.tar", [directory("d"), ("d/a.txt", b"one")])
    two = write_tar(tmp_path / "b.tar", [("d/b.txt", b"two")])
    one.write_bytes(one.read_bytes() + two.read_bytes())
    assert documents(one) == ["one", "two"]


def info(name, kind, **fields):
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def directory(name):
    return info(name, tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("../a.txt", b"x"), "'../a.txt' leads out of its directory"),
        (("a/../../b.txt", b"x"), "leads out of its directory"),
        (("/etc/a.txt", b"x"), "'/etc/a.txt' leads out"),
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
def test_what_no_corpus_has_is_refused(tmp_path, member, words):
    path = write_tar(tmp_path / "a.tar", [("first.txt", b"x"), member])
    with pytest.raises(ValueError) as raised:
        documents(path)
    assert str(path) in str(raised.value)
    assert words in str(raised.value)
    str(raised.value).encode()  # can be printed


@pytest.mark.parametrize(
    "members", [{"a.jpg": b"x", "b.json": b"{}"}, {"a.json": as_json(body="x")}], ids=range(2)
)
def test_a_tar_without_text_is_refused(tmp_path, members):
    path = write_tar(tmp_path / "a.tar", members.items())
    with pytest.raises(ValueError, match=r"has no text in its . members: .*--column"):
        documents(path)
    if "a.json" in members:
        assert documents(path, "body") == ["x"]


def test_a_tar_that_is_cut_anywhere_is_damaged(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x" * 200 + ".txt", b"y" * 700), ("b.json", b"{}")])
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) + 512  # what comes after is the end of the tar, many times
    for length in range(1, end, 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.tar is damaged or cut off"):
            documents(path)


def test_altered_headers_are_sentences(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"x" * 600), ("b.txt", b"y")])
    content = path.read_bytes()
    for place in range(0, 512 * 5, 7):
        altered = bytearray(content)
        altered[place] ^= 0x11
        path.write_bytes(altered)
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
def test_pax_headers_that_cannot_be(tmp_path, record):
    header = info("h", tarfile.XHDTYPE, size=len(record))
    content = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    plain = write_tar(tmp_path / "b.tar", [("a.txt", b"x")], form=tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(content + plain.read_bytes())
    with pytest.raises(ValueError, match=r"a\.tar is damaged"):
        documents(tmp_path / "a.tar")


class Endless(io.RawIOBase):
    """The given bytes, then blanks for ever."""

    def __init__(self, head):
        self._head = io.BytesIO(head)

    def read(self, size=-1):
        return self._head.read(size).ljust(size)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (info("x", tarfile.XHDTYPE, size=8 << 30), "a header of 8,589,934,592 bytes"),
        (info("x", tarfile.GNUTYPE_LONGNAME, size=8 << 30), "a header of 8,589,934,592 bytes"),
        (info("x.json", tarfile.REGTYPE, size=8 << 30), "'x.json' has 8,589,934,592 bytes"),
    ],
    ids=range(3),
)
def test_no_size_makes_us_hold_it(header, words):
    stream = Endless(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match=words):
        list(tar_lines(Reader(stream, "a.tar"), "text"))


def test_memory_does_not_grow_with_a_member(tmp_path):
    """A text of 300 MB in 300 kB of gzip, and as much that is no text before it."""
    size = 300 << 20
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


def test_a_long_json_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MAX_JSON_BYTES", 100)
    path = write_tar(tmp_path / "a.tar", [("a.json", as_json(text="x" * 100))])
    with pytest.raises(ValueError, match=r"at most 100 are read as JSON: give such text as \.txt"):
        documents(path)
