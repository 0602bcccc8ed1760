"""The JSON files of a run directory: `status.json`, and how such files are read and replaced."""

import datetime
import threading

import pytest

from bertds.io.json_files import read_json, write_json
from bertds.runs.status import write_status


def test_json_round_trip(tmp_path):
    path = tmp_path / "case.json"
    value = {"a": [1, 2.5, None], "제목": "깊이", "b": {"c": True}}
    write_json(path, value)
    assert read_json(path) == value
    assert "깊이" in path.read_text(encoding="utf-8")  # not escaped
    assert [file.name for file in tmp_path.iterdir()] == ["case.json"]


def test_missing_file_is_an_empty_object(tmp_path):
    assert read_json(tmp_path / "status.json") == {}


def test_invalid_file_is_named(tmp_path):
    path = tmp_path / "status.json"
    path.write_text('{"state": "run')
    with pytest.raises(ValueError, match=r"status\.json is not") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_reader_never_sees_an_incomplete_file(tmp_path):
    path, stop = tmp_path / "status.json", threading.Event()
    steps: list[int] = []
    errors: list[Exception] = []
    write_status(tmp_path, "running", 0, "x" * 100_000, 0)

    def read():
        try:
            while not stop.is_set():
                steps.append(read_json(path)["step"])
        except (ValueError, KeyError, OSError) as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    step = 0
    while (step < 100 or len(steps) < 20) and not errors:
        step += 1
        write_status(tmp_path, "running", 0, "x" * 100_000, step)
    stop.set()
    reader.join()
    assert not errors
    assert steps == sorted(steps)
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_value_that_is_not_json_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_status_has_the_fields_that_supervisors_read(tmp_path):
    write_status(tmp_path, "pre-empted", 75, "run the same command again", 12)
    status = read_json(tmp_path / "status.json")
    assert status.keys() == {"state", "code", "message", "step", "updated"}
    assert (status["state"], status["code"], status["step"]) == ("pre-empted", 75, 12)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(status["updated"])
    assert abs(age) < datetime.timedelta(minutes=1)
