"""TODO."""

import io
import math
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.__main__ import COMMANDS
from bertds.cli import run
from bertds.report.case_report import write_report
from bertds.report.curves import (
    Curve,
    Panel,
    running_mean,
    settled_limits,
    smoothing_window,
    steady,
    thinned,
)
from bertds.report.png import draw_panels
from bertds.report.run_data import MEASURES, Series, load_arms
from tests.helpers.fake_runs import GUESS, config, lines_of, write_run, write_same

PLOTS = ("loss", "acc", "lr", "loss_relative", "acc_relative")


@pytest.fixture
def case6(tmp_path):
    """Three arms that differ in depth and end at different steps."""
    for layers, steps in ((2, 40), (3, 30), (10, 20)):
        lines = lines_of(steps, loss=2 + layers / 10)
        write_run(tmp_path, "case6", f"layers{layers}", lines, config=config(layers=layers))
    return tmp_path / "case6"


def tables(record):
    """Every table as {header tuple: rows of cells}."""
    found = {}
    for block in record.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            found[tuple(rows[0])] = rows[2:]
    return found


def table_with(record, *header):
    return next(rows for head, rows in tables(record).items() if set(header) <= set(head))


def rows_by_arm(rows):
    return {re.search(r"`(.*?)`", row[0]).group(1): row for row in rows}


def assert_drawn(path, least_share_of_ink=0.002):
    image = matplotlib.image.imread(path)
    height, width = image.shape[:2]
    assert width >= 1200
    assert height >= 600
    colours = image[..., :3]
    assert (colours.std(axis=-1) > 0.1).mean() > least_share_of_ink  # coloured, not grey


def test_the_files_of_the_contract(case6):
    report = write_report(case6)
    assert report.record == case6 / "record.md"
    assert [path.name for path in report.plots] == [f"case6_{name}.png" for name in PLOTS]
    assert sorted(path.name for path in case6.iterdir() if path.is_file()) == sorted(
        ["record.html", "record.md", *(path.name for path in report.plots)]
    )
    record = report.record.read_text()
    for path in report.plots:
        assert f"]({path.name})" in record
        assert_drawn(path)


def test_every_arm_is_in_the_tables_in_the_order_of_numbers(case6):
    record = write_report(case6).record.read_text()
    for header in (("status", "tokens/s"), ("valid acc", "epoch"), ("validated at steps",)):
        assert list(rows_by_arm(table_with(record, *header))) == ["layers2", "layers3", "layers10"]


def test_what_differs_and_what_is_common(case6):
    record = write_report(case6).record.read_text()
    assert record.startswith("# case6: depth\n")
    differing = table_with(record, "setting", "`layers10`")
    assert differing == [["`bertds.model.num_hidden_layers`", "2", "3", "10"]]
    common = {row[0]: row[1] for row in table_with(record, "common to all arms")}
    assert common["parameters"] == "22,900,123"
    assert common["a guess without context"] == "loss 5.500, acc 0.0400"
    assert common["training data"] == "288,435 sequences, 4,700,001 tokens"
    assert common["validation data"] == "en 32,048 sequences, 519,002 tokens"
    assert common["micro-batch × accumulation × ranks"] == "64 × 2 × 2"
    assert common["steps an epoch"] == "1,126"
    assert common["started"] == "2026-02-01 09:30"
    assert common["device"] == "NVIDIA H200"
    assert common["versions"] == "torch 2.13.0"
    assert common["`optimizer`"] == "type Adam, params.lr 0.0005, params.weight_decay 0.0001"
    assert common["`bertds.model`"] == "hidden_size 512"
    assert common["`train_batch_size`"] == "256"


def test_final_and_best_figures(tmp_path):
    lines = lines_of(20)
    for line in lines:
        if "loss/valid" in line:  # best at step 10, worse since
            line["loss/valid"] = 3.0 + abs(line["step"] - 10) / 100
            line["acc/valid"] = 0.5 - abs(line["step"] - 15) / 100
    write_run(tmp_path, "case1", "layers4", lines)
    record = write_report(tmp_path / "case1").record.read_text()
    (end,) = table_with(record, "status")
    train = lines[-2]["loss/train"]
    assert end == [
        *("`layers4`", "20", "2.00", "8,000", f"{train:.3f}", "3.100", f"{1 / train:.4f}"),
        *("0.4500", "10 s", "800", "done"),
    ]
    (best,) = table_with(record, "valid acc", "epoch")
    assert best == ["`layers4`", "3.000", "10", "1.00", "0.5000", "15", "1.50"]


