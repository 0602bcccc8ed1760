"""The report of a case: its files, the preserved verdict, atomic writes, the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from bertds.__main__ import COMMANDS
from bertds.cli import run
from bertds.report.case_report import write_report
from tests.helpers.fake_runs import config, lines_of, write_run, write_same

PLOTS = ("loss", "acc", "lr", "loss_relative", "acc_relative")


@pytest.mark.usefixtures("no_plots")
def test_the_files_of_a_report(case6):
    report = write_report(case6)
    assert report.record == case6 / "record.md"
    assert [path.name for path in report.plots] == [f"case6_{name}.png" for name in PLOTS]
    assert sorted(path.name for path in case6.iterdir() if path.is_file()) == sorted(
        ["record.html", "record.md", *(path.name for path in report.plots)]
    )
    text = report.record.read_text()
    assert text.startswith("# case6: depth\n")
    assert all(f"]({path.name})" in text for path in report.plots)


@pytest.mark.usefixtures("no_plots")
def test_the_title_is_the_one_of_the_arms_own_config(case6):
    root = case6.parent
    write_same(root, "case7", "decay1e-4", "case6/layers3")
    write_run(root, "case7", "decay1e-3", lines_of(30), config=config("weight decay"))
    assert write_report(root / "case7").record.read_text().startswith("# case7: weight decay\n")


def test_an_incomplete_line_and_temporary_files_of_others_change_nothing(case6):
    """The same metrics give the same bytes, also while another arm writes metrics and report."""
    report = write_report(case6)
    paths = [report.record, report.page, *report.plots]
    before = [path.read_bytes() for path in paths]
    with (case6 / "layers3" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 31, "loss/tra')
    others = [path.with_name(f".tmp-{path.name}") for path in paths]
    for path in others:
        path.write_text("another's")
    write_report(case6)
    assert [path.read_bytes() for path in paths] == before
    assert [path.read_text() for path in others] == ["another's"] * len(others)
    assert sorted(case6.glob(".tmp-*")) == sorted(others)


@pytest.mark.usefixtures("no_plots")
def test_a_written_verdict_is_preserved(case6):
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


def test_a_case_without_metrics_has_a_report_and_no_plots(tmp_path):
    status = {"state": "running", "code": 0, "message": "", "step": 0}
    write_run(tmp_path, "case1", "layers4", [], status=status)
    report = write_report(tmp_path / "case1")
    assert report.plots == ()
    assert "| running |" in report.record.read_text()


@pytest.mark.usefixtures("no_plots")
def test_a_relative_path_and_a_link_to_a_missing_run(case6, monkeypatch):
    write_same(case6.parent, "case7", "decay1e-4", "case6/layers3")
    write_same(case6.parent, "case7", "decay1e-5", "case6/missing")
    monkeypatch.chdir(case6.parent / "case7")
    assert write_report(Path()).plots[0].name == "case7_loss.png"


@pytest.mark.usefixtures("no_plots")
def test_the_command_reports_one_case_or_all_and_prints_the_files(case6, capsys):
    for directory, names in (
        (case6, ["record.md", "record.html", *(f"case6_{name}.png" for name in PLOTS)]),
        (case6.parent, ["record.md", "record.html", "case6/record.html"]),
    ):
        assert run("python -m bertds", COMMANDS, ["report", str(directory)]) == 0
        printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert printed == [directory / name for name in names]
        assert all(path.stat().st_size > 100 for path in printed)
    assert run("python -m bertds", COMMANDS, ["report", str(case6.parent / "nothing")]) == 2
    assert "has no runs" in capsys.readouterr().err
    assert not (case6.parent / "nothing").exists()


@pytest.mark.usefixtures("no_plots")
def test_the_command_writes_plots_in_another_format_too(case6, capsys):
    """Of one case, or of all; the report shows the PNG files."""
    for directory in (case6, case6.parent):
        assert run("python -m bertds", COMMANDS, ["report", str(directory), "--format=pdf"]) == 0
        written = {path.name for path in case6.glob("case6_*")}
        assert written == {f"case6_{name}.{each}" for name in PLOTS for each in ("png", "pdf")}
        [path.unlink() for path in case6.glob("case6_*")]
    assert ".pdf" not in (case6 / "record.md").read_text()
    assert f"{case6}/case6_lr.pdf" in capsys.readouterr().out
    assert run("python -m bertds", COMMANDS, ["report", str(case6), "--format=gif"]) == 2
    assert "--format is 'gif', expected one of png, svg, pdf" in capsys.readouterr().err


def test_torch_is_not_imported():
    code = "import sys, bertds.report.training_summary; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
