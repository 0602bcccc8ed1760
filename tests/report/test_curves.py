"""Smoothing, thinning and axis limits of curves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.report.curves import (
    Baseline,
    Curve,
    Panel,
    axis_limits,
    extremes,
    label_side,
    metric_panels,
    running_mean,
    smoothing_window,
)
from bertds.report.run_data import load_arms
from tests.helpers.fake_runs import BASELINE, lines_of, write_run


def limits_of(y, *, smooth, baselines=()):
    curve = Curve(label="arm", arm=0, colour=0, x=np.arange(1.0, len(y) + 1), y=y, failed=False)
    lines = tuple(Baseline(value=value, text="", colour=None) for value in baselines)
    panel = Panel(key="loss/train", title="loss", curves=(curve,), smooth=smooth, baselines=lines)
    return axis_limits([panel])


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=40),
    half=st.integers(0, 6),
)
def test_the_running_mean_is_a_mean_of_neighbours(values, half):
    array = np.array(values)
    means = running_mean(array, 2 * half + 1)
    for index, value in enumerate(array):
        reach = min(half, index)
        window = array[index - reach : index + reach + 1]
        expected = np.nanmean(window) if np.isfinite(value) else math.nan
        assert means[index] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_one_huge_value_changes_only_the_means_of_its_neighbours():
    values = np.full(100, 2.0)
    values[5] = 1e17
    means = running_mean(values, 5)
    assert (means[8:] == 2.0).all()
    assert (means[3:8] > 1e15).all()


def test_the_smoothing_window_is_odd_and_grows_with_the_curve():
    widths = [smoothing_window(count) for count in range(200_000)]
    assert set(widths[:60]) == {1}
    assert widths[20_000] == 101
    assert max(widths) == 999
    assert all(width % 2 for width in widths)
    assert widths == sorted(widths)


@pytest.mark.parametrize("count", [100, 2000])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_spike_does_not_change_the_axis_limits(count, smooth):
    calm = 2.0 + np.exp(-np.arange(1.0, count + 1) / count * 3)
    spiked, gap = calm.copy(), calm.copy()
    spiked[count // 2] = 1000.0
    gap[10:40] = math.nan
    limits = [limits_of(y, smooth=smooth) for y in (calm, spiked, gap)]
    assert limits[1] == pytest.approx(limits[0], abs=0.02)
    assert limits[0][1] < 3
    assert limits[2][0] == pytest.approx(limits[0][0], abs=0.02)


def test_the_axis_limits_of_a_short_curve_contain_every_point():
    y = np.full(12, 3.0)
    y[6] = 9.0
    assert limits_of(y, smooth=True)[1] > 8.9


def test_thinning_keeps_the_ends_extremes_and_gaps():
    values = np.sin(np.arange(300_000) / 1e4)
    values[123_456], values[200_000], values[5:2000] = 3.0, -3.0, np.nan
    values[:2], values[-2:] = (0.0, 0.5), (0.5, 0.0)  # the ends are not extremes
    values[2], values[-3] = -0.5, -0.5
    kept = extremes(values, 800)
    assert len(kept) <= 800
    assert kept == sorted(set(kept))
    assert {0, 123_456, 200_000, 299_999} <= set(kept)
    assert np.isnan(values[kept]).any()
    assert extremes(values[:800], 800) == list(range(800))


def test_baselines_leave_half_of_the_axis_to_the_curves():
    y = np.linspace(3.0, 2.0, 40)
    without = limits_of(y, smooth=False)
    low, high = limits_of(y, smooth=False, baselines=(2.5, 3.9))
    assert low == pytest.approx(without[0], abs=0.05)
    assert 3.9 < high < 4.0
    assert limits_of(y, smooth=False, baselines=(1.2, 3.9))[0] < 1.2
    assert limits_of(y, smooth=False, baselines=(5.0, 0.1)) == without


def test_both_baselines_of_the_training_text_are_lines(tmp_path):
    """One for all arms if they agree; of an older run only the first is known."""
    neighbour = BASELINE | {"neighbour": {"loss": 4.25, "accuracy": 0.11}}
    write_run(tmp_path, "case1", "a", lines_of(9), baseline=neighbour)
    write_run(tmp_path, "case1", "b", lines_of(9), baseline=neighbour)
    (panel,) = metric_panels(load_arms(tmp_path / "case1"), "loss", "step")[1:]
    texts = ["unigram baseline 5.500", "neighbour baseline 4.250"]
    assert [(each.text, each.colour) for each in panel.baselines] == [(t, None) for t in texts]
    write_run(tmp_path, "case1", "old", lines_of(9))
    (panel,) = metric_panels(load_arms(tmp_path / "case1"), "loss", "step")[1:]
    assert [each.text for each in panel.baselines] == [texts[0], f"{texts[1]} (a and 1 more)"]


def test_the_text_of_a_baseline_is_at_the_end_that_is_farther_from_the_curves():
    x, y = np.arange(1.0, 101.0), np.linspace(7.0, 5.9, 100)
    falling = Curve(label="arm", arm=0, colour=0, x=x, y=y, failed=False)
    panel = Panel(key="loss/valid", title="", curves=(falling,))
    lines = [Baseline(value=value, text="", colour=None) for value in (6.0, 6.9)]
    assert [label_side(panel, line) for line in lines] == ["left", "right"]
    assert label_side(Panel(key="loss/valid", title="", curves=()), lines[0]) == "right"
