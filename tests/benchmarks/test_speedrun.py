"""The figures of the speedrun: minutes until a threshold, and the table of committed runs."""

import json

import pytest

from benchmarks.speedrun import publish as publishing
from benchmarks.speedrun.publish import minutes_until
from benchmarks.speedrun.setting import CASE, PEER_SIZES, SEQ_LEN, all_runs
from bertds.config.case import list_arms
from bertds.config.schema import ModelConfig
from bertds.planner.memory import count_parameters
from bertds.runs.case_file import read_case


def run_with(program: str, arm: str, seed: int, scale: float) -> dict:
    marks = [
        {"step": n, "core_minutes": n * scale, "tokens": n, "loss": 7 - n, "accuracy": 0.5 + n / 10}
        for n in range(1, 4)
    ]
    return {"program": program, "arm": arm, "seed": seed, "rate": None, "parameters": 9,
            "marks": marks, "versions": {}, "machine": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "threshold", "minutes"),
    [
        ("loss", 6, 10),
        ("loss", 5.5, 15),
        ("loss", 3.9, None),
        ("accuracy", 0.75, 25),
        ("loss", 9, 10),
    ],
)
def test_minutes_between_two_marks_are_interpolated(key, threshold, minutes):
    found = minutes_until(run_with("ours", "best", 0, 10), key, threshold)
    assert found == (minutes if minutes is None else pytest.approx(minutes))


def test_the_table_has_the_ratio_of_both_programs(tmp_path, monkeypatch):
    runs = [
        run_with("ours", "best", 0, 2),
        run_with("ours", "best", 1, 4),
        run_with("peer", "tuned", 0, 30),
    ]
    for number, run in enumerate(runs):
        (tmp_path / f"{number}.json").write_text(json.dumps(run))
    for name, value in {
        "RUNS": tmp_path, "RESULTS": tmp_path, "_PAGE": tmp_path / "page.md", "_PLOT": tmp_path / "plot.png",
        "LOSS_THRESHOLD": 5.0, "ACCURACY_THRESHOLD": 0.9,
    }.items():  # fmt: skip
        monkeypatch.setattr(publishing, name, value)
    publishing.publish()
    page = (tmp_path / "page.md").read_text()
    assert "- loss 5: ours takes 0.10 of the tuned peer's time" in page
    assert "- accuracy: not reached by both programs yet" in page
    assert "6.0 (4.0 to 8.0)" in page
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_every_arm_is_a_run_and_as_large_as_the_peer():
    """Within 5 %: other arms than the untied one, which has another matrix."""
    arms = [arm.name for arm in list_arms(CASE)]
    names = [run.name for run in all_runs([arm for arm in arms if arm != "best"])]
    assert len(set(names)) == len(names)
    vocabulary = 8_500
    peer = ModelConfig(
        preset="bert", **PEER_SIZES, max_position_embeddings=SEQ_LEN, type_vocab_size=2
    )
    expected = count_parameters(peer, vocabulary)
    for arm in arms:
        if arm != "untied":
            found = count_parameters(read_case(CASE, arm).bertds.model, vocabulary)
            assert found == pytest.approx(expected, rel=0.05), arm
