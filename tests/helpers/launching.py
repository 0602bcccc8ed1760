"""Starts the real programs from tests."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

ROOT = Path(__file__).resolve().parents[2]


# Below Linux's ephemeral ports, which may be taken before a program has imported torch and binds it.
# Each process that runs tests has a range of its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9")[2:])
_PORTS = itertools.count(15_000 + 1_000 * _WORKER + os.getpid() % 800)


def free_port() -> int:
    """A port that nothing is bound to, and that was not returned before."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def environment() -> dict[str, str]:
    """One thread per process, and no variables of this process's own group."""
    ours = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": path, "TQDM_MININTERVAL": "60"}


Launcher = Literal["deepspeed", "spawn"]


def command(
    processes: int,
    *arguments: str,
    program: str = "launch/train.py",
    launcher: Launcher = "deepspeed",
) -> list[str]:
    """`launch/train.py` under the deepspeed launcher or `spawn.py`, or (0 ranks) plain python."""
    program_line = [str(ROOT / program), *arguments]
    if processes == 0:
        return [sys.executable, *program_line]
    if launcher == "spawn":
        place = [str(processes), str(free_port())]
        return [sys.executable, str(ROOT / "tests/helpers/spawn.py"), *place, *program_line]
    deepspeed = shutil.which("deepspeed", path=environment()["PATH"])
    assert deepspeed is not None
    port = f"--master_port={free_port()}"
    return [deepspeed, f"--num_accelerators={processes}", port, *program_line]


def start(
    processes: int,
    *arguments: str,
    program: str = "launch/train.py",
    launcher: Launcher = "deepspeed",
) -> subprocess.Popen[str]:
    """Start it in a new process group, which `kill_group` ends."""
    return subprocess.Popen(
        command(processes, *arguments, program=program, launcher=launcher),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    os.killpg(process.pid, number)


def run(
    processes: int,
    *arguments: str,
    timeout: float = 600,
    program: str = "launch/train.py",
    launcher: Launcher = "deepspeed",
) -> tuple[int, str]:
    """Run it; the exit code and all output. Nothing outlives the timeout."""
    process = start(processes, *arguments, program=program, launcher=launcher)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            kill_group(process)
            process.wait()
    return process.returncode, output


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def figures_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines without values that depend on the clock."""
    timed = {"seconds", "cpu_seconds", "tokens_per_s", "data_wait", "mfu", "peak_memory"}
    timed |= {"forward", "backward", "update"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines_of(run_dir)]


def assert_trained_alike(run_dir: Path, reference_dir: Path) -> None:
    """Losses, norms and validation agree to 1e-5; padding differs with the micro-batch."""
    ours, reference = (
        [{k: v for k, v in line.items() if k != "padding"} for line in figures_of(each)]
        for each in (run_dir, reference_dir)
    )
    assert len(ours) == len(reference)
    for line, expected in zip(ours, reference, strict=True):
        assert line == pytest.approx(expected, rel=1e-5)
