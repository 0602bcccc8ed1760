"""Loss spikes: back to the last checkpoint, and past the batches around the spike."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.schema import RunConfig
from bertds.engine.engine import Engine
from bertds.errors import NonFiniteError
from bertds.training.spike_guard import LossSpike, SkippedRange, check_for_spike, find_skip
from tests.engine.test_nonfinite_steps import bad_lines, spoilt
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of, kill_group, run, start
from tests.helpers.weights import read_weights
from tests.launch.test_train import BASE, arguments, wait_for_line

# Twelve steps of a loss near 6, saved at 4 and 8; a spike at step 7 skips steps 6 to 8.
GUARD = "run.spike_sigmas=20,run.spike_window=3,run.spike_skip=1,run.eval_every=12"


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return read_weights(list_checkpoints(out / "case" / "main")[0])


def assert_same(ours: Path, reference: Path) -> None:
    """Equal metrics, and weights bit-exact."""
    assert figures_of(ours / "case" / "main") == figures_of(reference / "case" / "main")
    weights, expected = weights_of(ours), weights_of(reference)
    assert all(weights[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_around_a_spike_have_no_effect(
    stage: int,
    device: torch.device,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    """The run equals one in which the same steps were skipped because they were non-finite."""
    setting = f"zero_optimization.stage={stage}"
    ours, reference = tmp_path / "spike", tmp_path / "nan"
    with spoilt(monkeypatch, {6}, 1000.0):
        assert train_here(data_root, ours, device, f"{GUARD},{setting}") == 0
    with spoilt(monkeypatch, {5, 6, 7}, math.nan):
        assert train_here(data_root, reference, device, f"run.eval_every=12,{setting}") == 0
    skipped, bad = bad_lines(ours), bad_lines(reference)
    assert [line["step"] for line in skipped] == [6, 7, 8]
    assert [line["sequences"] for line in skipped] == [line["sequences"] for line in bad]
    assert {line["spike"]["step"] for line in skipped} == {7}
    assert skipped[0]["spike"]["loss"] > 100
    without = [
        [
            {k: v for k, v in line.items() if k != "tokens"}
            for line in figures_of(each / "case/main")
        ]
        for each in (ours, reference)
    ]
    assert without[0] == without[1]
    weights, expected = weights_of(ours), weights_of(reference)
    assert all(weights[name].equal(expected[name]) for name in expected)
    (said,) = [message for message in told.messages if "had a loss of" in message]
    assert "step 7 had a loss of" in said
    assert "going back to a checkpoint; the batches of steps 6 to 8" in said


def test_a_line_after_skipped_steps_only_has_no_learning_rate(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes back to step 4 and skips 5 to 7. The line of step 6 then has a loss only."""
    settings = f"{GUARD},run.log_every=3"
    with spoilt(monkeypatch, {5}, 1000.0):
        assert train_here(data_root, tmp_path, device, settings) == 0
    assert [line["step"] for line in bad_lines(tmp_path)] == [5, 6, 7]
    lines = [line for line in figures_of(tmp_path / "case" / "main") if "loss/train" in line]
    assert 6 in [line["step"] for line in lines]
    for line in lines:
        assert ("lr" in line) == ("grad_norm" in line) == (line["step"] != 6)
        assert line.get("lr", 1.0) > 0


def test_a_checkpoint_within_the_skipped_steps_is_not_used(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 8 is saved with weights that its update ruined; the loss spike is at step 9."""
    train_step: Any = Engine.train_step
    setting = "zero_optimization.stage=0"

    def wrecking(engine: Engine, packs: Any, step: int, **keys: Any) -> Any:
        reading = train_step(engine, packs, step, **keys)
        if step == 7:
            with torch.no_grad():
                for parameter in engine.deepspeed.module.parameters():
                    parameter.mul_(50.0)
        return reading

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", wrecking)
        assert train_here(data_root, tmp_path / "wrecked", device, f"{GUARD},{setting}") == 0
    with spoilt(monkeypatch, {7, 8, 9}, math.nan):
        settings = f"run.eval_every=12,{setting}"
        assert train_here(data_root, tmp_path / "nan", device, settings) == 0
    assert [line["step"] for line in bad_lines(tmp_path / "wrecked")] == [8, 9, 10]
    weights, expected = weights_of(tmp_path / "wrecked"), weights_of(tmp_path / "nan")
    assert all(weights[name].equal(expected[name]) for name in expected)


class KilledError(Exception):
    """Ends a run in the middle of a test."""


def test_a_run_killed_after_going_back_resumes_exactly(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the next checkpoint (the spike recurs), at it, and after it (the skip is saved)."""
    with spoilt(monkeypatch, {6}, 1000.0):
        assert train_here(data_root, tmp_path / "straight", device, GUARD) == 0
    train_step: Any = Engine.train_step
    seen: set[int] = set()
    deaths = [4, 8, 10]

    def dying(engine: Engine, packs: Any, step: int, **keys: Any) -> Any:
        went_back = 6 in seen or step > 6
        seen.add(step)
        if went_back and deaths[:1] == [step]:
            deaths.pop(0)
            raise KilledError
        return train_step(engine, packs, step, **keys)

    while deaths:
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "train_step", dying)
            with spoilt(monkeypatch, {6}, 1000.0), pytest.raises(KilledError):
                train_here(data_root, tmp_path / "killed", device, GUARD)
    with spoilt(monkeypatch, {6}, 1000.0):
        assert train_here(data_root, tmp_path / "killed", device, GUARD) == 0
    assert_same(tmp_path / "killed", tmp_path / "straight")
    assert bad_lines(tmp_path / "killed") == bad_lines(tmp_path / "straight")