def test_arms_are_compared_at_the_last_step_that_all_reached(case6):
    record = write_report(case6).record.read_text()
    assert (
        "**The arms end at different steps** (`layers2` 40, `layers3` 30, `layers10` 20)" in record
    )
    rows = rows_by_arm(table_with(record, "validated at steps"))
    for layers in (2, 3, 10):
        falling = 2 + layers / 10 + 6 * math.exp(-20 / 5)
        row = rows[f"layers{layers}"]
        assert row[1:4] == ["2.00", f"{falling:.3f}", f"{falling + 0.25:.3f}"]
        assert row[-1] == "20"


def test_arms_validated_elsewhere_are_compared_at_one_place(tmp_path):
    """Two runs of one curve: a later last validation is no lead at equal steps, epochs or tokens."""
    write_run(tmp_path, "case2", "often", lines_of(50, log_every=5))
    write_run(tmp_path, "case2", "seldom", lines_of(84, log_every=12, eval_every=12))
    record = write_report(tmp_path / "case2").record.read_text()
    often, seldom = rows_by_arm(table_with(record, "validated at steps")).values()
    assert often[1] == seldom[1] == "5.00"
    assert (often[-1], seldom[-1]) == ("50", "48, 60")
    curve = [2.25 + 6 * math.exp(-step / 5) for step in (48, 50, 60)]
    assert often[3] == f"{curve[1]:.3f}"
    assert seldom[3] == f"{curve[0] + (curve[2] - curve[0]) * 2 / 12:.3f}"
    often, seldom = rows_by_arm(table_with(record, "5.00 epochs: valid loss")).values()
    assert seldom[1] == seldom[3] == seldom[5]
    assert float(seldom[1]) == pytest.approx(float(often[1]), abs=0.0011)


def test_a_figure_is_on_the_line_between_two_points():
    at = {measure: np.array([2.0, 4.0, 8.0]) for measure in MEASURES}
    series = Series(values=np.array([1.0, 2.0, math.nan]), at=at)
    found = [series.value_at("tokens", cost) for cost in (2, 3, 4)]
    assert found == [1.0, 1.5, 2.0]
    assert math.isnan(series.value_at("tokens", 1.9))
    assert math.isnan(series.value_at("tokens", 5))
    last = Series(values=np.array([1.0, 2.0]), at={one: at[one][:2] for one in MEASURES})
    assert last.value_at("step", 100) == 2.0


def test_arms_that_end_at_one_step_are_not_warned_of(tmp_path):
    for arm in ("a", "b"):
        write_run(tmp_path, "case2", arm, lines_of(20))
    assert "different steps" not in write_report(tmp_path / "case2").record.read_text()


def test_one_run_is_drawn_in_both_cases(case6):
    root = case6.parent
    write_run(root, "case7", "decay1e-5", lines_of(30), config=config("weight decay"))
    write_same(root, "case7", "decay1e-4", "case6/layers3")
    write_same(root, "case8", "merges30k", "case7/decay1e-4")  # over two cases
    first, second = write_report(case6), write_report(root / "case7")
    of_case6 = rows_by_arm(table_with(first.record.read_text(), "status"))["layers3"]
    record = second.record.read_text()
    of_case7 = rows_by_arm(table_with(record, "status"))["decay1e-4"]
    assert of_case7[0] == "`decay1e-4` (= case6/layers3)"
    assert of_case7[1:] == of_case6[1:]
    assert record.startswith("# case7: weight decay\n")
    assert "bertds.title" not in record
    (arm,) = load_arms(root / "case8")
    assert len(arm.lines) == 36


def test_a_run_of_another_case_that_is_missing(tmp_path):
    write_run(tmp_path, "case7", "decay1e-5", lines_of(20))
    write_same(tmp_path, "case7", "decay1e-4", "case6/layers3")
    report = write_report(tmp_path / "case7")
    row = rows_by_arm(table_with(report.record.read_text(), "status"))["decay1e-4"]
    assert row[0] == "`decay1e-4` (= case6/layers3)"
    assert row[-1] == "not trained yet"
    assert len(report.plots) == len(PLOTS)


