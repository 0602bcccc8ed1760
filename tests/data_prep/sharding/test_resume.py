"""Interrupted and killed runs: the same command resumes them, and the bytes are the same."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.executors.local import run_tasks
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from tests.data_prep.sharding.conftest import SMALL_SHARDS, StoppedError
from tests.data_prep.sharding.shard_contents import read_files, read_splits

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.usefixtures("small_pieces")
def test_interruptions_at_any_task_do_not_change_the_bytes(
    tmp_path, text, tokenizer_path, expected_splits, monkeypatch
):
    """Each run is stopped after 7 tasks and then resumed, until one finishes."""
    source, out = tmp_path / "text", tmp_path / "out"
    source.write_text("\n".join(text))
    budget = 0

    def stop_when_used_up(pool, workers, function, tasks):
        nonlocal budget
        for task in tasks:
            if budget == 0:
                raise StoppedError
            budget -= 1
            yield from run_tasks(pool, workers, function, [task])

    monkeypatch.setattr(stages, "run_tasks", stop_when_used_up)
    for runs in itertools.count(1):
        budget = 7
        with contextlib.suppress(StoppedError):
            make_shards(str(source), tokenizer_path, out, SMALL_SHARDS, 1)
            break
        assert not (out / "made.json").exists()
        assert not any(out.glob("*/index.json")) or runs > 2
    assert runs > 5
    assert read_splits(out) == expected_splits
    assert not (out / ".work").exists()


# The command with small chunks and groups, so that a kill hits one of many tasks.
COMMAND = """
import sys
from bertds.cli import run
from data_prep import __main__
from data_prep.readers import cleaning
from data_prep.sharding import stages

cleaning.CHUNK_BYTES = 30_000
stages.GROUP_BYTES = 15_000
if __name__ == "__main__":
    sys.exit(run("data_prep", __main__.COMMANDS))
"""


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_sigkill_in_any_stage_does_not_change_the_bytes(tmp_path, text, tokenizer_path, workers):
    many = [f"{line} {number}" for line in text for number in range(10)]
    (tmp_path / "text").write_text("\n".join(many))
    (tmp_path / "command.py").write_text(COMMAND)
    arguments = [
        sys.executable, str(tmp_path / "command.py"), "shard", f"--input={tmp_path}/text",
        f"--tokenizer={tokenizer_path}", f"--workers={workers}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    make_shards(f"{tmp_path}/text", tokenizer_path, tmp_path / "expected", ShardOptions(), 1)
    killed = []
    # Each run is killed after it has written a file in the stage's directory.
    for stage, delay_s in (("parts", 0.0), ("parts", 0.1), ("groups", 0.0), ("shards", 0.0)):
        directory = tmp_path / "out" / ".work" / stage
        earlier = set(directory.glob("*"))
        process = subprocess.Popen([*arguments, f"--out={tmp_path}/out"], **quiet)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if set(directory.glob("*")) - earlier:
                break
            time.sleep(0.002)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed.append(stage)
    assert killed.count("parts") > 0
    assert len(killed) > 2, killed
    subprocess.run([*arguments, f"--out={tmp_path}/out"], check=True, **quiet)
    assert read_files(tmp_path / "out") == read_files(tmp_path / "expected")
