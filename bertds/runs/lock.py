"""Locks a run directory, so that one job at a time uses it, also after a crash and across hosts.

`.lock` names its holder (host, pid, since) and is locked with `flock`, which the kernel releases
when the process ends for any reason. On some network file systems hosts do not see each other's
`flock`. So the holder also touches the file every `HEARTBEAT_S`, and another host takes over a lock
that is not touched for `PATIENCE_S`. Clocks of different hosts are never compared. A job waits up
to `PATIENCE_S` for a holder to finish, because a stopped job may still be saving. Acquiring the
lock also checks, before anything else starts, that the directory is writable.

The package filelock cannot replace this module. Its `flock` lock records no holder and has no
heartbeat. Its lease has a heartbeat but no `flock`, so a suspended job would lose it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertds.errors import RunLockedError
from bertds.runs.status import now

NAME = ".lock"
HEARTBEAT_S = 5.0
PATIENCE_S = 30.0
_POLL_S = 0.2
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it is missing.

    Raises:
        RunLockedError: Another job holds the lock, and does not release it within `PATIENCE_S`.
        OSError: The directory is not writable.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / NAME
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    released = threading.Event()

    def send_heartbeats() -> None:
        while not released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # just released, or a file system error
                os.utime(file)

    try:
        _acquire(file, path)
        threading.Thread(target=send_heartbeats, daemon=True, name="run-lock").start()
        yield
    finally:
        released.set()
        os.close(file)


def _acquire(file: int, path: Path) -> None:
    """Lock the file and write its holder. It is never deleted, because others may wait for it."""
    host = socket.gethostname()
    deadline = time.monotonic() + PATIENCE_S
    while (has_flock := _flock(file)) is False:
        if time.monotonic() > deadline:
            raise _locked_error(path, _read_holder(file))
        time.sleep(_POLL_S)
    holder = _read_holder(file)
    # With the flock, a holder on this host has ended. But another host's flock may be invisible.
    has_ended = has_flock and holder.get("host", host) == host
    if holder and not has_ended and _receives_heartbeats(file):
        raise _locked_error(path, holder)
    os.ftruncate(file, 0)
    content = {"host": host, "pid": os.getpid(), "since": now()}
    os.pwrite(file, json.dumps(content).encode(), 0)
    os.fsync(file)


def _flock(file: int) -> bool | None:
    """Whether we got the flock; None if the file system does not support it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return None
    return True


def _locked_error(path: Path, holder: dict[str, Any]) -> RunLockedError:
    process = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
    return RunLockedError(
        f"{path.parent} is in use by {process} since {holder.get('since', 'an unknown time')}: "
        "wait for it, stop it, or train into another --out"
    )


def _read_holder(file: int) -> dict[str, Any]:
    """The last holder; empty if there was none, or if it is just being written."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _receives_heartbeats(file: int) -> bool:
    """Whether a holder touches the file within `PATIENCE_S`."""
    before, deadline = os.fstat(file).st_mtime_ns, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if os.fstat(file).st_mtime_ns != before:
            return True
    return False
