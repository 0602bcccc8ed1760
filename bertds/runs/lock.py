"""One job at a time in a run's directory, also after a crash and from several hosts.

`.lock` says who is there, and is held by `flock`: the kernel lets go when the process ends, however
it ends. Where hosts do not see each other's `flock` (some network file systems), the holder shows
that it lives by touching the file every `BEAT_S`; one that is not touched for `PATIENCE_S` is taken
over. Clocks of different hosts are never compared. As long is waited for a holder to end: a job that
was just stopped is still saving. Holding it shows that the directory can be written, before anything
else starts.
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
BEAT_S = 5.0
PATIENCE_S = 30.0
_POLL_S = 0.2
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Be the only job in a run's directory, which is made if it is missing.

    Raises:
        RunLockedError: Another job is there, and still is after `PATIENCE_S`.
        OSError: The directory cannot be written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / NAME
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    ended = threading.Event()
    try:
        _take(file, path)
        threading.Thread(target=_beat, args=(file, ended), daemon=True, name="run-lock").start()
        yield
    finally:
        ended.set()
        os.close(file)


def _take(file: int, path: Path) -> None:
    """Hold the file and write who holds it; it stays when released, for others may wait on it."""
    give_up = time.monotonic() + PATIENCE_S
    while (is_ours := _flock(file)) is False:
        if time.monotonic() > give_up:
            raise _refusal(path, _holder(file))
        time.sleep(_POLL_S)
    holder = _holder(file)
    if holder and not (is_ours and holder.get("host", _host()) == _host()) and _beats(file):
        raise _refusal(path, holder)
    os.ftruncate(file, 0)
    content = {"host": _host(), "pid": os.getpid(), "since": now()}
    os.pwrite(file, json.dumps(content).encode(), 0)
    os.fsync(file)


def _flock(file: int) -> bool | None:
    """Whether the kernel gives it to us; None where it has no say on this file system."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return None
    return True


def _refusal(path: Path, holder: dict[str, Any]) -> RunLockedError:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'some host')}"
    return RunLockedError(
        f"{path.parent} is in use by {who} since {holder.get('since', 'some time')}: wait for it, "
        "end it, or train into another --out"
    )


def _holder(file: int) -> dict[str, Any]:
    """Who wrote the file last; nothing if nobody has, or is just about to."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _beats(file: int) -> bool:
    """Whether somebody touches the file while we watch."""
    before, give_up = os.fstat(file).st_mtime_ns, time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        time.sleep(_POLL_S)
        if os.fstat(file).st_mtime_ns != before:
            return True
    return False


def _beat(file: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):  # released this moment, or a file system in trouble
            os.utime(file)


def _host() -> str:
    return socket.gethostname()
