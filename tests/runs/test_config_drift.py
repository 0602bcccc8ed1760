"""Changed settings of a resumed run: allowed, or rejected because batches or weights depend on them."""

import json

import pytest

from bertds.errors import ConfigError
from bertds.io.json_files import write_json
from bertds.runs.config_drift import check_unchanged

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


def test_new_run_has_no_changes(tmp_path):
    assert check_unchanged(tmp_path, CONFIG) == []


def test_equal_settings_are_no_change(run_dir):
    assert check_unchanged(run_dir, json.loads(json.dumps(CONFIG))) == []


def test_gradient_checkpointing_may_change(run_dir):
    config = changed(bertds__model__gradient_checkpointing=True)
    assert check_unchanged(run_dir, config) == [
        "bertds.model.gradient_checkpointing: not given -> true"
    ]


def test_a_validation_set_may_be_added_but_not_changed(tmp_path):
    old, new = {"en": {"name": "en/valid"}}, {"ko": {"name": "ko/valid", "fraction": 0.5}}
    before = changed(bertds__data__valid=old)
    write_json(tmp_path / "case.json", {"case": "case1", "config": before})
    assert check_unchanged(tmp_path, changed(bertds__data__valid=old | new)) == [
        "bertds.data.valid.ko.fraction: not given -> 0.5",
        'bertds.data.valid.ko.name: not given -> "ko/valid"',
    ]
    for valid in ({}, new, {"en": {"name": "en/valid", "fraction": 0.5}}):
        with pytest.raises(ConfigError, match=r"bertds\.data\.valid"):
            check_unchanged(tmp_path, changed(bertds__data__valid=valid))


def test_allowed_changes_are_listed(run_dir):
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
    ("changes", "message"),
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
def test_changes_that_batches_or_weights_depend_on_are_rejected(run_dir, changes, message):
    with pytest.raises(ConfigError) as error:
        check_unchanged(run_dir, changed(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.code == 2
