"""JSON that is not one object per line: an array of records, or records over several lines."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import json_records
from data_prep.readers.json_records import json_record_lines
from data_prep.readers.streams import Reader
from tests.data_prep.readers.rejection import error_message

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


def read(content: bytes) -> list[bytes]:
    return list(json_record_lines(Reader(io.BytesIO(content), "a.json")))


@given(
    records=st.lists(st.dictionaries(st.text(), VALUES, max_size=3) | st.integers(), max_size=6),
    indent=st.none() | st.integers(0, 2),
    piece_bytes=st.integers(1, 40),
    is_array=st.booleans(),
    is_ascii=st.booleans(),
)
def test_each_record_is_one_line_for_any_layout_and_read_size(
    records, indent, piece_bytes, is_array, is_ascii
):
    if is_array:
        content = json.dumps(records, indent=indent, ensure_ascii=is_ascii)
    else:
        content = "\r\n".join(json.dumps(each, indent=indent) for each in records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "PIECE_BYTES", piece_bytes)
        lines = read(b"\xef\xbb\xbf" + content.encode())
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert [json.loads(line) for line in lines] == records


def test_invalid_utf8_reaches_the_cleaning_as_it_is():
    assert read(b'[{"text": "a\xff"}]') == [b'{"text": "a\xff"}\n']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": "b', "record 2: Unterminated string"),
        ('[{"text": "a"},', "record 2: Expecting value"),
        ('[{"text": "a"}', "record 2: expected a comma or the end of the array"),
        ('[{"text": "a"} {"text": "b"}]', "record 2: expected a comma"),
        ('[{"text": "a"}, {text: "b"}]', "record 2: Expecting property name"),
        ('[{"text": ' + "[" * 100_000, "record 1: nested too deeply"),
    ],
)
def test_a_damaged_array_is_an_error_with_the_record(tmp_path, capsys, content, message):
    (tmp_path / "a.json").write_text(content)
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.json")
    assert f"{tmp_path}/a.json is damaged or truncated (JSON {message}" in error


def test_a_record_that_is_too_large_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(json_records, "MAX_JSON_BYTES", 1000)
    monkeypatch.setattr(json_records, "PIECE_BYTES", 100)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}, {"text": "b" * 5000}]))
    error = error_message(tmp_path, capsys, f"--input={tmp_path}/a.json")
    assert "JSON record 2 has more than 1,000 bytes" in error
