"""All mistakes of a case file are reported at once, each with the place where a key belongs."""

import copy
import json
from typing import Any

import pytest

from bertds import cli
from bertds.__main__ import COMMANDS
from bertds.config.checks import check_content
from bertds.config.unsupported_keys import NESTED_AND_LEGACY_KEYS
from bertds.errors import ConfigError
from bertds.training.case_check import read_cases
from tests.helpers.in_process_training import BASE

# Mistakes in different parts of a file: the path, a wrong value, and a part of the message.
MISTAKES: list[tuple[str, Any, str]] = [
    ("train_batch_size", "auto", 'train_batch_size is "auto"'),
    ("gradient_accumulation_steps", 4, "gradient_accumulation_steps may not be set"),
    ("gradient_clipping", -1, "gradient_clipping is -1"),
    ("optimizer.params.lr", "1e-4", 'optimizer.params.lr is "1e-4"'),
    ("optimizer.params.max_grad_norm", 1.0, "set gradient_clipping instead"),
    ("optimizer.params.momentum", 0.9, "unknown key 'optimizer.params.momentum'"),
    ("scheduler.params.warmup_num_steps", 0, "scheduler.params.warmup_num_steps is 0"),
    ("zero_optimization.cpu_offload", True, 'set zero_optimization.offload_optimizer to {"device"'),
    ("tensorboard.enabled", "yes", "tensorboard.enabled is "),
    ("zero_optimization.stage", 3.5, "zero_optimization.stage is 3.5"),
    ("fp16.enabled", 1, "fp16.enabled is 1"),
    ("bertds.model.hidden_size", 15, "which does not divide hidden_size 15"),
    ("bertds.data.train", "ko", 'bertds.data.train is "ko"'),
    ("bertds.masking.ratio", 15, "bertds.masking.ratio is 15"),
    ("bertds.run.max_steps", 0, "bertds.run.max_steps is 0"),
    ("bertds.run.eval_every", "1 step", "is not an interval"),
    ("zero_optimisation", {}, "did you mean 'zero_optimization'?"),
    ("arms", {}, "did you mean 'bertds.arms'?"),
]


def with_mistakes(*mistakes: tuple[str, Any, str]) -> dict[str, Any]:
    content = copy.deepcopy(BASE)
    for path, value, _ in mistakes:
        *blocks, key = path.split(".")
        block: Any = content
        for name in blocks:
            block = block.setdefault(name, {})
        block[key] = value
    return content


def texts_of(content: dict[str, Any]) -> list[str]:
    return [problem.text for problem in check_content(content).problems]


@pytest.fixture
def case_file(tmp_path):
    def write(content: dict[str, Any]):
        path = tmp_path / "case.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_no_mistake_hides_another(case_file):
    """A start reports as many problems as there are, and each as if it were alone."""
    path = case_file(with_mistakes(*MISTAKES))
    with pytest.raises(ConfigError) as rejected:
        read_cases([(path, "main")])
    first, *lines = str(rejected.value).splitlines()
    assert first == f"{path}: {len(MISTAKES)} problems"
    assert len(lines) == len(MISTAKES)
    for _, _, part in MISTAKES:
        assert sum(part in line for line in lines) == 1, part


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_a_mistake_has_one_message(case_file, mistake):
    path = case_file(with_mistakes(mistake))
    with pytest.raises(ConfigError) as rejected:
        read_cases([(path, "main")])
    assert str(rejected.value).startswith(f"{path} (arm main): ")
    assert mistake[2] in str(rejected.value)
    assert "\n" not in str(rejected.value)


def test_combinations_are_checked_beside_other_mistakes():
    content = with_mistakes(
        ("gradient_clipping", "no", ""),
        ("zero_optimization.stage", 0, ""),
        ("fp16.enabled", True, ""),
        ("bertds.data.seq_len", 65, ""),
        ("bertds.data.lanes", 5, ""),
    )
    clipping, *others = texts_of(content)
    assert clipping.startswith("gradient_clipping is")
    for part in ("data.seq_len is 65, above", "data.lanes is 5", "fp16.enabled is true at"):
        assert sum(part in text for text in others) == 1
    # What follows from a wrong value is not reported: the stage is unknown here.
    content["zero_optimization"]["stage"] = "auto"
    assert not any("fp16.enabled" in text for text in texts_of(content))
    assert any("data.seq_len is 65, above" in text for text in texts_of(content))


def test_fp16_with_lamb_gets_one_advice_that_can_be_followed():
    lamb = {"type": "Lamb", "params": {"lr": 1e-3, "weight_decay": 0.01}}
    for stage in (0, 1, 2):
        content = with_mistakes(
            ("optimizer", lamb, ""),
            ("zero_optimization.stage", stage, ""),
            ("fp16.enabled", True, ""),
        )
        (text,) = texts_of(content)
        assert "fp16.enabled is true and optimizer.type is Lamb" in text
        assert "use bf16 at stage 0, or AdamW at stage 1" in text
    content |= {"fp16": {"enabled": False}, "bf16": {"enabled": True}}
    content["zero_optimization"]["stage"] = 0
    assert not texts_of(content)
    content |= {"fp16": {"enabled": True}, "bf16": {"enabled": False}}
    content |= {"optimizer": BASE["optimizer"], "zero_optimization": {"stage": 1}}
    assert not texts_of(content)


