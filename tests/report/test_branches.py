"""Runs that branch from another run: drawn and named with it, also if it is gone or is a branch itself."""

import io
import json
import shutil
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from bertds.report.chart_data import chart_data
from bertds.report.context_tables import plateau_step
from bertds.report.curves import Curve, Panel, axis_limits, collect_curves, metric_panels
from bertds.report.index import write_index
from bertds.report.plots import draw_panels
from bertds.report.run_data import load_arms
from bertds.report.tables import result_tables
from tests.helpers.fake_runs import lines_of, write_run


def write_branch(root, case, arm, trunk, *, step, lines):
    """A run with the lines after a step, which its case.json calls a branch of ../../<trunk>."""
    run_dir = write_run(root, case, arm, [line for line in lines if line["step"] > step])
    content = json.loads((run_dir / "case.json").read_text())
    branch = {"run": trunk, "directory": f"../../{trunk}", "step": step, "seconds": step * 0.5}
    content["resolved"]["branch"] = branch
    (run_dir / "case.json").write_text(json.dumps(content))
    return run_dir


@pytest.fixture
def runs(tmp_path):
    """A trunk in another case, a branch of it, and a branch of that branch; none is a restart."""
    write_run(tmp_path, "trunk", "main", lines_of(40, loss=2.0))
    write_branch(tmp_path, "wsd", "one", "trunk/main", step=20, lines=lines_of(30, loss=1.5))
    write_branch(tmp_path, "wsd", "two", "wsd/one", step=25, lines=lines_of(35, loss=1.0))
    return tmp_path


def test_a_curve_begins_with_that_of_its_trunk(runs):
    arms = load_arms(runs / "wsd")
    (main,) = load_arms(runs / "trunk")
    one, two = collect_curves(arms, "loss/valid", "step")
    assert one.x.tolist() == [25, 30]
    expected = main.series("loss/valid").values[:4]
    assert one.lead[0].tolist() == [5, 10, 15, 20, 25]
    assert one.lead[1].tolist() == [*expected, one.y[0]]
    assert two.lead[0].tolist() == [5, 10, 15, 20, 25, 30]
    assert two.lead[1].tolist() == [*expected, one.y[0], two.y[0]]
    assert collect_curves([main], "loss/valid", "step")[0].lead is None


def test_a_branch_is_named_in_tables_and_page(runs):
    arms = load_arms(runs / "wsd")
    end = result_tables(arms)[2]
    assert "| `one` (branch of trunk/main at step 20) |" in end
    assert "| `two` (branch of wsd/one at step 25) |" in end
    figure = chart_data(arms)
    assert any(
        "branch of trunk/main at step 20" in trace.get("name", "") for trace in figure["data"]
    )
    dashed = [t for t in figure["data"] if t.get("line", {}).get("width") == 1 and "meta" in t]
    (steps,) = {tuple(figure["x"]["step"][t["meta"][0]]) for t in dashed if len(t["y"]) == 6}
    assert steps == (5, 10, 15, 20, 25, 30)
    assert plateau_step(arms[0]) < 20  # of the whole curve


def test_the_axes_contain_the_place_where_a_branch_leaves_its_trunk(runs):
    (panel, _) = metric_panels(load_arms(runs / "wsd"), "loss", "step")
    low, high = axis_limits([panel])
    assert all(low < curve.lead[1][-2] < high for curve in panel.curves)


def test_the_trunk_is_seen_in_the_plot():
    """In the left half of the axes, where the branch has no points."""
    x, y = np.array([20.0, 30.0]), np.array([2.0, 1.9])
    curve = Curve(label="a", arm=0, colour=0, x=x, y=y, failed=False)
    lead = np.array([0.0, 10.0, 20.0]), np.array([1.95, 1.92, 2.0])

    def pixels(curve):
        panel = Panel(key="loss/valid", title="", curves=(curve,))
        image = io.BytesIO(draw_panels([panel], x="step", y_label="")["png"])
        colours = matplotlib.image.imread(image)[..., :3].std(axis=-1)
        return (colours[:, : colours.shape[1] // 2] > 0.1).sum()

    assert pixels(replace(curve, lead=lead)) > 100
    assert pixels(curve) == 0


@pytest.mark.usefixtures("no_plots")
def test_a_trunk_that_is_gone_leaves_the_branch(runs):
    """The time of the index is that of the branches alone, with and without the trunk."""
    before = write_index(runs).record.read_text()
    assert "| 10 s |" in before  # (30 - 20 + 35 - 25) steps of 0.5 s
    shutil.rmtree(runs / "trunk")
    one, two = load_arms(runs / "wsd")
    assert one.lead("loss/valid") is None
    assert two.lead("loss/valid").at["step"].tolist() == [25, 30]
    assert "(branch of trunk/main at step 20)" in result_tables([one, two])[2]
    assert "| 10 s |" in write_index(runs).record.read_text()
