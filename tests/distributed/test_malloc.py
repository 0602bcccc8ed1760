"""Freed memory stays with a process on glibc, unless a key or a variable says otherwise."""

import ctypes
import json
import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from bertds.config.case import read_case
from bertds.distributed import malloc
from bertds.distributed.world import World
from bertds.training import session
from bertds.training.setup import prepare_run
from tests.helpers.in_process_training import BASE

PROGRAM = """
import sys
import types
from pathlib import Path
import numpy as np
from bertds.distributed.malloc import keep_freed_memory

def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmRSS"))

kept = keep_freed_memory()
block = np.ones(16 << 20)  # 128 MB
before = resident()
del block
print(kept, before - resident() < 1000)
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@GLIBC
@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({}, "True True"),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, "False False"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, "False False"),
    ],
)
def test_freed_memory_is_kept(variables: dict[str, str], printed: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == printed


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not malloc.keep_freed_memory()


def test_an_older_glibc_gets_the_largest_threshold_that_it_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It rejects larger ones, and any setting ends the rise of the threshold from 128 KiB."""
    accepted: dict[int, int] = {}

    def mallopt(key: int, value: int) -> int:
        if key == -3 and value > 32 << 20:
            return 0
        accepted[key] = value
        return 1

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: types.SimpleNamespace(mallopt=mallopt))
    assert malloc.keep_freed_memory()
    assert accepted == {-1: (1 << 31) - 1, -3: 32 << 20}


@pytest.mark.parametrize(("settings", "calls"), [("", 1), ("run.keep_freed_memory=false", 0)])
def test_a_key_turns_it_off(
    settings: str,
    calls: int,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[int] = []
    monkeypatch.setattr(session, "keep_freed_memory", lambda: called.append(1))
    monkeypatch.setattr(session, "init_process_group", lambda *_: torch.device("cpu"))
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    (tmp_path / "run").mkdir()
    run = prepare_run(read_case(path, "main", settings), data_root, tmp_path / "run", World())
    with session.open_session([run], World()):
        assert len(called) == calls
