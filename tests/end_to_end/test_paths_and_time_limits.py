"""Where a run may lie, and when it stops: awkward paths, symbolic links, a limit of hours."""

import signal
import time
from pathlib import Path

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.io.json_files import read_json
from bertds.report.case_report import write_report
from bertds.train.preemption import PreemptionSignal
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of
from tests.helpers.weights import read_weights


@pytest.mark.parametrize("name", ["두 단어 out", 'a\'b "c" $HOME;x'])
def test_a_run_lies_behind_a_link_in_a_strange_place(
    name: str, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """The link is moved between two starts: what was saved there is found through it."""
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


def test_hours_count_from_the_start_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from that of an arm: a job's time limit knows no arms."""
    now = time.monotonic()
    request = PreemptionSignal()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3601)
    request.set_deadline(2)
    assert not request.is_set()
    request.set_deadline(1)  # the next arm
    assert request.is_set()


def test_a_second_ctrl_c_interrupts_and_what_was_heard_before_is_heard_again() -> None:
    def of_the_caller(*_: object) -> None: ...

    before = signal.signal(signal.SIGINT, of_the_caller)
    try:
        request = PreemptionSignal()
        with request.listening():
            assert not request.is_set()
            signal.raise_signal(signal.SIGINT)
            assert request.is_set()
            signal.raise_signal(signal.SIGTERM)  # a scheduler's, after it
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is of_the_caller
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_stops_at_its_hours_and_goes_on(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Saved at the step it reached, code 75; started again until it is done, it has missed nothing."""
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
