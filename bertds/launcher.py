"""What launchers leave to their processes: a place to meet, and an end when the launcher is gone.

A killed `deepspeed` (or its `launch.py`) leaves its processes training on as orphans that hold
their devices, and Kubernetes or a supervisor kills just that one process. So each process watches
the one that started it, and under `deepspeed` the one above that as well: the runner, or on a
remote host the ssh session. When either is gone it asks itself to stop, as a signal would, so that
a checkpoint is written; what has not ended `GRACE_S` later is ended.
"""

import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from bertds.world import World

GRACE_S = 60.0
"""Seconds that an orphan has to save and end."""
ORPHANED = 75
"""Its exit code if it did not end by itself: run the same command again."""
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
# Below the ports that Linux hands out by itself (32768-60999).
_FIRST_PORT, _NUM_PORTS = 15_000, 15_000


def rendezvous(world: World, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which torch finds the other processes, completed.

    Args:
        world: This process.
        environment: What the launcher set; MASTER_ADDR and MASTER_PORT are kept if they are there.

    Raises:
        ValueError: There are several processes and nothing says where they meet.
    """
    return {
        "RANK": str(world.rank),
        "LOCAL_RANK": str(world.local_rank),
        "WORLD_SIZE": str(world.world_size),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _address(world, environment),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(world, environment)),
    }


def _address(world: World, environment: Mapping[str, str]) -> str:
    """The host of process 0."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if world.launcher == "slurm" and nodes:
        return first_host(nodes)
    if world.local_size < world.world_size:
        raise ValueError(
            f"MASTER_ADDR is not set, and {world.world_size} processes on several hosts need it: "
            "set it to the address of the first host"
        )
    return "127.0.0.1"


def _port(world: World, environment: Mapping[str, str]) -> int:
    """One that all processes arrive at without a word; where there is one process, a free one."""
    if world.world_size == 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
    job = [environment[name] for name in names if name in environment]
    if not job:
        raise ValueError(
            f"MASTER_PORT is not set, and {world.world_size} processes need one to meet at: set it "
            "to a free port of the first host"
        )
    return _FIRST_PORT + zlib.crc32(" ".join(job).encode()) % _NUM_PORTS


def first_host(nodes: str) -> str:
    """The first host of a Slurm list: of `rack[07-12,20],login` it is rack07.

    Args:
        nodes: As in SLURM_JOB_NODELIST.
    """
    head = re.match(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)*", nodes)
    assert head is not None  # it matches the empty text
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", head[0])


def end_with_launcher(world: World) -> None:
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
    os._exit(ORPHANED)


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
