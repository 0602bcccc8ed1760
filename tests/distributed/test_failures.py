"""Real faults of sockets, memory and compilations, and their error messages."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.distributed.failures import abandoned_compilations, translate_step_errors
from bertds.distributed.world import World
from bertds.errors import OutOfMemoryError
from tests.engine.test_engine import build, case_of, packs
from tests.helpers.launching import environment

MEET = """
import sys
from bertds.cli import run
from bertds.engine.process_group import init_process_group
from bertds.distributed.world import World
def meet() -> None:
    init_process_group(World.detect(), 2.0)
sys.exit(run("meet", meet, []))
"""


def meet(**variables: str) -> tuple[int, list[str]]:
    """Run a rank that joins; its exit code and its error messages."""
    code, said, _ = met(**variables)
    return code, said


def met(**variables: str) -> tuple[int, list[str], str]:
    """The same, with all of its output."""
    ended = subprocess.run(
        [sys.executable, "-c", MEET],
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    output = ended.stdout + ended.stderr
    said = [line for line in output.splitlines() if line.startswith("meet:")]
    return ended.returncode, said, output


@pytest.mark.dist
def test_a_port_in_use_is_an_error_message() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        code, said = meet(RANK="0", WORLD_SIZE="1", **place)
    assert code == 2
    assert len(said) == 1
    assert f"127.0.0.1:{port}" in said[0]
    assert "--master_port" in said[0]


@pytest.mark.dist
def test_missing_ranks_are_an_error_message() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code, said = meet(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert code == 70
    assert len(said) == 1
    assert "rank 0 on" in said[0]
    assert "for 2 ranks" in said[0]


@pytest.mark.dist
def test_an_unresponsive_rank_is_an_error_message() -> None:
    """Like a rank 0 that was stopped: its port accepts connections, and nobody reads them."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = str(mute.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        code, _, output = met(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", **place)
    assert code == 70
    assert f"while waiting for all ranks at 127.0.0.1:{port}" in output
    assert "rank 1 on" in output


def test_out_of_memory_names_the_micro_batch(device: torch.device, tmp_path: Path) -> None:
    """An allocation beyond any machine, in the middle of a real step."""
    engine, _ = build(case_of(tmp_path), device)

    def grow(*_: Any) -> None:
        torch.empty(1 << 45)

    hook = engine.deepspeed.module.register_forward_pre_hook(grow)
    with pytest.raises(OutOfMemoryError) as full:
        engine.train_step(packs(0, 2), 0, stop=False)
    hook.remove()
    engine.close()
    assert full.value.code == 2
    assert "rank 0 on" in str(full.value)
    assert "a micro-step of 4 sequences" in str(full.value)
    assert "run.max_micro_batch_size" in str(full.value)
    assert "\n" not in str(full.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_out_of_memory_on_the_device() -> None:
    with (
        pytest.raises(OutOfMemoryError, match="micro-step of 8"),
        translate_step_errors(World(), 8),
    ):
        torch.empty(1 << 45, device="cuda")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error in: NCCLUtils.hpp:1, Cuda failure 2 'out of memory'",
    ],
)
def test_out_of_memory_of_other_libraries(words: str) -> None:
    with (
        pytest.raises(OutOfMemoryError, match="micro-step of 8"),
        translate_step_errors(World(), 8),
    ):
        raise RuntimeError(words)


def test_a_stale_compilation_lock_is_named(tmp_path: Path) -> None:
    for name in ("py311_cpu/cpu_adam", "fused_adam", "fused_lion"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    old = (tmp_path / "fused_adam" / "lock").stat().st_mtime - 7200
    for name in ("py311_cpu/cpu_adam", "fused_adam"):
        os.utime(tmp_path / name / "lock", (old, old))
    found = abandoned_compilations(tmp_path)
    assert len(found) == 2
    assert "fused_adam/lock is 120 minutes old" in found[0]
    assert "cpu_adam/lock" in found[1]
    assert "delete it" in found[0]
    assert abandoned_compilations(tmp_path / "nowhere") == []
