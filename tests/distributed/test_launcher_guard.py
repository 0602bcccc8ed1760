"""Workers end when their launcher is gone, and when a rank is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertds.checkpoint.directory import list_checkpoints
from bertds.errors import RunLockedError
from bertds.io.json_files import read_json
from bertds.runs import lock
from bertds.runs.lock import locked
from tests.helpers.launching import (
    ROOT,
    assert_trained_alike,
    environment,
    free_port,
    kill_group,
    run,
)
from tests.helpers.launching import command as deepspeed_command
from tests.launch.test_train import BASE, arguments, wait_for_line, wait_for_state


def torchrun_command(processes: int, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"),
        f"--master_port={free_port()}",
        *(str(ROOT / "launch" / "train.py"), *arguments),
    ]


@pytest.mark.dist
def test_torchrun_equals_one_process(data_root: Path, tmp_path: Path) -> None:
    case = tmp_path / "case.json"
    case.write_text(json.dumps(BASE))
    settings = "run.max_steps=6,run.eval_every=6,model.hidden_dropout_prob=0.0"
    command = torchrun_command(2, *arguments(case, data_root, tmp_path / "two", settings))
    subprocess.run(command, env=environment(), check=True, timeout=600)
    code, output = run(0, *arguments(case, data_root, tmp_path / "one", settings))
    assert code == 0, output
    two, one = (tmp_path / name / "case" / "main" for name in ("two", "one"))
    assert read_json(two / "case.json")["resolved"]["world_size"] == 2
    assert_trained_alike(two, one)


def descendants(process: int) -> list[int]:
    """The descendants of a process, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(process, []))
    for one in found:
        found += children.get(one, [])
    return found


def alive(processes: list[int]) -> list[int]:
    """Those that run; zombies do not count."""

    def runs(process: int) -> bool:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    return [process for process in processes if runs(process)]


HANGS = """
import signal, sys, time
from bertds.distributed import launcher_guard
from bertds.distributed.world import World

signal.signal(signal.SIGTERM, lambda *_: None)  # ignores the request to stop
launcher_guard.GRACE_S = 0.5
launcher_guard.terminate_with_launcher(World(launcher="torchrun"))
print("watching", flush=True)
time.sleep(600)
"""
STARTS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_orphan_that_hangs_is_terminated(tmp_path: Path) -> None:
    """After the grace period, with the exit code for resuming."""
    command = [sys.executable, "-c", STARTS, HANGS]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment(), cwd=ROOT
        )
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "watching\n"
        process.kill()
        process.wait()
        wait_for_end([child], 60)
    assert "its launcher is gone; saving, exiting within" in (tmp_path / "said").read_text()


Launch = Callable[..., tuple[subprocess.Popen[bytes], list[int], Path]]


