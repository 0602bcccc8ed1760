"""What a user is told when a run stops before its end."""

import logging
import re
import sys
from pathlib import Path

import pytest
import torch

from bertds.distributed.world import World
from bertds.training.preemption import PreemptionSignal, resume_advice
from tests.helpers.in_process_training import train_here


def test_a_stopped_run_names_its_checkpoint_and_how_to_resume(
    data_root: Path, tmp_path: Path, device: torch.device, told: pytest.LogCaptureFixture
) -> None:
    """The console and train.log name the reason, the checkpoint and the command."""
    told.set_level(logging.INFO, logger="bertds")
    assert train_here(data_root, tmp_path, device, "run.max_hours=1e-9") == 75
    run_dir = tmp_path / "case" / "main"
    log = (run_dir / "train.log").read_text()
    assert "asked to stop by the time limit run.max_hours: saving a checkpoint" in log
    stopped = re.search(r"stopped at step (\d+); checkpoint: (\S+); to resume, run again: ", log)
    assert stopped is not None
    assert Path(stopped[2]) == run_dir / "checkpoints" / f"step_{int(stopped[1]):010d}"
    assert (Path(stopped[2]) / "manifest.json").is_file()
    told.clear()
    assert train_here(data_root, tmp_path, device) == 0
    assert "to resume" not in told.text


def test_the_command_is_quoted_as_a_shell_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a launcher only its arguments are unknown; in an interpreter there is no command."""
    command = ["launch/train.py", "--local_rank=1", "--ds_config", "a case.json"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "orig_argv", ["python", *command])
    assert resume_advice(World(launcher="slurm")) == (
        "to resume, run the same slurm command again: … launch/train.py --ds_config 'a case.json'"
    )
    assert resume_advice(World()).startswith("to resume, run again: python launch/train.py")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert resume_advice(World()) == "to resume, train the same case again"


def test_the_reason_of_another_rank_is_not_claimed() -> None:
    """A rank that was not asked to stop itself says so."""
    assert PreemptionSignal().reason() == "another rank"
