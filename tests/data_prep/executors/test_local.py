"""Local worker processes that are killed, or whose parent is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertds.errors import LostWorkersError
from data_prep.executors.local import local_executor, run_tasks

ROOT = Path(__file__).resolve().parents[3]


def test_a_killed_worker_is_an_error_that_names_the_remedy():
    message = "a worker process was killed.*run the same command again"
    with (
        pytest.raises(LostWorkersError, match=message) as raised,
        local_executor(2) as (pool, num_workers),
    ):
        list(run_tasks(pool, num_workers, os._exit, [1]))
    assert raised.value.code == 70


def test_workers_exit_with_a_killed_parent(tmp_path):
    script = (
        "import time, os\nfrom data_prep.executors.local import local_executor, run_tasks\n"
        "if __name__ == '__main__':\n"
        "    with local_executor(2) as (pool, _):\n"
        "        list(run_tasks(pool, 2, time.sleep, [0.01] * 4))\n"
        "        print(*(p for p in pool._processes), flush=True)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, env=environment, text=True
    )
    children = [Path("/proc", number) for number in process.stdout.readline().split()]
    assert len(children) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(_is_running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_running(child) for child in children)


def _is_running(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
