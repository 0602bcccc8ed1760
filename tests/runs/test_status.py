"""TODO."""

import datetime
import json
import threading

import pytest

from bertds.errors import ConfigError
from bertds.io.json_files import read_json, write_json
from bertds.runs.config_drift import check_unchanged
from bertds.runs.status import now, write_status

CONFIG = {
    "train_batch_size": 256,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.98]}},
    "bertds": {
        "title": "a",
        "model": {"hidden_size": 64},
        "data": {"train": [{"name": "50k/ko/train"}], "seq_len": 256},
        "masking": {"mode": "dynamic"},
        "run": {"seed": 0, "num_epochs": 3},
    },
}


def changed(**changes):
    """CONFIG with values at dotted paths (`__` for the dot); None deletes."""
    config = json.loads(json.dumps(CONFIG))
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = config
        for name in blocks:
            block = block.setdefault(name, {})
        if value is None:
            del block[key]
        else:
            block[key] = value
    return config


@pytest.fixture
def run_dir(tmp_path):
    write_json(tmp_path / "case.json", {"case": "case1", "config": CONFIG})
    return tmp_path


def test_json_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "case.json"
    value = {"a": [1, 2.5, None], "제목": "깊이", "b": {"c": True}}
    write_json(path, value)
    assert read_json(path) == value
    assert "깊이" in path.read_text(encoding="utf-8")  # for people to read
    assert [each.name for each in tmp_path.iterdir()] == ["case.json"]


def test_a_missing_file_is_an_empty_block(tmp_path):
    assert read_json(tmp_path / "status.json") == {}


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "status.json"
    path.write_text('{"state": "run')
    with pytest.raises(ValueError, match=r"status\.json is not JSON") as refused:
        read_json(path)
    assert "\n" not in str(refused.value)


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, stop = tmp_path / "status.json", threading.Event()
    seen: list[int] = []
    errors: list[Exception] = []
    write_status(tmp_path, "running", 0, "x" * 100_000, 0)

    def read():
        try:
            while not stop.is_set():
                seen.append(read_json(path)["step"])
        except (ValueError, KeyError, OSError) as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    step = 0
    while (step < 100 or len(seen) < 20) and not errors:
        step += 1
        write_status(tmp_path, "running", 0, "x" * 100_000, step)
    stop.set()
    reader.join()
    assert not errors
    assert seen == sorted(seen)
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_the_status_holds_what_supervisors_read(tmp_path):
    write_status(tmp_path, "pre-empted", 75, "run the same command again", 12)
    status = read_json(tmp_path / "status.json")
    assert status.keys() == {"state", "code", "message", "step", "updated"}
    assert (status["state"], status["code"], status["step"]) == ("pre-empted", 75, 12)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(status["updated"])
    assert abs(age) < datetime.timedelta(minutes=1)


def test_the_time_has_a_zone():
    assert datetime.datetime.fromisoformat(now()).tzinfo is not None


def test_a_run_that_has_not_begun_has_no_changes(tmp_path):
    assert check_unchanged(tmp_path, CONFIG) == []


def test_the_same_settings_are_no_change(run_dir):
    assert check_unchanged(run_dir, json.loads(json.dumps(CONFIG))) == []


def test_memory_may_be_saved_in_a_run_that_has_begun(run_dir):
    config = changed(bertds__model__gradient_checkpointing=True)
    assert check_unchanged(run_dir, config) == [
        "bertds.model.gradient_checkpointing: not given -> true"
    ]


def test_what_takes_effect_now_is_told(run_dir):
    config = changed(
        optimizer__params__lr=1e-4,
        bertds__run__num_epochs=None,
        bertds__run__max_steps=7,
        bf16__enabled=True,
    )
    assert check_unchanged(run_dir, config) == [
        "bertds.run.max_steps: not given -> 7",
        "bertds.run.num_epochs: 3 -> not given",
        "bf16.enabled: not given -> true",
        "optimizer.params.lr: 0.001 -> 0.0001",
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_batch_size": 128}, "train_batch_size: 256 -> 128"),
        ({"bertds__model__hidden_size": 128}, "bertds.model.hidden_size: 64 -> 128"),
        ({"bertds__model__norm": "post"}, 'bertds.model.norm: not given -> "post"'),
        ({"bertds__data__seq_len": None}, "bertds.data.seq_len: 256 -> not given"),
        ({"bertds__data__train": [{"name": "50k/en/train"}]}, "bertds.data.train"),
        ({"bertds__masking__mode": "static"}, 'bertds.masking.mode: "dynamic" -> "static"'),
        ({"bertds__run__seed": 1}, "bertds.run.seed: 0 -> 1"),
    ],
)
def test_what_the_batches_or_weights_depend_on_is_refused(run_dir, changes, named):
    with pytest.raises(ConfigError) as refused:
        check_unchanged(run_dir, changed(**changes))
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.code == 2