@pytest.mark.parametrize(
    ("kind", "no_decay", "part"),
    [
        ("AdamW", None, ""),
        ("AdamW", ["bias"], ""),
        ("AdamW", ["norm"], "run.no_decay is ['norm']: weight decay would make the unused ids"),
        ("Lion", [], "run.no_decay is []: weight decay would make the unused ids likely"),
        ("StableAdamW", None, "optimizer.type is StableAdamW, whose mean over the output bias"),
        ("Lamb", None, "optimizer.type is Lamb, which would compare the norm of the output bias"),
    ],
)
def test_the_output_bias_of_a_padded_vocabulary_is_left_alone(kind, no_decay, part):
    content = with_mistakes(
        ("optimizer", {"type": kind, "params": {"lr": 1e-3, "weight_decay": 0.1}}, ""),
        ("bertds.run.no_decay", no_decay, ""),
        ("zero_optimization.stage", 0, ""),
    )
    assert not texts_of(content)
    content["bertds"]["model"]["pad_vocab_to_multiple_of"] = 64
    texts = texts_of(content)
    assert len(texts) == bool(part)
    assert all(text.startswith("model.pad_vocab_to_multiple_of is 64") for text in texts)
    assert all(part in text for text in texts)


@pytest.mark.parametrize("key", NESTED_AND_LEGACY_KEYS)
def test_a_legacy_key_is_answered_with_its_successor(key):
    (text,) = texts_of(with_mistakes((key, True, "")))
    assert text == f"{key} may not be set: {NESTED_AND_LEGACY_KEYS[key]}"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("arms", "'bertds.arms'"),
        ("model", "'bertds.model'"),
        ("max_steps", "'bertds.run.max_steps'"),
        ("seed", "'bertds.masking.seed' or 'bertds.run.seed'"),
        ("stage", "'zero_optimization.stage'"),
        ("warmup_steps", "'scheduler.params.warmup_num_steps'"),
        ("bertds.optimizer", "'optimizer'"),
        ("optimizer.params.warmup_num_steps", "'scheduler.params.warmup_num_steps'"),
        ("bertds.model.seq_len", "'bertds.data.seq_len'"),
    ],
)
def test_a_key_in_the_wrong_block_is_answered_with_its_place(path, place):
    (text,) = texts_of(with_mistakes((path, {}, "")))
    assert text == f"unknown key '{path}': did you mean {place}?"


def test_a_mistake_of_all_arms_is_named_once(case_file):
    content = with_mistakes(("steps_per_print", 0, ""))
    content["bertds"]["arms"] = {
        "a": {},
        "b": {"train_batch_size": 0},
        "c": {"train_batch_size": 0},
    }
    path = case_file(content)
    with pytest.raises(ConfigError) as rejected:
        read_cases([(path, arm) for arm in "abc"])
    first, *lines = str(rejected.value).splitlines()
    assert first == f"{path}: 2 problems"
    assert lines == [
        "  steps_per_print is 0, expected more than 0",
        "  (arm b, c): train_batch_size is 0, expected more than 0",
    ]


def test_a_mistake_in_several_files_names_them(tmp_path):
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, size in zip(paths, (0, 1), strict=True):
        path.write_text(json.dumps(with_mistakes(("train_batch_size", size, ""))))
    one, two = ((path, "main") for path in paths)
    with pytest.raises(ConfigError) as rejected:
        read_cases([one, two], "run.seed=x")
    assert str(rejected.value).splitlines() == [
        f"{paths[0]}, {paths[1]}: 2 problems",
        f"  {paths[0]} (arm main): train_batch_size is 0, expected more than 0",
        '  bertds.run.seed is "x", expected a whole number',
    ]
    with pytest.raises(ConfigError) as rejected:
        read_cases([two, one])
    assert str(rejected.value) == (
        f"{paths[0]} (arm main): train_batch_size is 0, expected more than 0"
    )


def test_the_command_checks_a_file_without_data(case_file, capsys):
    path = case_file(BASE)
    arguments = ["check", str(path), "--set=run.max_steps=11"]
    assert cli.run("bertds", COMMANDS, arguments) == 0
    warning, result = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: (arm main): the schedule takes 12 steps")
    assert result == f"{path}: no mistakes (arms: main)"
    assert cli.run("bertds", COMMANDS, [*arguments, "--set=train_batch_size=auto,fp15=1"]) == 2
    assert capsys.readouterr().err.startswith("bertds: --set fp15: unknown path")
    arguments = ["check", str(path), "--set", "train_batch_size=auto", "--set", "run.keep_last=0"]
    assert cli.run("bertds", COMMANDS, arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"bertds: {path}: 2 problems",
        '  (arm main): train_batch_size is "auto", which is not supported: give a value',
        "  (arm main): bertds.run.keep_last is 0, expected more than 0",
    ]
