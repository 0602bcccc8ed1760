"""The plots: what they show can be seen in the pixels."""

import io
import json
import math

import matplotlib.image
import numpy as np

from bertds.report.case_report import write_report
from bertds.report.curves import Baseline, Curve, Panel, metric_panels
from bertds.report.plots import draw_panels
from bertds.report.run_data import load_arms
from tests.helpers.fake_runs import lines_of, write_run


def pixels_of(png):
    return matplotlib.image.imread(io.BytesIO(png))


def draw_losses(case_dir):
    panels = metric_panels(load_arms(case_dir), "loss", "step")
    return pixels_of(draw_panels(panels, x="step", y_label="loss")["png"])


def assert_has_curves(image, least_fraction=0.002):
    height, width = image.shape[:2]
    assert width >= 1200
    assert height >= 600
    coloured = image[..., :3].std(axis=-1) > 0.1
    assert coloured.mean() > least_fraction


def test_every_plot_has_curves(case6):
    for path in write_report(case6).plots:
        assert_has_curves(matplotlib.image.imread(path))


def test_the_seam_of_two_stages_is_a_line(tmp_path):
    """A column of dots where the stage ends, in every plot against steps and time."""
    columns = []
    for name, stages in (("plain", []), ("staged", [("one", 20), ("two", 40)])):
        run = write_run(tmp_path, name, "main", lines_of(40))
        content = json.loads((run / "case.json").read_text())
        spans = [{"name": stage, "last_step": end} for stage, end in stages]
        content["resolved"] |= {"stages": spans} if spans else {}
        (run / "case.json").write_text(json.dumps(content))
        report = write_report(tmp_path / name)
        assert ("A dotted vertical line is the seam" in report.record.read_text()) == bool(stages)
        image = matplotlib.image.imread(report.plots[2])  # of the rate, whose curve is flat
        columns.append((image[..., :3].mean(axis=-1) < 0.6).sum(axis=0))
    height = image.shape[0]
    middle = slice(int(0.3 * columns[0].size), int(0.7 * columns[0].size))
    assert columns[1][middle].max() > columns[0][middle].max() + 0.15 * height
    assert "one up to step 20; two up to step 40" in (tmp_path / "staged/record.md").read_text()


def test_a_single_point_is_visible(tmp_path):
    write_run(tmp_path, "case1", "layers4", lines_of(1, eval_every=1))
    for path in write_report(tmp_path / "case1").plots:
        assert_has_curves(matplotlib.image.imread(path), least_fraction=1e-6)


def test_arms_that_log_different_metrics_are_drawn(tmp_path):
    """One logs no rates or times and has failed, one logs gaps, one has validations only."""
    bare = [
        {"step": line["step"], "loss/train": line["loss/train"]}
        for line in lines_of(100, log_every=50)
        if "loss/train" in line
    ]
    valid = [line for line in lines_of(60) if "loss/valid" in line]
    failed = {"state": "failed", "code": 71, "message": "", "step": 12}
    write_run(tmp_path, "case3", "bare", bare, status=failed)
    write_run(tmp_path, "case3", "valid", valid)
    for arm, value in (("null", None), ("nan", math.nan)):
        lines = [
            {k: value if 10 <= line["step"] < 16 and "loss" in k else v for k, v in line.items()}
            for line in lines_of(20)
        ]
        write_run(tmp_path, "case3", arm, lines)
    assert len(write_report(tmp_path / "case3").plots) == 5


def test_validation_sets_have_their_own_panels(tmp_path):
    write_run(tmp_path, "case3", "one", lines_of(20))
    write_run(tmp_path, "case4", "two", lines_of(20, sets=("ko", "en")))
    one, two = (draw_losses(tmp_path / case) for case in ("case3", "case4"))
    assert two.shape[0] > 1.5 * one.shape[0]


def test_more_arms_than_colours_are_drawn(tmp_path):
    for number in range(12):
        write_run(tmp_path, "case5", f"arm{number}", lines_of(20, loss=number))
    assert_has_curves(draw_losses(tmp_path / "case5"))


def test_a_first_fall_and_a_spike_do_not_compress_the_curves():
    """The same curves with an outlier at the first step give the same picture elsewhere."""
    x = np.arange(1.0, 501.0)
    calm = 2.0 + np.exp(-x / 50)
    spiked = calm.copy()
    spiked[0], spiked[300] = 1e4, 1e3
    images = []
    for y in (calm, spiked):
        curve = Curve(label="arm", arm=0, colour=0, x=x, y=y, failed=False)
        panel = Panel(key="loss/valid", title="validation", curves=(curve,))
        images.append(pixels_of(draw_panels([panel], x="step", y_label="loss")["png"]))
    assert images[0].shape == images[1].shape
    assert np.mean(np.abs(images[0] - images[1]) > 0.2) < 0.02
    assert np.array_equal(images[0][:, :100], images[1][:, :100])  # the ticks of the y axis


def test_other_formats_show_the_same_and_depend_on_nothing_else(case6):
    """An arm's colour, its name and the baseline, and the same bytes at another time."""
    panels = metric_panels(load_arms(case6), "loss", "step")
    files, again = (
        draw_panels(panels, x="step", y_label="loss", formats=("svg", "pdf")) for _ in range(2)
    )
    assert files == again
    assert files["pdf"].startswith(b"%PDF-")
    svg = files["svg"].decode()
    assert all(colour in svg for colour in ("#ff7043", "#0077bb", "#cc3311"))
    assert "<!-- layers10 -->" in svg
    assert "<!-- unigram baseline 5.500" in svg


def test_a_baseline_is_a_line_across_the_plot():
    x = np.arange(1.0, 101.0)
    curve = Curve(label="arm", arm=0, colour=0, x=x, y=2 + 1 / x, failed=False)
    images = []
    for value in (2.1, 9.0):
        baseline = Baseline(value=value, text="unigram baseline", colour=1)
        panel = Panel(key="loss/valid", title="", curves=(curve,), baselines=(baseline,))
        images.append(pixels_of(draw_panels([panel], x="step", y_label="loss")["png"]))
    blue = [(image[..., 2] - image[..., 0] > 0.5).sum(axis=1).max() for image in images]
    assert blue[0] > 0.5 * images[0].shape[1]  # a row of dashes
    assert 20 < blue[1] < 0.3 * images[1].shape[1]  # the text at the edge
