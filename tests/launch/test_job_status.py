"""The answers for job files: the name of an arm, and whether to submit the job again."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.runs.status import State, write_status
from launch import job_status, train
from tests.helpers.launching import ROOT

CASE = ["--ds_config", str(ROOT / "ds_configs" / "case11.json")]


@pytest.fixture
def ask(capsys):
    def answer(*arguments: str) -> list[str]:
        assert job_status.main(list(arguments)) == 0
        return capsys.readouterr().out.split()

    return answer


def write(directory: Path, state: State, code: int, step: int) -> None:
    directory.mkdir(parents=True)
    write_status(directory, state, code, "a message", step)


@pytest.mark.parametrize(
    ("state", "code", "answer"),
    [
        ("pre-empted", 75, "resumable"),
        ("running", 75, "resumable"),  # killed before it could save
        ("failed", 70, "resumable"),
        ("failed", 71, "ended"),
        ("failed", 2, "ended"),
        ("done", 0, "ended"),
    ],
)
def test_a_run_is_resumable_if_the_same_command_would_continue_it(
    state: State, code: int, answer: str, tmp_path: Path, ask
) -> None:
    write(tmp_path / "case11" / "batch64_cosine", state, code, 40)
    found = ask("steps", *CASE, "--arm", "batch64_cosine", "--out", str(tmp_path))
    assert found == [answer, "40"]


def test_without_arm_the_steps_of_all_arms_count(tmp_path: Path, ask) -> None:
    write(tmp_path / "case10/lr5e-4", "done", 0, 30)  # an arm with same_as
    write(tmp_path / "case11/batch64_cosine", "failed", 70, 30)
    assert ask("steps", *CASE, "--out", str(tmp_path)) == ["resumable", "60"]


def test_the_arms_of_a_sweep_are_numbered_and_counted(tmp_path: Path, ask) -> None:
    sweep = ["--sweep", "run.seed=0|1", "--out", str(tmp_path)]
    names = [ask("arm", str(number), *CASE, *sweep)[0] for number in range(8)]
    assert len(set(names)) == 8
    assert names[-1] == "batch256_warmup_cosine_seed1"
    for name in names:
        write(tmp_path / "case11" / name, "done", 0, 10)
    assert ask("steps", *CASE, *sweep) == ["ended", "80"]


@pytest.mark.parametrize(("code", "answer"), [(0, "resumable"), (71, "ended")])
def test_a_job_between_two_arms_is_resumable(code: int, answer: str, tmp_path: Path, ask) -> None:
    """But not after an arm with a permanent failure, which would fail again."""
    write(tmp_path / "case10" / "lr5e-4", "failed" if code else "done", code, 30)
    assert ask("steps", *CASE, "--out", str(tmp_path)) == [answer, "30"]


def test_all_flags_of_the_training_are_accepted(ask) -> None:
    for command in (job_status.arm, job_status.steps):
        accepted = inspect.signature(command).parameters.keys() | job_status.IGNORED_FLAGS
        assert inspect.signature(train.main).parameters.keys() - {"arm"} <= accepted
    flags = ["--data", "d", "--out=o", "--set", "run.seed=1", "--profile"]
    assert ask("arm", *flags, "3", *CASE) == ["batch64_cosine"]


def test_an_array_task_without_an_arm_gets_an_error() -> None:
    script = [sys.executable, str(ROOT / "launch" / "job_status.py"), "arm", "5", *CASE]
    done = subprocess.run(script, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--array 0-4" in done.stderr