@pytest.fixture
def launch(tmp_path: Path, data_root: Path) -> Iterator[Launch]:
    """Starts a long run on two ranks and waits for its first checkpoint."""
    path, out = tmp_path / "case.json", tmp_path / "out"
    path.write_text(json.dumps(BASE))
    settings = "run.max_steps=100000,run.save_every=5"
    started: list[subprocess.Popen[bytes]] = []
    below: list[int] = []

    def start(
        command: Callable[..., list[str]], changes: str = "scheduler=null"
    ) -> tuple[subprocess.Popen[bytes], list[int], Path]:
        process = subprocess.Popen(
            command(2, *arguments(path, data_root, out, f"{settings},{changes}")),
            env=environment(),
            stdout=(tmp_path / "output").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        run_dir = out / "case" / "main"
        wait_for_line(run_dir / "checkpoints" / "latest")
        below.extend(descendants(process.pid))
        return process, below, run_dir

    yield start
    for process in started:
        for one in alive(below):
            os.kill(one, signal.SIGKILL)
        if process.poll() is None:
            kill_group(process)
        process.wait()


def wait_for_end(processes: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := alive(processes):
        assert time.monotonic() < end, f"{left} outlived their launcher"
        time.sleep(0.1)


@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("command", "depth", "number"),
    [
        pytest.param(deepspeed_command, 0, signal.SIGKILL, id="deepspeed's runner, killed"),
        pytest.param(
            *(deepspeed_command, 0, signal.SIGTERM),
            id="deepspeed's runner, asked to end",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(deepspeed_command, 1, signal.SIGKILL),
            id="deepspeed's launch.py, killed",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(torchrun_command, 0, signal.SIGKILL), id="torchrun, killed", marks=pytest.mark.slow
        ),
    ],
)
def test_a_killed_launcher_leaves_a_checkpoint_and_no_orphan(
    launch: Launch, command: Callable[..., list[str]], depth: int, number: int
) -> None:
    process, below, run_dir = launch(command)
    os.kill([process.pid, *below][depth], number)
    process.wait(timeout=60)
    wait_for_end(below, 60)
    status: dict[str, Any] = wait_for_state(run_dir, "pre-empted", 1)
    assert status["code"] == 75
    assert int(list_checkpoints(run_dir)[0].name[5:]) == status["step"]
    assert read_json(list_checkpoints(run_dir)[0] / "manifest.json")["step"] == status["step"]


@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_lost_rank_ends_the_others_with_a_message(launch: Launch, tmp_path: Path) -> None:
    process, below, run_dir = launch(deepspeed_command)
    os.kill(second_of(below), signal.SIGKILL)
    process.wait(timeout=60)
    wait_for_end(below, 60)
    assert process.returncode != 0
    output = (tmp_path / "output").read_text()
    assert "rank 0 on" in output
    assert "lost the connection to another rank" in output
    assert read_json(run_dir / "status.json")["code"] == 70


def second_of(below: list[int]) -> int:
    """The process of rank 1."""
    return next(
        one for one in below if "--local_rank=1" in Path(f"/proc/{one}/cmdline").read_text()
    )


@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_second_job_is_rejected_and_a_stopped_rank_ends_the_others(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGSTOP the collective never returns. No rank hangs, and the stopped one ends too."""
    timeout_s = 20  # also of the rendezvous
    settings = f"scheduler=null,run.collective_timeout_s={timeout_s}"
    process, below, run_dir = launch(deepspeed_command, settings)
    monkeypatch.setattr(lock, "PATIENCE_S", 1.0)
    with pytest.raises(RunLockedError, match=f"{run_dir} is in use by process"), locked(run_dir):
        pass
    assert read_json(run_dir / "status.json")["state"] == "running"
    os.kill(second_of(below), signal.SIGSTOP)
    began = time.monotonic()
    status = wait_for_state(run_dir, "failed", 60)
    assert time.monotonic() - began < timeout_s + 15
    assert status["code"] == 70
    process.wait(timeout=90)
    wait_for_end(below, 60)
    assert process.returncode != 0
    output = (tmp_path / "output").read_text()
    assert "rank 0 on" in output
    assert "lost the connection to another rank" in output


def node_command(hosts: Path, port: int, node: int, *arguments: str) -> list[str]:
    """The command of one of two nodes with one process each."""
    deepspeed = deepspeed_command(2)[0]
    place = [f"--hostfile={hosts}", "--no_ssh", f"--node_rank={node}", "--master_addr=127.0.0.1"]
    program = str(ROOT / "launch" / "train.py")
    return [deepspeed, *place, f"--master_port={port}", program, *arguments]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_lost_node_ends_the_other_which_resumes_alone(data_root: Path, tmp_path: Path) -> None:
    """After SIGKILL to all of node 1 the other node ends within a minute, with a good checkpoint."""
    case, hosts, port = tmp_path / "case.json", tmp_path / "hostfile", free_port()
    case.write_text(json.dumps(BASE))
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    settings = "scheduler=null,run.save_every=5,run.max_steps"
    flags = arguments(case, data_root, tmp_path / "out", f"{settings}=100000")
    output = tmp_path / "output"
    nodes = [
        subprocess.Popen(
            node_command(hosts, port, node, *flags),
            env=environment() | {"DS_ACCELERATOR": "cpu"},
            stdout=output.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for node in range(2)
    ]
    run_dir = tmp_path / "out" / "case" / "main"
    below: list[list[int]] = [[], []]
    try:
        wait_for_line(run_dir / "checkpoints" / "latest")
        below = [descendants(node.pid) for node in nodes]
        for process in [nodes[1].pid, *below[1]]:
            os.kill(process, signal.SIGKILL)
        nodes[0].wait(timeout=60)
        wait_for_end(below[0], 60)
    finally:
        for process in alive([*(node.pid for node in nodes), *below[0], *below[1]]):
            os.kill(process, signal.SIGKILL)
        for node in nodes:
            node.wait()
    assert nodes[0].returncode != 0
    assert "rank 0 on" in output.read_text()
    assert "lost the connection to another rank" in output.read_text()
    assert read_json(run_dir / "status.json")["code"] == 70
    saved = int(list_checkpoints(run_dir)[0].name[5:])
    again = arguments(case, data_root, tmp_path / "out", f"{settings}={saved + 5}")
    code, said = run(0, *again)
    assert code == 0, said
    assert f"resuming from step {saved}" in said
