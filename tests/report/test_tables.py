"""The tables of a case: settings, final and best results, comparison at equal cost."""

import math
import re

import pytest

from bertds.report.run_data import load_arms
from bertds.report.tables import result_tables, settings_tables
from tests.helpers.fake_runs import BASELINE, config, lines_of, write_run, write_same


def tables_of(case_dir):
    arms = load_arms(case_dir)
    return "\n\n".join([*settings_tables(arms), *result_tables(arms)])


def table_with(text, *columns):
    """The cells of the rows below the header that has these columns."""
    for block in text.split("\n\n"):
        lines = [line.strip("|").split(" | ") for line in block.splitlines() if line[:1] == "|"]
        rows = [[cell.strip() for cell in line] for line in lines]
        if rows and set(columns) <= set(rows[0]):
            return rows[2:]
    raise AssertionError(f"no table has the columns {columns}")


def rows_by_arm(rows):
    return {re.search(r"`(.*?)`", row[0]).group(1): row for row in rows}


def test_every_table_has_every_arm_in_natural_order(case6):
    text = tables_of(case6)
    for columns in (("status", "tokens/s"), ("valid acc", "epoch"), ("validated at steps",)):
        assert list(rows_by_arm(table_with(text, *columns))) == ["layers2", "layers3", "layers10"]


def test_different_and_common_settings(case6):
    text = tables_of(case6)
    different = table_with(text, "setting", "`layers10`")
    assert different == [["`bertds.model.num_hidden_layers`", "2", "3", "10"]]
    common = {row[0]: row[1] for row in table_with(text, "common to all arms")}
    assert common["parameters"] == "22,900,123"
    assert common["unigram baseline"] == "loss 5.500, acc 0.0400"
    assert common["training data"] == "288,435 sequences, 4,700,001 tokens"
    assert common["validation data"] == "en 32,048 sequences, 519,002 tokens"
    assert common["micro-batch × accumulation × ranks"] == "64 × 2 × 2"
    assert common["steps per epoch"] == "1,126"
    assert common["started"] == "2026-02-01 09:30"
    assert common["device"] == "NVIDIA H200"
    assert common["versions"] == "torch 2.13.0"
    assert common["`optimizer`"] == "type Adam, params.lr 0.0005, params.weight_decay 0.0001"
    assert common["`bertds.model`"] == "hidden_size 512"
    assert common["`train_batch_size`"] == "256"


def test_the_learning_rate_that_was_used_is_shown_beside_the_settings(tmp_path):
    for name, rate in (("low", 3e-5), ("high", 2e-3)):
        lines = lines_of(4)
        for number, line in enumerate(lines):
            line["lr"] = rate / (1 + abs(number - 2))  # the peak is in the middle
        write_run(tmp_path, "case1", name, lines)
    arms = load_arms(tmp_path / "case1")
    (row,) = [
        row
        for row in table_with("\n\n".join(settings_tables(arms)), "run", "`low`")
        if row[0] == "highest learning rate"
    ]
    names = [arm.name for arm in arms]
    assert dict(zip(names, row[1:], strict=True)) == {"low": "3e-05", "high": "0.002"}


def test_final_and_best_results(tmp_path):
    lines = lines_of(20)
    for line in lines:
        if "loss/valid" in line:  # best at step 10, worse after it
            line["loss/valid"] = 3.0 + abs(line["step"] - 10) / 100
            line["acc/valid"] = 0.5 - abs(line["step"] - 15) / 100
    write_run(tmp_path, "case1", "layers4", lines)
    text = tables_of(tmp_path / "case1")
    (end,) = table_with(text, "status")
    train = lines[-2]["loss/train"]
    assert end == [
        *("`layers4`", "20", "2.00", "8,000", f"{train:.3f}", "3.100", f"{1 / train:.4f}"),
        *("0.4500", "10 s", "800", "done"),
    ]
    (best,) = table_with(text, "valid acc", "epoch")
    assert best == ["`layers4`", "3.000", "10", "1.00", "0.5000", "15", "1.50"]


def test_arms_are_compared_at_the_last_step_that_all_reached(case6):
    text = tables_of(case6)
    assert "**The arms end at different steps** (`layers2` 40, `layers3` 30, `layers10` 20)" in text
    rows = rows_by_arm(table_with(text, "validated at steps"))
    for layers in (2, 3, 10):
        loss = 2 + layers / 10 + 6 * math.exp(-20 / 5)
        row = rows[f"layers{layers}"]
        assert row[1:4] == ["2.00", f"{loss:.3f}", f"{loss + 0.25:.3f}"]
        assert row[-1] == "20"


def test_arms_that_end_at_the_same_step_give_no_warning(tmp_path):
    for arm in ("a", "b"):
        write_run(tmp_path, "case2", arm, lines_of(20))
    assert "different steps" not in tables_of(tmp_path / "case2")


