"""The one reader of JSON objects: what its errors name, and when a file may be missing."""

import json

import pytest

from bertds.errors import CheckpointError
from bertds.io.json_files import read_json, read_json_object, write_json


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "is missing"),
        (b"{", "is not JSON (Expecting property name"),
        (b"", "is not JSON ("),
        (b'{"a": "\xff"}', "is not JSON ("),
        (b"[" * 100_000, "is not JSON ("),
        (b"[1]", "is not a JSON object"),
        (b" " * 200_000, "has more than 150,000 bytes"),
    ],
)
def test_an_error_has_a_class_a_name_and_a_remedy(tmp_path, content, fault):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    for name, shown in ((None, path), ("its state", "its state")):
        with pytest.raises(CheckpointError) as raised:
            read_json_object(path, CheckpointError, name=name, max_bytes=150_000, remedy="go")
        assert str(raised.value).startswith(f"{shown} {fault}")
        assert str(raised.value).endswith(": go")
    with pytest.raises(ValueError, match="state.json is [^:]*(:[^:]*)?$") as raised:
        read_json_object(path)
    assert type(raised.value) is ValueError


def test_a_missing_file_may_have_a_default(tmp_path):
    assert read_json_object(tmp_path / "none.json", default={}) == {}
    assert read_json(tmp_path / "none.json") == {}


def test_what_is_written_is_read_again(tmp_path):
    value = {"name": "한국어", "steps": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == read_json_object(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_bytes()) == value
