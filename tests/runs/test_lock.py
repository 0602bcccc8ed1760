"""A run's directory has one job at a time, whatever became of the one before."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bertds.errors import RunLockedError
from bertds.runs import lock
from bertds.runs.lock import NAME, locked

HOLDER = """
import sys, time
from pathlib import Path
from bertds.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 1.0)
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "_POLL_S", 0.02)


def hold(directory: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_job_is_told_who_is_there(tmp_path: Path) -> None:
    """Killed with SIGKILL, the first one leaves the way free."""
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(RunLockedError) as refused, locked(tmp_path / "run"):
            pass
        said = str(refused.value)
        assert f"in use by process {process.pid} on {os.uname().nodename} since 20" in said
        assert "another --out" in said
        assert refused.value.code == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(tmp_path / "run"):
        holder = json.loads((tmp_path / "run" / NAME).read_text())
        assert holder["pid"] == os.getpid()


def test_one_that_is_about_to_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 30.0)
    process = hold(tmp_path)
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    with locked(tmp_path):
        assert process.poll() is not None or process.wait(5)
    timer.join()


def test_a_job_on_another_host_is_known_by_its_beat(tmp_path: Path) -> None:
    """Its flock may be invisible here: while the file is touched it lives, silent it is gone."""
    path = tmp_path / NAME
    content = {"host": "elsewhere", "pid": 7, "since": "2024-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(content))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            os.utime(path, (0, time.monotonic()))  # its clock is far from ours

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(RunLockedError, match="process 7 on elsewhere since 2024"), locked(tmp_path):
        pass
    ended.set()
    thread.join()
    with locked(tmp_path):
        assert json.loads(path.read_text())["host"] == os.uname().nodename


def test_without_flock_a_job_of_the_same_host_is_known_by_its_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, operation: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with locked(tmp_path), pytest.raises(RunLockedError), locked(tmp_path):
        pass
    with locked(tmp_path):  # it has ended
        pass


def test_the_holder_beats(tmp_path: Path) -> None:
    with locked(tmp_path):
        before = (tmp_path / NAME).stat().st_mtime_ns
        end = time.monotonic() + 20
        while (tmp_path / NAME).stat().st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}'])
def test_a_torn_file_locks_nobody_out(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    with locked(tmp_path), pytest.raises(RunLockedError), locked(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_read_only_file_system_is_found_at_once(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(target)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(OSError, match="Read-only"), locked(target / "case" / "main"):
            pass
    finally:
        subprocess.run(["umount", str(target)], check=True)
