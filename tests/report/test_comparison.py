"""Runs of different cases and places: equal names mean equal things, and differences are said."""

import json
import re
from pathlib import Path

import pytest

from bertds.__main__ import COMMANDS
from bertds.cli import run
from bertds.report.comparison import write_comparison
from tests.helpers.browser import opened
from tests.helpers.fake_runs import config, lines_of, write_run, write_same

pytestmark = pytest.mark.usefixtures("no_plots")


def change(directory, *, config=None, **resolved):
    """Change what a run records: keys of `resolved`, and blocks of `bertds`."""
    content = json.loads((directory / "case.json").read_text())
    content["resolved"] |= resolved
    content["config"]["bertds"] |= config or {}
    (directory / "case.json").write_text(json.dumps(content))
    return directory


def valid(**keys):
    """Validation sets by name, from their keys."""
    return {
        name: {"name": f"{name}/valid", "sequences": 100, "tokens": 2000, "set_key": key}
        for name, key in keys.items()
    }


def row(text, first_cell, header_cell):
    """The cells of a row of the table whose header has a cell, by column."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        if header_cell in header:
            return next(
                (dict(zip(header, cells, strict=True)) for cells in rows if cells[0] == first_cell),
                None,
            )
    return None


def test_runs_that_agree_are_compared_without_a_warning(tmp_path):
    first = write_run(tmp_path / "a", "case1", "main", lines_of(20, loss=2))
    second = write_run(tmp_path / "b", "case2", "main", lines_of(20, loss=3))
    comparison = write_comparison([first, second], tmp_path / "both")
    text = comparison.files.record.read_text()
    assert comparison.remarks == []
    assert text.startswith("# both: comparison of 2 runs\n")
    assert "their figures can be compared" in text
    assert f"| `case1/main` | {first} | case1/main | done |" in text
    assert row(text, "`case2/main`", "train loss")["valid loss"] == "3.360"
    assert "against optimizer steps" in text
    assert {path.parent for path in comparison.files.plots} == {tmp_path / "both"}


def test_a_set_with_one_name_and_two_contents_is_two_sets(tmp_path):
    """And a set that both have is compared, though the figures over all sets are not."""
    first = change(
        write_run(tmp_path, "a", "one", lines_of(20, loss=2, sets=("en", "ko"))),
        valid=valid(en="11", ko="22"),
    )
    second = change(write_run(tmp_path, "b", "two", lines_of(20, loss=3)), valid=valid(en="11"))
    third = change(write_run(tmp_path, "c", "three", lines_of(20, loss=4)), valid=valid(ko="33"))
    text = write_comparison([first, second, third], tmp_path / "out").files.record.read_text()
    assert "**The runs have different validation sets.**" in text
    assert row(text, "`ko #2`", "key")["runs"] == "`three [3]`"
    assert row(text, "`en`", "key")["runs"] == "`one [1]`, `two [2]`"
    # The single set of the second run is its figure over all sets.
    assert row(text, "`two [2]`", "en loss")["en loss"] == "3.360"
    assert row(text, "`one [1]`", "en loss")["en loss"] == "2.610"
    assert row(text, "`one [1]`", "ko #1 loss")["ko #2 loss"] == "–"
    assert row(text, "`three [3]`", "ko #1 loss")["ko #1 loss"] == "–"


@pytest.mark.parametrize(
    ("masking", "is_same"),
    [
        ({"ratio": 0.15}, True),
        ({"ratio": 0.3}, False),
        ({"ratio": 0.3, "valid_ratio": 0.15}, True),
        ({"mask_share": 1.0, "random_share": 0.0}, False),
        ({"unit": "word"}, False),
        ({"mode": "static", "copies": 3}, True),
    ],
)
def test_a_set_with_other_masks_is_another_set(tmp_path, masking, is_same):
    runs = [write_run(tmp_path, case, "main", lines_of(20)) for case in ("a", "b")]
    change(runs[1], config={"masking": masking})
    text = write_comparison(runs, tmp_path / "out").files.record.read_text()
    assert ("`en #2`" not in text) == is_same
    assert ("Training is masked differently" in text) == (
        masking.get("ratio") == 0.3 or not is_same
    )


def test_other_mask_seeds_are_said_and_seeds_are_joined_over_places(tmp_path):
    runs = []
    for seed in range(2):
        place = write_run(tmp_path / f"seed{seed}", "case1", "lr1", lines_of(20, loss=2 + seed))
        runs.append(change(place, config={"run": {"seed": seed}, "masking": {"seed": seed}}))
    runs.append(write_run(tmp_path, "case2", "other", lines_of(20), config=config(layers=6)))
    text = write_comparison(runs, tmp_path / "out").files.record.read_text()
    assert "**The masks of validation have different seeds**" in text
    assert "validation sets.**" not in text
    assert row(text, "`case1/lr1 (2 seeds)`", "seeds")["valid loss"] == "2.860"
    # Other data of the same name is no sample of the same experiment.
    change(runs[1], valid=valid(en="99"))
    text = write_comparison(runs, tmp_path / "out").files.record.read_text()
    assert "seeds)" not in text


def test_runs_of_different_vocabularies_are_compared_in_bits(tmp_path):
    """Also if the vocabularies have one size."""
    runs = []
    for number, case in enumerate("ab"):
        lines = [line | {"bits_per_character/valid": 1.5 + number} for line in lines_of(20)]
        runs.append(write_run(tmp_path, case, "main", lines))
        (runs[-1] / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {case: 0}}}))
    report = write_comparison(runs, tmp_path / "out").files
    text = report.record.read_text()
    assert "different vocabularies** (7,458 tokens: `a/main`; 7,458 tokens: `b/main`)" in text
    assert row(text, "`b/main [2]`", "bits per character")["bits per character"] == "2.5000"
    assert "out_bits.png" in [path.name for path in report.plots]
    assert "bits per character" in report.page.read_text()
    # The same vocabulary in another spelling is the same.
    spelled = {"version": "2", "model": {"vocab": {"a": 0}}}
    (runs[1] / "tokenizer.json").write_text(json.dumps(spelled, indent=4))
    text = write_comparison(runs, tmp_path / "out").files.record.read_text()
    assert "different vocabularies" not in text


def test_steps_of_different_sizes_are_drawn_against_tokens(tmp_path):
    first = write_run(tmp_path, "a", "one", lines_of(20))
    second = write_run(tmp_path, "b", "two", lines_of(20), config=config(batch=64))
    report = write_comparison([first, second], tmp_path / "out").files
    text = report.record.read_text()
    assert "**Steps are of different sizes** (256 sequences" in text
    assert "Loss in training and validation against tokens" in text
    assert re.search(r'data-measure="tokens" aria-pressed="true"', report.page.read_text())
    longer = [line | {"tokens": 2 * line["tokens"]} for line in lines_of(20)]
    third = write_run(tmp_path, "c", "three", longer)
    text = write_comparison([first, third], tmp_path / "out").files.record.read_text()
    assert "the mean length of the sequences differs" in text


@pytest.mark.slow
def test_the_page_begins_with_tokens_in_a_browser(tmp_path):
    first = write_run(tmp_path, "a", "one", lines_of(20))
    second = write_run(tmp_path, "b", "two", lines_of(20), config=config(batch=64))
    report = write_comparison([first, second], tmp_path / "out").files
    with opened(report.page.as_uri()) as (page, _, errors):
        page.wait_for_selector(".main-svg")
        assert "tokens, padding excluded" in page.locator(".chart").text_content()
        page.get_by_role("button", name="steps").click()
        assert "optimizer steps" in page.locator(".chart").text_content()
        assert errors == []


def test_what_cannot_be_read_is_named_and_the_rest_is_compared(tmp_path, capsys):
    good = write_run(tmp_path, "case1", "good", lines_of(20))
    running = {"state": "running", "code": 75, "message": "", "step": 5}
    write_run(tmp_path, "case1", "running", lines_of(5), status=running)
    write_run(tmp_path, "case1", "started", [])
    for name, text in (("json", "{"), ("metrics", "{}"), ("foreign", '{"bertds": {}}')):
        write_run(tmp_path, "broken", name, lines_of(5))
        (tmp_path / f"broken/{name}/case.json").write_text(text)
    write_run(tmp_path, "broken", "lines", lines_of(5))
    (tmp_path / "broken/lines/metrics.jsonl").write_text("nonsense\n{}\n")
    write_same(tmp_path, "case2", "again", "case1/good")
    write_same(tmp_path, "case2", "lost", "case9/nothing")
    paths = [*(tmp_path / name for name in ("case1", "broken", "case2", "no")), good]
    arguments = ["report", *map(str, paths), "--out", str(tmp_path / "out")]
    assert run("python -m bertds", COMMANDS, arguments) == 0
    out, err = capsys.readouterr()
    assert [Path(line).name for line in out.splitlines()][:3] == [
        "record.md",
        "record.html",
        "out_loss.png",
    ]
    expected = {
        "case1/running": "not finished (step 5 of 5,630)",
        "case1/started": "it has not logged anything yet",
        "broken/json": "case.json is not JSON",
        "broken/metrics": "its case.json is not that of a run",
        "broken/foreign": "its case.json is not that of a run",
        "broken/lines": "line 1 is not a flat JSON object",
        "case2/again": f"it is the run {good}",
        "case2/lost": "its run case9/nothing does not exist",
        "no": "does not exist",
    }
    lines = err.splitlines()
    text = (tmp_path / "out/record.md").read_text()
    for name, part in expected.items():
        (line,) = [line for line in lines if line.startswith(f"{tmp_path / name}: ")]
        assert part in line
        assert f"- {line}\n" in text
    assert len(lines) == len(expected) + 1  # and the run that is given twice
    assert set(re.findall(r"^\| `(\w+)` \| /", text, re.MULTILINE)) == {"good", "running"}


def test_a_comparison_needs_a_directory_of_its_own(tmp_path, capsys):
    good = write_run(tmp_path, "case1", "main", lines_of(5))
    for arguments, part in (
        ([good, good], "--out is missing"),
        ([good, "--out", good], "whose own report would be replaced"),
        ([good, "--out", good.parent], "whose own report would be replaced"),
        ([good, "--out", good.parent.parent], "whose own report would be replaced"),
        ([tmp_path / "no", "--out", tmp_path / "new"], "no: does not exist"),
    ):
        assert run("python -m bertds", COMMANDS, ["report", *map(str, arguments)]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.rglob("record.md"))


def test_the_verdict_of_a_comparison_is_preserved(tmp_path):
    good = write_run(tmp_path, "case1", "main", lines_of(5))
    record = write_comparison([good], tmp_path / "out").files.record
    record.write_text(record.read_text().replace("*to be written.*", "mine"))
    assert write_comparison([good], tmp_path / "out").files.record.read_text().count("mine") == 1