@pytest.mark.parametrize("target", ["../../etc/passwd", "case6", "case6/..", "/abs/olute", "a/b/c"])
def test_a_run_outside_the_cases_is_not_followed(tmp_path, target):
    write_same(tmp_path, "case7", "decay1e-4", target)
    with pytest.raises(ValueError, match="same_as is"):
        write_report(tmp_path / "case7")


def test_a_circle_of_cases(tmp_path):
    write_same(tmp_path, "case7", "a", "case8/b")
    write_same(tmp_path, "case8", "b", "case7/a")
    with pytest.raises(ValueError, match="leads back"):
        write_report(tmp_path / "case7")


def test_a_written_verdict_is_kept(case6):
    record = write_report(case6).record
    assert record.read_text().endswith("## Verdict\n\n**Verdict:** *to be written.*\n")
    verdict = "**Verdict:** at equal steps 2 and 3 alike.\r\n\n한국어 | and\n\n## A note\nof mine"
    text = record.read_text()
    record.write_bytes((text[: text.index("**Verdict:**")] + verdict).encode())
    with (case6 / "layers2" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 41, "loss/train": 1.0}\n')
    again = write_report(case6).record.read_bytes().decode()
    assert again.endswith("\n\n" + verdict)
    assert again != text
    assert again.count("**Verdict:**") == 1


def test_the_same_files_give_the_same_bytes(case6):
    report = write_report(case6)
    paths = [report.record, report.page, *report.plots]
    before = [path.read_bytes() for path in paths]
    write_report(case6)
    assert [path.read_bytes() for path in paths] == before
    assert not list(case6.glob(".tmp-*"))


def test_the_draft_of_an_arm_that_ends_at_the_same_time_is_left_alone(case6):
    names = [path.name for path in (write_report(case6).record, *case6.glob("case6_*.png"))]
    drafts = [case6 / f".tmp-{name}" for name in [*names, "record.html"]]
    for draft in drafts:
        draft.write_text("another's")
    write_report(case6)
    assert [draft.read_text() for draft in drafts] == ["another's"] * len(drafts)


