"""Reading the arms of a case: links to other cases, restarts, interpolation, malformed files."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorboard

from bertds.report.curves import COLOURS
from bertds.report.run_data import MEASURES, Series, load_arms
from tests.helpers.fake_runs import config, lines_of, write_run, write_same


def test_an_arm_may_link_to_the_run_of_another_case(case6):
    root = case6.parent
    write_same(root, "case7", "decay1e-4", "case6/layers3")
    write_same(root, "case8", "merges30k", "case7/decay1e-4")  # over two cases
    for case in ("case7", "case8"):
        (arm,) = load_arms(root / case)
        assert len(arm.lines) == 36
        assert arm.case["config"] == config(layers=3)


@pytest.mark.parametrize("target", ["../../etc/passwd", "case6", "case6/..", "/abs/olute", "a/b/c"])
def test_a_link_out_of_the_cases_is_rejected(tmp_path, target):
    write_same(tmp_path, "case7", "decay1e-4", target)
    with pytest.raises(ValueError, match="same_as is"):
        load_arms(tmp_path / "case7")


def test_a_cycle_of_links_is_rejected(tmp_path):
    write_same(tmp_path, "case7", "a", "case8/b")
    write_same(tmp_path, "case8", "b", "case7/a")
    with pytest.raises(ValueError, match="leads back"):
        load_arms(tmp_path / "case7")


def test_values_between_two_points_are_interpolated():
    at = {measure: np.array([2.0, 4.0, 8.0]) for measure in MEASURES}
    series = Series(values=np.array([1.0, 2.0, math.nan]), at=at)
    assert [series.value_at("tokens", progress) for progress in (2, 3, 4)] == [1.0, 1.5, 2.0]
    assert math.isnan(series.value_at("tokens", 1.9))
    assert math.isnan(series.value_at("tokens", 5))
    last = Series(values=np.array([1.0, 2.0]), at={key: at[key][:2] for key in MEASURES})
    assert last.value_at("step", 100) == 2.0


def test_seconds_continue_over_a_restart(tmp_path):
    lines = lines_of(20)
    for line in lines:
        line["seconds"] = line["step"] - (10 if line["step"] > 10 else 0)
    write_run(tmp_path, "case1", "layers4", lines)
    (arm,) = load_arms(tmp_path / "case1")
    assert arm.series("loss/train").at["seconds"].tolist() == list(range(1, 21))


def test_directories_that_are_not_a_case_are_rejected(case6, tmp_path):
    (tmp_path / "empty").mkdir()
    for directory, words in (
        (case6 / "layers2", "run directory of one arm"),
        (tmp_path / "empty", "has no runs"),
        (tmp_path / "missing", "has no runs"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            load_arms(directory)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
@pytest.mark.parametrize("name", ["case.json", "status.json"])
def test_a_malformed_file_is_named(case6, name, content):
    (case6 / "layers3" / name).write_text(content)
    with pytest.raises(ValueError, match=f"layers3/{name} .*JSON"):
        load_arms(case6)


def test_colours_follow_the_order_of_starts(tmp_path):
    """As in TensorBoard, which lists runs by the time of their first event, and knows no links."""
    starts = {"a": "2026-02-01T12:00:00+00:00", "b": "2026-02-01T12:30:00+09:00", "c": None}
    for arm, started in starts.items():
        content = write_run(tmp_path, "case1", arm, lines_of(5)) / "case.json"
        case = json.loads(content.read_text())
        case["resolved"]["started"] = started
        content.write_text(json.dumps(case))
    write_run(tmp_path, "case2", "early", lines_of(5))
    write_same(tmp_path, "case1", "0", "case2/early")
    colours = {arm.name: arm.colour for arm in load_arms(tmp_path / "case1")}
    assert colours == {"b": 0, "a": 1, "c": 2, "0": 3}
    palette = "[" + ",".join(f'"{colour}"' for colour in COLOURS) + "]"
    webfiles = Path(tensorboard.__file__).with_name("webfiles.zip")
    with zipfile.ZipFile(webfiles) as archive:
        assert f"tensorboardColorBlindAssist:{palette}" in archive.read("index.js").decode()
