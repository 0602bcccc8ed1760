"""What launchers leave to their processes: a place to meet, and an end when the launcher is gone.

A killed `deepspeed` (or its `launch.py`) leaves its processes training on as orphans that hold
their devices, and Kubernetes or a supervisor kills just that one process. So each process watches
the one that started it, and under `deepspeed` the one above that as well: the runner, or on a
remote host the ssh session. When either is gone it asks itself to stop, as a signal would, so that
a checkpoint is written; what has not ended `GRACE_S` later is ended.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from bertds.distributed.world import World
from bertds.errors import ExitCode

GRACE_S = 60.0
"""Seconds that an orphan has to save and end."""
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


def terminate_with_launcher(world: World) -> None:
    """Ask this process to stop when its launcher is gone, and end it `GRACE_S` later.

    The request is SIGTERM to itself. A process that a user started by hand may outlive the shell.

    Args:
        world: This process.
    """
    if world.launcher == "none":
        return
    watched = {os.getpid(): os.getppid()}
    if world.launcher == "deepspeed":
        watched[os.getppid()] = _parent_of(os.getppid())
        # Imports take seconds, in which a launcher may die.
        watched = {child: _unless_adopted(child, parent) for child, parent in watched.items()}
    if sys.platform == "linux":
        # At once, and even while the interpreter is held up; the thread sees what this cannot.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    threading.Thread(target=_watch, args=(watched,), daemon=True, name="launcher-guard").start()


def _watch(parents: dict[int, int]) -> None:
    """Wait until a process has another parent than it had."""
    while all(_parent_of(child) == parent for child, parent in parents.items()):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    _say(f"process {os.getpid()}: its launcher is gone; saving, and ending within {GRACE_S:.0f} s")
    time.sleep(GRACE_S)
    os._exit(ExitCode.PREEMPTED)


def _say(sentence: str) -> None:
    """Print, in every process; where nobody reads any more, let nothing fail on it from now on."""
    try:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - whatever the log's level
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)


def _unless_adopted(child: int, parent: int) -> int:
    """The parent, or 0 if it is a stranger that took over an orphan."""
    return 0 if parent == 1 and os.getsid(1) != os.getsid(child) else parent


def _parent_of(process: int) -> int:
    """The parent of a process; 0 if it is gone, or nobody can tell."""
    if process == os.getpid():
        return os.getppid()
    try:
        # The name, in brackets, may hold anything.
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