def test_arms_validated_at_different_steps_are_interpolated(tmp_path):
    """Of two runs of one curve, the later last validation gives no advantage at equal cost."""
    write_run(tmp_path, "case2", "often", lines_of(50, log_every=5))
    write_run(tmp_path, "case2", "seldom", lines_of(84, log_every=12, eval_every=12))
    text = tables_of(tmp_path / "case2")
    often, seldom = rows_by_arm(table_with(text, "validated at steps")).values()
    assert often[1] == seldom[1] == "5.00"
    assert (often[-1], seldom[-1]) == ("50", "48, 60")
    curve = [2.25 + 6 * math.exp(-step / 5) for step in (48, 50, 60)]
    assert often[3] == f"{curve[1]:.3f}"
    assert seldom[3] == f"{curve[0] + (curve[2] - curve[0]) * 2 / 12:.3f}"
    often, seldom = rows_by_arm(table_with(text, "5.00 epochs: valid loss")).values()
    assert seldom[1] == seldom[3] == seldom[5]
    assert float(seldom[1]) == pytest.approx(float(often[1]), abs=0.0011)


def test_a_linked_run_has_the_same_results_in_both_cases(case6):
    root = case6.parent
    write_run(root, "case7", "decay1e-5", lines_of(30), config=config("weight decay"))
    write_same(root, "case7", "decay1e-4", "case6/layers3")
    original = rows_by_arm(table_with(tables_of(case6), "status"))["layers3"]
    text = tables_of(root / "case7")
    linked = rows_by_arm(table_with(text, "status"))["decay1e-4"]
    assert linked == ["`decay1e-4` (= case6/layers3)", *original[1:]]
    assert "bertds.title" not in text


def test_a_linked_run_that_is_missing(tmp_path):
    write_run(tmp_path, "case7", "decay1e-5", lines_of(20))
    write_same(tmp_path, "case7", "decay1e-4", "case6/layers3")
    row = rows_by_arm(table_with(tables_of(tmp_path / "case7"), "status"))["decay1e-4"]
    assert row[0] == "`decay1e-4` (= case6/layers3)"
    assert row[-1] == "not trained yet"


@pytest.mark.parametrize("missing", ["metrics.jsonl", "status.json"])
def test_a_run_without_a_file_is_reported(case6, missing):
    (case6 / "layers3" / missing).unlink()
    row = rows_by_arm(table_with(tables_of(case6), "status"))["layers3"]
    assert row[1] == ("–" if missing == "metrics.jsonl" else "30")
    assert row[-1] == ("done" if missing == "metrics.jsonl" else "no status")


def test_arms_that_log_different_metrics(tmp_path):
    bare = [
        {"step": line["step"], "loss/train": line["loss/train"]}
        for line in lines_of(100, log_every=50)
        if "loss/train" in line
    ]
    write_run(tmp_path, "case3", "bare", bare)
    write_run(tmp_path, "case3", "dense", lines_of(90))
    write_run(tmp_path, "case3", "valid", [line for line in lines_of(60) if "loss/valid" in line])
    rows = rows_by_arm(table_with(tables_of(tmp_path / "case3"), "status"))
    assert rows["bare"][1:4] == ["100", "–", "–"]
    assert rows["valid"][4] == "–"


@pytest.mark.parametrize("value", [math.nan, None])
def test_non_finite_values_are_not_the_best(tmp_path, value):
    lines = [
        {k: value if line["step"] == 15 and "loss" in k else v for k, v in line.items()}
        for line in lines_of(20)
    ]
    write_run(tmp_path, "case1", "layers4", lines)
    (best,) = table_with(tables_of(tmp_path / "case1"), "valid acc", "epoch")
    assert best[2] == "20"


def test_a_failed_arm_is_reported_with_its_message(case6):
    message = "the loss at step 12 is not a number:\nlower the | learning rate."
    status = {"state": "failed", "code": 71, "message": message, "step": 12}
    lines = [
        {key: (None if line["step"] > 10 and "/train" in key else line[key]) for key in line}
        for line in lines_of(12)
    ]
    write_run(case6.parent, "case6", "layers1", lines, status=status)
    text = tables_of(case6)
    row = rows_by_arm(table_with(text, "status"))["layers1"]
    assert row[-1] == "failed (71)"
    assert row[4] == "NaN"
    assert "`layers1` failed at step 12 (code 71): the loss at step 12 is not a number: lo" in text
    # A failed arm does not shorten the comparison of the others ...
    assert "At equal steps: step 20, the last that all arms that did not fail reached." in text
    # ... and has no value at a step that it did not reach.
    for column in ("validated at steps", "2.00 epochs: valid loss"):
        row = rows_by_arm(table_with(text, column))["layers1"]
        assert set(row[1 if "epochs" in column else 2 : 6]) == {"–"}


def test_several_validation_sets_have_their_own_columns(tmp_path):
    write_run(tmp_path, "case3", "one", lines_of(20))
    both = {"accuracy": 0.05, "loss": 4.5, "neighbour": {"accuracy": 0.2, "loss": 3.5}}
    baseline = BASELINE | {"sets": {"ko": BASELINE, "en": both}}
    write_run(tmp_path, "case4", "two", lines_of(20, sets=("ko", "en")), baseline=baseline)
    one, two = (tables_of(tmp_path / case) for case in ("case3", "case4"))
    (row,) = table_with(two, "en loss", "ko acc")
    loss = lines_of(20)[-2]["loss/train"] + 0.5
    assert row[1:5] == [f"{loss:.3f}", f"{loss:.3f}", "0.2500", "0.2500"]
    assert "ko loss" not in one
    baselines = "loss 5.500, acc 0.0400; ko loss 5.500, acc 0.0400; en loss 4.500, acc 0.0500"
    assert f"| unigram baseline | {baselines} |" in two
    assert "| neighbour baseline | en loss 3.500, acc 0.2000 |" in two
