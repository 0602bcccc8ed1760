"""Weights, moments and averages move between ZeRO stages, precisions and world sizes bit-exact."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.gloo import ROOT, run

WORKER = ROOT / "tests" / "helpers" / "workers" / "checkpoint.py"
pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each stage and precision, written by two ranks."""
    scratch = tmp_path_factory.mktemp("saved")
    run(WORKER, 2, "save_all", scratch / "runs", scratch=scratch)
    return scratch / "runs"


def check(result: dict[str, Any]) -> None:
    """After loading everything is bit-exact, and the next step is equal within rounding."""
    assert result["loaded"] == 0.0, result
    assert result["fresh"], result
    assert result["rates"], result
    assert result["progress"], result
    before, after = result["source"].split()[0], result["into"].split()[0]
    if before == after == "fp32":
        assert result["after"] < 1e-6, result
        assert result["loss"] < 1e-5, result
    else:
        # An update of Adam is at most about the rate, 0.01; gradients differ by bf16's rounding.
        assert result["after"] < 5e-4, result


def test_every_stage_loads_into_every_other(saved: Path, tmp_path: Path) -> None:
    results = run(WORKER, 2, "load_stages", saved, scratch=tmp_path)
    for result in results:
        check(result)
        if result["source"] == result["into"]:
            assert result["after"] == 0.0, result
            assert result["loss"] == 0.0, result
    assert len(results) == 32


@pytest.mark.parametrize("world_size", [1, 3])
def test_other_world_sizes_and_precisions(saved: Path, tmp_path: Path, world_size: int) -> None:
    results = run(WORKER, world_size, "load_some", saved, scratch=tmp_path)
    for result in results:
        check(result)
    assert len(results) in (8, 16)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_combinations(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for world_size in (1, 2, 3):
        run(WORKER, world_size, "save_all", runs, scratch=tmp_path)
    results = []
    for world_size in (1, 2, 3):
        results += run(WORKER, world_size, "load_all", runs, scratch=tmp_path, timeout=1500)
    for result in results:
        check(result)
    assert len(results) == 24 * 24


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of several scenarios in one start of two ranks."""
    scratch = tmp_path_factory.mktemp("told")
    scenarios = "pairs+settings+start+refusals+average"
    return run(WORKER, 2, scenarios, scratch / "runs", scratch=scratch)


def of(scenario: str, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in told if result["scenario"] == scenario]


def test_options_optimizers_schedules_and_fp16(told: list[dict[str, Any]]) -> None:
    results = of("pairs", told)
    for result in results:
        check(result | {"source": result["precision"], "into": result["precision"]})
    assert len(results) >= 20


def test_a_changed_case_keeps_only_the_position(told: list[dict[str, Any]]) -> None:
    (result,) = of("settings", told)
    # WarmupLR after 3 updates: linear, 2 of 4 steps of the new warm-up to the new rate.
    assert result["rates"] == [0.002, 0.002]
    assert result["decays"] == [0.3, 0.0]
    assert result["betas"] == [[0.8, 0.99]] * 2
    assert (result["global_steps"], result["micro_steps"]) == (3, 3)


def test_the_initial_step_is_undone(told: list[dict[str, Any]]) -> None:
    (result,) = of("start", told)
    stage_0, stage_1 = result["losses"]
    assert stage_0 == pytest.approx(stage_1, rel=1e-5)


def test_the_moving_average_equals_one_of_the_whole_weights(told: list[dict[str, Any]]) -> None:
    """Bit-exact at every stage, however the weights are divided."""
    results = of("average", told)
    assert [result["off"] for result in results] == [0.0] * 8, results
    assert all(result["far"] > 1e-3 for result in results), results


def test_unsavable_optimizers_are_rejected_at_the_start(told: list[dict[str, Any]]) -> None:
    (said,) = of("refusals", told)
    assert "Adafactor" in said["Adafactor"]
    assert said["AdamW"] == ""
