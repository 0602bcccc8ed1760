"""Text in any encoding is read as its UTF-8 form; what is no text in it is refused by name."""

import tarfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import cleaning, encodings
from data_prep.readers.cleaning import clean_lines
from data_prep.readers.encodings import parse_encoding
from data_prep.readers.sources import Inputs, open_sources
from data_prep.readers.text import cut_chunks
from tests.data_prep.readers.rejection import error_message
from tests.helpers.dataset_files import write_tar

KOREAN = ["감히 최고의 드라마, 똠방각하", "왕좌 시즌3 끝나서", "plain ASCII", ""] * 40


def read(path, encoding="utf-8", counts=None):
    """The clean lines of a file."""
    counts = Counter() if counts is None else counts
    with open_sources(Inputs(input=str(path), encoding=encoding), path.parent) as (source,):
        return [
            line
            for chunk, _ in cut_chunks(source, counts)
            for line in clean_lines(
                chunk if isinstance(chunk, bytes) else chunk.read(), source.line_kind, counts
            )
        ]


@given(
    lines=st.lists(st.text("가똠한字あア漢 aé€\n", max_size=60), min_size=1, max_size=20),
    encoding=st.sampled_from(["cp949", "cp932", "gb18030", "iso2022_jp", "utf-16-le", "utf-16"]),
    chunk_bytes=st.integers(8, 200),
    piece_bytes=st.integers(1, 50),
)
def test_text_is_that_of_its_utf8_form_for_any_chunk_and_read_size(
    tmp_path_factory, lines, encoding, chunk_bytes, piece_bytes
):
    path = tmp_path_factory.mktemp("encoded") / "a.txt"
    content = "\n".join(["line", *lines]).encode(encoding, "ignore")
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(encodings, "_PIECE_BYTES", piece_bytes)
        encoded = read(path, encoding)
        path.write_bytes(content.decode(encoding).encode())
        assert encoded == read(path)


@pytest.mark.parametrize("name", ["cp949", "EUC-KR", "ks_c_5601-1987"])
def test_korean_text_by_its_names(tmp_path, name):
    """`똠` is in cp949 only, but files that are called EUC-KR have it."""
    (tmp_path / "a.txt").write_text("\n".join(KOREAN), encoding="cp949")
    counts = Counter()
    assert read(tmp_path / "a.txt", name, counts) == [line for line in KOREAN if line]
    assert set(+counts) == {"lines", "blank lines"}


def test_the_members_of_a_tar_have_the_encoding(tmp_path):
    members = {"a.txt": KOREAN[0].encode("cp949"), "b.txt": KOREAN[1].encode("cp949")}
    write_tar(tmp_path / "a.tar", members.items(), form=tarfile.PAX_FORMAT)
    assert read(tmp_path / "a.tar", "cp949") == KOREAN[:2]


@pytest.mark.parametrize("encoding", ["cp949", "utf-16"])
def test_utf8_is_read_as_such_and_said(tmp_path, capsys, encoding):
    (tmp_path / "a.txt").write_text("\n".join(KOREAN))
    assert read(tmp_path / "a.txt", encoding) == [line for line in KOREAN if line]
    assert "a.txt: read as utf-8, which its first bytes prove" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_needs_no_option(tmp_path, capsys, encoding):
    (tmp_path / "a.txt").write_text("\n".join(KOREAN), encoding=encoding)
    assert read(tmp_path / "a.txt") == [line for line in KOREAN if line]
    assert f"a.txt: read as {encoding}" in capsys.readouterr().err


def test_some_invalid_characters_are_replaced_and_counted(tmp_path):
    content = "\n".join(KOREAN).encode("cp949") + b"\n\xff\n"
    (tmp_path / "a.txt").write_bytes(content)
    counts = Counter()
    assert read(tmp_path / "a.txt", "cp949", counts)[-1] == "\ufffd"
    assert counts["characters invalid in cp949"] == 1


def test_unknown_encodings_are_rejected(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    for name in ("korean-2", "zip", "", "undefined", "base64"):
        error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.txt", f"--encoding={name}")
        assert f"--encoding is {name!r}, expected the name of an encoding" in error
    assert parse_encoding("UTF8") == parse_encoding("utf-8-sig") == "utf-8"


@pytest.mark.parametrize(
    "flags", [[], ["--encoding=big5"], ["--encoding=utf-16"], ["--encoding=utf-16-le"]]
)
def test_text_of_another_encoding_is_refused_with_its_likely_name(tmp_path, capsys, flags):
    (tmp_path / "a.txt").write_text("\n".join(KOREAN), encoding="cp949")
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.txt", *flags)
    assert f"{tmp_path}/a.txt is " in error
    assert "as cp949 it reads '감히 최고의 드라마" in error


def test_invalid_text_after_the_first_bytes_is_refused_too(tmp_path, capsys):
    content = b"plain text\n" * 30_000 + f"{KOREAN[0]}\n".encode("cp949") * 40_000
    (tmp_path / "a.txt").write_bytes(content)
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.txt")
    assert f"{tmp_path}/a.txt is not utf-8: 40,000 of its 70,000 lines" in error
