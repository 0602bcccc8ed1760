"""What the job files ask: which arm, and whether to requeue."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.runs.status import State, write_status
from launch import job_status, train
from tests.helpers.launching import ROOT

CASE = ["--ds_config", str(ROOT / "ds_configs" / "case11.json")]


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch" / "job_status.py"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("state", "code", "answer"),
    [
        ("pre-empted", 75, "resumable"),
        ("running", 75, "resumable"),  # killed without a chance to save
        ("failed", 70, "resumable"),
        ("failed", 71, "ended"),
        ("failed", 2, "ended"),
        ("done", 0, "ended"),
    ],
)
def test_resumable_means_the_same_command_resumes(
    state: State, code: int, answer: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "case11" / "batch64_cosine"
    run_dir.mkdir(parents=True)
    write_status(run_dir, state, code, "a sentence", 40)
    done = ask("steps", *CASE, "--arm", "batch64_cosine", "--out", str(tmp_path))
    assert done.stdout.split() == [answer, "40"]


def test_steps_of_all_arms_are_summed(tmp_path: Path) -> None:
    for arm, state, code in (("case10/lr5e-4", "done", 0), ("case11/batch64_cosine", "failed", 70)):
        (tmp_path / arm).mkdir(parents=True)
        write_status(tmp_path / arm, state, code, "a sentence", 30)
    assert ask("steps", *CASE, "--out", str(tmp_path)).stdout.split() == ["resumable", "60"]


@pytest.mark.parametrize(("code", "answer"), [(0, "resumable"), (71, "ended")])
def test_arms_that_have_not_started_are_resumable_work(
    code: int, answer: str, tmp_path: Path
) -> None:
    """After a signal between two arms. Not if an arm failed with a code that a restart cannot fix."""
    run_dir = tmp_path / "case10" / "lr5e-4"
    run_dir.mkdir(parents=True)
    write_status(run_dir, "failed" if code else "done", code, "a sentence", 30)
    assert ask("steps", *CASE, "--out", str(tmp_path)).stdout.split() == [answer, "30"]


def test_all_flags_of_train_are_accepted() -> None:
    wanted = inspect.signature(train.main).parameters.keys()
    for question in (job_status.arm, job_status.steps):
        assert wanted - {"arm"} <= inspect.signature(question).parameters.keys()


def test_an_array_task_gets_an_arm_or_an_error_message() -> None:
    assert ask("arm", "3", *CASE).stdout.strip() == "batch64_cosine"
    refused = ask("arm", "5", *CASE)
    assert refused.returncode == 2
    assert "--array 0-4" in refused.stderr
