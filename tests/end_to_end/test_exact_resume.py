"""Killed at any moment and restarted, a run equals the uninterrupted run."""

import contextlib
import itertools
import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertds.checkpoint.directory import list_checkpoints
from bertds.io.json_files import read_json
from tests.helpers.launching import figures_of, kill_group, lines_of, run, start
from tests.helpers.weights import read_weights

STEPS, EVAL_EVERY, SAVE_EVERY = 120, 15, 10
CASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 2e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    "scheduler": {
        "type": "WarmupCosineLR",
        "params": {"warmup_num_steps": 9, "warmup_type": "linear"},
    },
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
    "bertds": {
        "model": {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        },
        "data": {
            "train": [{"name": "ko"}, {"name": "en"}],
            "valid": {"ko": {"name": "ko"}, "en": {"name": "en"}},
            "seq_len": 64,
        },
        "run": {
            "max_steps": STEPS,
            "log_every": 1,
            "eval_every": EVAL_EVERY,
            "save_every": SAVE_EVERY,
            "max_micro_batch_size": 4,
        },
    },
}
Moment = Callable[[Path, random.Random, float], bool]
"""Whether to kill the run in this directory now. Arguments: directory, generator, start time."""


# Fewer steps and micro-steps, shorter validations, and no bf16, which many CPUs emulate.
QUICK = (
    "bf16.enabled=false,run.max_steps=45,run.max_micro_batch_size=8,"
    'data.valid={"ko":{"name":"ko","fraction":0.3},"en":{"name":"en","fraction":0.2}}'
)


def written(run_dir: Path) -> list[dict[str, Any]]:
    return lines_of(run_dir) if (run_dir / "metrics.jsonl").is_file() else []


def before_the_first_checkpoint(run_dir: Path, _: random.Random, __: float) -> bool:
    return bool(written(run_dir))


def while_a_checkpoint_is_written(run_dir: Path, _: random.Random, began: float) -> bool:
    """A draft of this start, not one that an earlier kill has left."""
    for draft in (run_dir / "checkpoints").glob("step_*.tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if draft.stat().st_mtime > began:
                return True
    return False


def while_validating(run_dir: Path, _: random.Random, __: float) -> bool:
    """The training line of a step exists, its validation line does not."""
    last = (written(run_dir) or [{"step": 1}])[-1]
    return last["step"] % EVAL_EVERY == 0 and "loss/train" in last


def in_or_between_steps(run_dir: Path, chance: random.Random, _: float) -> bool:
    """A random moment after the first new line."""
    status = read_json(run_dir / "status.json")
    if status.get("state") != "running" or not written(run_dir):
        return False
    if written(run_dir)[-1]["step"] <= status["step"]:
        return False
    time.sleep(chance.uniform(0, 0.3))
    return True


FOUR = [
    before_the_first_checkpoint,
    while_a_checkpoint_is_written,
    while_validating,
    in_or_between_steps,
]
TWO = FOUR[1:3]
TEN = [*FOUR, *FOUR[1:], *FOUR[1:]]


def kill_at(process: subprocess.Popen[str], run_dir: Path, moment: Moment, seed: int) -> bool:
    """Kill all processes at a moment; False if the run ended before."""
    chance, give_up = random.Random(seed), time.monotonic() + 300
    began, metrics = time.time(), run_dir / "metrics.jsonl"

    def has_written() -> bool:
        return metrics.is_file() and metrics.stat().st_mtime > began

    try:
        while not (has_written() and moment(run_dir, chance, began)):
            if process.poll() is not None:
                return False
            assert time.monotonic() < give_up, f"{moment.__name__} never came"
            time.sleep(0.002)
        return True
    finally:
        kill_group(process)
        process.communicate()


@pytest.mark.dist
@pytest.mark.parametrize(
    ("moments", "settings", "steps"),
    [
        pytest.param(TWO, QUICK, 45, id="two"),
        pytest.param(TEN, "", STEPS, id="ten", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_equals_an_uninterrupted_run(
    moments: list[Moment], settings: str, steps: int, tmp_path: Path, data_root: Path
) -> None:
    """Metrics and weights are bit-exact, and no line is missing or duplicated."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CASE))
    command = ["--ds_config", str(path), "--data", str(data_root)]
    command += [*(["--set", settings] if settings else []), "--out"]
    killed, straight = (tmp_path / name / "case" / "main" for name in ("killed", "straight"))
    code, output = run(2, *command, str(tmp_path / "straight"), launcher="spawn")
    assert code == 0, output
    seeds = itertools.count(len(moments))
    again = [*command, str(tmp_path / "killed")]
    kills = [
        kill_at(start(2, *again, launcher="spawn"), killed, moment, next(seeds))
        for moment in moments
    ]
    assert sum(kills) >= len(moments) - 1, "the run was over before it could be killed so often"
    code, output = run(2, *again, launcher="spawn")
    assert code == 0, output
    assert "resuming from step" in output
    lines = lines_of(killed)
    assert [x["step"] for x in lines if "loss/train" in x] == list(range(1, steps + 1))
    validated = [x["step"] for x in lines if "loss/valid" in x]
    assert validated == list(range(EVAL_EVERY, steps + 1, EVAL_EVERY))
    assert figures_of(killed) == figures_of(straight)
    ours, reference = (read_weights(list_checkpoints(each)[0]) for each in (killed, straight))
    assert ours.keys() == reference.keys()
    assert all(ours[name].equal(reference[name]) for name in ours)