def test_without_a_checkpoint_a_spike_is_warned_of_and_training_continues(
    device: torch.device,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    with spoilt(monkeypatch, {3}, 1000.0):
        assert train_here(data_root, tmp_path, device, f"{GUARD},run.save_every=12") == 0
    assert any("no checkpoint to go back to" in message for message in told.messages)
    assert not (tmp_path / "case" / "main" / "bad_steps.jsonl").exists()


def test_too_many_spikes_end_the_run(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GUARD.replace("skip=1", "skip=0")
    with (
        spoilt(monkeypatch, {5, 6, 9}, 1000.0),
        pytest.raises(NonFiniteError, match="has gone back for 2 such spikes already") as ended,
    ):
        train_here(data_root, tmp_path, device, f"{settings},run.max_spikes=2")
    assert ended.value.code == 71
    assert list_checkpoints(tmp_path / "case" / "main")[0].name == "step_0000000008"
    assert [line["step"] for line in bad_lines(tmp_path)] == [6, 7]


def test_the_guard_fills_its_window_first_and_ignores_spikes() -> None:
    settings = RunConfig(max_steps=9, spike_sigmas=6.0, spike_window=4, spike_skip=2)
    losses: list[float] = []
    for step, loss in enumerate((9.0, 5.0, 5.2, 5.1, 4.9, 5.0), 1):
        check_for_spike(settings, step, loss, losses, [], can_go_back=True)
    with pytest.raises(LossSpike) as spike:
        check_for_spike(settings, 7, 8.0, losses, [SkippedRange(1, 1, 1, 9.0)], can_go_back=True)
    assert spike.value.skips == [SkippedRange(1, 1, 1, 9.0), SkippedRange(5, 9, 7, 8.0)]
    assert losses == [5.2, 5.1, 4.9, 5.0]
    found = [find_skip(spike.value.skips, step) for step in range(1, 11)]
    assert [skip is not None for skip in found] == [True, *[False] * 3, *[True] * 5, False]
    check_for_spike(RunConfig(max_steps=9), 7, 8.0, losses, [], can_go_back=True)
    assert len(losses) == 4


@pytest.mark.slow
@pytest.mark.dist
def test_two_ranks_go_back_together_and_resume_after_a_kill(
    data_root: Path, tmp_path: Path
) -> None:
    """Real spikes under a sensitive guard, and a SIGKILL in between."""
    case = tmp_path / "case.json"
    case.write_text(json.dumps(BASE))
    nervous = "run.spike_sigmas=1.5,run.spike_window=8,run.spike_skip=1,run.max_spikes=999"
    settings = f"{nervous},run.max_steps=80,run.save_every=10,run.eval_every=80"
    code, output = run(2, *arguments(case, data_root, tmp_path / "straight", settings))
    assert code == 0, output
    lines = bad_lines(tmp_path / "straight")
    assert len({line["spike"]["step"] for line in lines}) > 2
    process = start(2, *arguments(case, data_root, tmp_path / "killed", settings))
    wait_for_line(tmp_path / "killed" / "case" / "main" / "bad_steps.jsonl")
    kill_group(process, signal.SIGKILL)
    process.communicate()
    code, output = run(2, *arguments(case, data_root, tmp_path / "killed", settings))
    assert code == 0, output
    assert_same(tmp_path / "killed", tmp_path / "straight")
    assert bad_lines(tmp_path / "killed") == lines
