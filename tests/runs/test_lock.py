"""The lock of a run directory: one job at a time, also after crashes and across hosts."""

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
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 1.0)
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(lock, "_POLL_S", 0.02)


def start_holder(directory: Path) -> "subprocess.Popen[str]":
    """Start another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_error_names_the_holder_and_sigkill_releases_the_lock(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "run")
    try:
        with pytest.raises(RunLockedError) as error, locked(tmp_path / "run"):
            pass
        message = str(error.value)
        assert f"in use by process {process.pid} on {os.uname().nodename} since 20" in message
        assert "another --out" in message
        assert error.value.code == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(tmp_path / "run"):
        holder = json.loads((tmp_path / "run" / NAME).read_text())
        assert holder["pid"] == os.getpid()


def test_job_waits_for_a_holder_that_ends_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 30.0)
    process = start_holder(tmp_path)
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    with locked(tmp_path):
        assert process.poll() is not None or process.wait(5)
    timer.join()


def test_holder_on_another_host_is_detected_by_its_heartbeat(tmp_path: Path) -> None:
    """Its flock may be invisible here. Without heartbeats, the lock is taken over."""
    path = tmp_path / NAME
    content = {"host": "elsewhere", "pid": 7, "since": "2024-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(content))
    ended = threading.Event()

    def send_heartbeats() -> None:
        while not ended.wait(0.1):
            os.utime(path, (0, time.monotonic()))  # its clock differs much from ours

    thread = threading.Thread(target=send_heartbeats)
    thread.start()
    with pytest.raises(RunLockedError, match="process 7 on elsewhere since 2024"), locked(tmp_path):
        pass
    ended.set()
    thread.join()
    with locked(tmp_path):
        assert json.loads(path.read_text())["host"] == os.uname().nodename


def test_without_flock_a_holder_on_the_same_host_is_detected_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder's own heartbeats; after it has ended, the lock is taken over."""

    def fail(file: int, operation: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with locked(tmp_path), pytest.raises(RunLockedError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}'])
def test_incomplete_lock_file_locks_nobody_out(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    (tmp_path / NAME).write_text(content)
    with locked(tmp_path), pytest.raises(RunLockedError), locked(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_read_only_file_system_is_an_immediate_error(tmp_path: Path) -> None:
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
