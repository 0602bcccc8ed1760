"""Awkward paths, symbolic links, and a time limit."""

import signal
import time
from pathlib import Path

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.io.json_files import read_json
from bertds.report.case_report import write_report
from bertds.training.preemption import PreemptionSignal
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of
from tests.helpers.weights import read_weights


@pytest.mark.parametrize("name", ["두 단어 out", 'a\'b "c" $HOME;x'])
def test_a_run_directory_behind_a_symbolic_link(
    name: str, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """The link moves between two starts, and the checkpoint is found through it."""
    places = tmp_path / name, tmp_path / f"{name} moved"
    places[0].mkdir()
    link, data = tmp_path / f"{name} link", tmp_path / f"{name} data"
    link.symlink_to(places[0])
    data.symlink_to(data_root)
    settings = "scheduler=null,run.eval_every=12"
    assert train_here(data, link, device, f"{settings},run.max_steps=4") == 0
    places[0].rename(places[1])
    link.unlink()
    link.symlink_to(places[1])
    assert train_here(data, link, device, settings) == 0
    run_dir = places[1] / "case" / "main"
    steps = [line["step"] for line in figures_of(run_dir) if "loss/train" in line]
    assert steps == list(range(1, 13))
    assert read_weights(list_checkpoints(run_dir)[0])
    assert write_report(link / "case").record.read_text().startswith("# case")


def test_max_hours_counts_from_the_start_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the start of an arm: the time limit is that of the job."""
    now = time.monotonic()
    request = PreemptionSignal()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3601)
    request.set_deadline(2)
    assert not request.is_set()
    request.set_deadline(1)  # the next arm
    assert request.is_set()


def test_a_second_ctrl_c_interrupts_and_handlers_are_restored() -> None:
    def of_the_caller(*_: object) -> None: ...

    before = signal.signal(signal.SIGINT, of_the_caller)
    try:
        request = PreemptionSignal()
        with request.listening():
            assert not request.is_set()
            signal.raise_signal(signal.SIGINT)
            assert request.is_set()
            signal.raise_signal(signal.SIGTERM)  # as a scheduler sends it
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is of_the_caller
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_stops_at_max_hours_and_resumes(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """It saves at the step it reached, code 75. Restarted until it is done, it misses nothing."""
    codes, settings = [], "run.max_hours=1e-9"
    run_dir = tmp_path / "out" / "case" / "main"
    while not codes or codes[-1] == 75:
        assert len(codes) < 12
        codes.append(train_here(data_root, tmp_path / "out", device, settings))
        status = read_json(run_dir / "status.json")
        assert status["code"] == codes[-1]
        assert int(list_checkpoints(run_dir)[0].name.removeprefix("step_")) == status["step"]
    assert codes[-1] == 0
    assert len(codes) > 2
    assert train_here(data_root, tmp_path / "straight", device) == 0
    assert figures_of(run_dir) == figures_of(tmp_path / "straight" / "case" / "main")