def test_a_torn_last_line_changes_nothing(case6):
    paths = [(report := write_report(case6)).record, report.page, *report.plots]
    before = [path.read_bytes() for path in paths]
    with (case6 / "layers3" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 31, "loss/tra')
    write_report(case6)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("missing", ["metrics.jsonl", "status.json"])
def test_a_run_without_a_file_is_told_apart(case6, missing):
    (case6 / "layers3" / missing).unlink()
    row = rows_by_arm(table_with(write_report(case6).record.read_text(), "status"))["layers3"]
    assert row[1] == ("–" if missing == "metrics.jsonl" else "30")
    assert row[-1] == ("done" if missing == "metrics.jsonl" else "no status")


def test_a_case_without_a_single_figure_has_a_record_and_no_plot(tmp_path):
    status = {"state": "running", "code": 0, "message": "", "step": 0}
    write_run(tmp_path, "case1", "layers4", [], status=status)
    report = write_report(tmp_path / "case1")
    assert report.plots == ()
    assert "| running |" in report.record.read_text()


def test_one_point_is_drawn(tmp_path):
    write_run(tmp_path, "case1", "layers4", lines_of(1, eval_every=1))
    for path in write_report(tmp_path / "case1").plots:
        assert_drawn(path, least_share_of_ink=1e-6)


def test_a_failed_arm_is_named_with_its_sentence(case6):
    sentence = "the loss at step 12 is not a number:\nlower the | learning rate."
    status = {"state": "failed", "code": 71, "message": sentence, "step": 12}
    lines = [
        {key: (None if line["step"] > 10 and "/train" in key else line[key]) for key in line}
        for line in lines_of(12)
    ]
    write_run(case6.parent, "case6", "layers1", lines, status=status)
    record = write_report(case6).record.read_text()
    row = rows_by_arm(table_with(record, "status"))["layers1"]
    assert row[-1] == "failed (71)"
    assert row[4] == "NaN"
    assert (
        "`layers1` failed at step 12 (code 71): the loss at step 12 is not a number: lo" in record
    )
    # A failed arm does not shorten the comparison of the others.
    assert "At equal steps: step 20, the last that all arms but the failed ones reached." in record
    # And is not at a place where it never was.
    for header in ("validated at steps", "2.00 epochs: valid loss"):
        row = rows_by_arm(table_with(record, header))["layers1"]
        assert set(row[1 if "epochs" in header else 2 : 6]) == {"–"}


@pytest.mark.parametrize("number", ["NaN", "null"])
def test_numbers_that_are_not_numbers(tmp_path, number):
    lines = lines_of(20)
    run = write_run(tmp_path, "case1", "layers4", lines)
    text = (run / "metrics.jsonl").read_text()
    text = re.sub(r'("step": 1[0-5],.*"loss/\w+": )[\d.]+', rf"\g<1>{number}", text)
    (run / "metrics.jsonl").write_text(text)
    report = write_report(tmp_path / "case1")
    (best,) = table_with(report.record.read_text(), "valid acc", "epoch")
    assert best[2] == "20"
    assert len(report.plots) == len(PLOTS)


def test_arms_that_log_differently(tmp_path):
    """One by the epoch without rates or times, one by the step, one with validation alone."""
    bare = [
        {"step": line["step"], "loss/train": line["loss/train"]}
        for line in lines_of(100, log_every=50)
        if "loss/train" in line
    ]
    valid = [line for line in lines_of(60) if "loss/valid" in line]
    write_run(tmp_path, "case3", "bare", bare)
    write_run(tmp_path, "case3", "dense", lines_of(90))
    write_run(tmp_path, "case3", "valid", valid)
    report = write_report(tmp_path / "case3")
    rows = rows_by_arm(table_with(report.record.read_text(), "status"))
    assert rows["bare"][1:4] == ["100", "–", "–"]
    assert rows["valid"][4] == "–"
    assert len(report.plots) == len(PLOTS)


def test_several_validation_sets_have_their_own_columns_and_panels(tmp_path):
    write_run(tmp_path, "case3", "one", lines_of(20))
    guess = GUESS | {"sets": {"ko": GUESS, "en": {"accuracy": 0.05, "loss": 4.5}}}
    write_run(tmp_path, "case4", "two", lines_of(20, sets=("ko", "en")), guess=guess)
    one, two = (write_report(tmp_path / case) for case in ("case3", "case4"))
    (row,) = table_with(two.record.read_text(), "en loss", "ko acc")
    loss = lines_of(20)[-2]["loss/train"] + 0.5
    assert row[1:5] == [f"{loss:.3f}", f"{loss:.3f}", "0.2500", "0.2500"]
    assert "ko loss" not in one.record.read_text()
    guesses = "loss 5.500, acc 0.0400; ko loss 5.500, acc 0.0400; en loss 4.500, acc 0.0500"
    assert f"| a guess without context | {guesses} |" in two.record.read_text()
    heights = [matplotlib.image.imread(report.plots[0]).shape[0] for report in (one, two)]
    assert heights[1] > 1.5 * heights[0]


def test_seconds_go_on_over_a_restart(tmp_path):
    lines = lines_of(20)
    for line in lines:
        line["seconds"] = line["step"] - (10 if line["step"] > 10 else 0)
    write_run(tmp_path, "case1", "layers4", lines)
    (arm,) = load_arms(tmp_path / "case1")
    seconds = arm.series("loss/train").at["seconds"]
    assert seconds.tolist() == list(range(1, 21))


def test_what_is_no_case_is_refused_in_one_sentence(case6, tmp_path):
    (tmp_path / "empty").mkdir()
    for directory, words in (
        (case6 / "layers2", "one arm's run"),
        (tmp_path / "empty", "holds no run"),
        (tmp_path / "missing", "holds no run"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            write_report(directory)
        assert "\n" not in str(error.value)
        assert not list(directory.glob("record.md"))


@pytest.mark.parametrize("content", ["{", "[1]"])
@pytest.mark.parametrize("name", ["case.json", "status.json"])
def test_a_broken_file_is_named(case6, name, content):
    (case6 / "layers3" / name).write_text(content)
    with pytest.raises(ValueError, match=f"layers3/{name} is not a JSON object"):
        write_report(case6)


def test_a_relative_directory(case6, monkeypatch):
    write_same(case6.parent, "case7", "decay1e-4", "case6/layers3")
    monkeypatch.chdir(case6.parent / "case7")
    assert write_report(Path()).plots[0].name == "case7_loss.png"


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
        near = array[index - reach : index + reach + 1]
        wanted = np.nanmean(near) if np.isfinite(value) else math.nan
        assert means[index] == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_short_curves_are_not_smoothed_and_long_ones_by_an_odd_width():
    widths = [smoothing_window(count) for count in range(200_000)]
    assert set(widths[:60]) == {1}
    assert widths[20_000] == 101
    assert max(widths) == 999
    assert all(width % 2 for width in widths)
    assert widths == sorted(widths)


def test_a_first_fall_and_a_spike_do_not_squash_the_curves():
    """The same curves with an outlier at the first step give the same picture elsewhere."""
    x = np.arange(1.0, 501.0)
    calm = 2.0 + np.exp(-x / 50)
    wild = calm.copy()
    wild[0], wild[300] = 1e4, 1e3
    images = []
    for y in (calm, wild):
        curve = Curve(label="arm", arm=0, x=x, y=y, failed=False)
        panel = Panel(title="validation", curves=(curve,))
        images.append(draw_panels([panel], x="steps", y="figures", y_label="loss"))
    pixels = [matplotlib.image.imread(io.BytesIO(image)) for image in images]
    assert pixels[0].shape == pixels[1].shape
    assert np.mean(np.abs(pixels[0] - pixels[1]) > 0.2) < 0.02


@pytest.mark.parametrize("count", [100, 2000])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_spike_in_a_curve_of_the_record_does_not_set_its_axes(count, smooth):
    x = np.arange(1.0, count + 1)
    calm = 2.0 + np.exp(-x / count * 3)
    wild = calm.copy()
    wild[count // 2] = 1000.0
    limits = [settled_limits([(x, steady(y, smooth=smooth))]) for y in (calm, wild)]
    assert limits[1] == pytest.approx(limits[0], abs=0.02)
    assert limits[0][1] < 3
    gap = calm.copy()
    gap[10:40] = math.nan
    assert np.isnan(steady(gap, smooth=smooth)).sum() in range(20, 31)


def test_every_point_of_a_short_curve_is_in_the_picture():
    x, y = np.arange(1.0, 13.0), np.full(12, 3.0)
    y[6] = 9.0
    assert settled_limits([(x, steady(y, smooth=True))])[1] > 8.9


def test_one_huge_value_spoils_its_own_neighbours_only():
    values = np.full(100, 2.0)
    values[5] = 1e17
    means = running_mean(values, 5)
    assert (means[8:] == 2.0).all()
    assert (means[3:8] > 1e15).all()


def test_a_curve_of_many_points_is_drawn_with_its_extremes_in_little_time():
    x = np.arange(300_000.0)
    y = np.sin(x / 1e4)
    y[123_456], y[200_000], y[5:50] = 3.0, -3.0, np.nan
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) == len(thin_y) < 10_000
    assert (np.nanmax(thin_y), np.nanmin(thin_y)) == (3.0, -3.0)
    assert abs(thin_x[np.nanargmax(thin_y)] - 123_456) < 200
    assert (thin_x[-1], thin_y[-1]) == (x[-1], y[-1])
    assert (np.diff(thin_x) >= 0).all()


def test_more_arms_than_colours_are_all_told_apart(tmp_path):
    for number in range(12):
        write_run(tmp_path, "case5", f"arm{number}", lines_of(20, loss=number))
    report = write_report(tmp_path / "case5")
    assert len(rows_by_arm(table_with(report.record.read_text(), "status"))) == 12
    assert_drawn(report.plots[0])


def test_the_command_draws_a_case_or_all_of_them_and_says_where(case6, capsys):
    for directory, names in (
        (case6, ["record.md", "record.html", *(f"case6_{name}.png" for name in PLOTS)]),
        (case6.parent, ["record.md", "record.html", "case6/record.html"]),
    ):
        assert run("python -m bertds", COMMANDS, ["report", str(directory)]) == 0
        printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert printed == [directory / name for name in names]
        assert all(path.stat().st_size > 100 for path in printed)
    assert run("python -m bertds", COMMANDS, ["report", str(case6.parent / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_torch_is_not_imported():
    code = "import sys, bertds.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
