"""Ends the ranks of a launcher that is gone.

If `deepspeed` or its `launch.py` is killed, its workers continue as orphans that hold their devices.
Kubernetes and supervisors kill just that one process. So each worker watches its parent process and,
under `deepspeed`, the parent's parent too: the runner, or the ssh session on a remote host. When one
of them is gone the worker sends itself SIGTERM, so that it saves a checkpoint. If it has not exited
after `GRACE_S`, it is terminated.
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
"""Seconds that an orphaned worker has to save and exit."""
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


def terminate_with_launcher(world: World) -> None:
    """Send SIGTERM to this process when its launcher exits, and terminate it `GRACE_S` later.

    A process that a user started by hand may outlive its shell.
    """
    if world.launcher == "none":
        return
    parents = {os.getpid(): os.getppid()}
    if world.launcher == "deepspeed":
        parents[os.getppid()] = _parent_of(os.getppid())
        # The imports took seconds, in which a launcher may have died and init adopted the worker.
        # A launcher that is process 1 itself, in a container, has the worker's session.
        for child, parent in parents.items():
            if parent == 1 and os.getsid(1) != os.getsid(child):
                parents[child] = 0
    if sys.platform == "linux":
        # At once, and even while the interpreter is blocked. The thread sees the parent's parent.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    threading.Thread(target=_watch, args=(parents,), daemon=True, name="launcher-guard").start()


def _watch(parents: dict[int, int]) -> None:
    """Wait until a process has another parent than it had."""
    while all(_parent_of(child) == parent for child, parent in parents.items()):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    message = f"process {os.getpid()}: its launcher is gone; saving, exiting within {GRACE_S:.0f} s"
    try:
        print(message, file=sys.stderr, flush=True)  # noqa: T201 - whatever the log level
    except OSError:
        # Nobody reads the output any more: let no later write fail.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    time.sleep(GRACE_S)
    os._exit(ExitCode.PREEMPTED)


def _parent_of(process: int) -> int:
    """The parent of a process; 0 if the process is gone or unknown."""
    if process == os.getpid():
        return os.getppid()
    try:
        # The process name, in brackets, may hold any character.
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
