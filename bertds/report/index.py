"""The reports of all cases in a directory: an index, and one page with every case.

The report of each case is written as well. The index summarizes the runs, and shows the first
paragraph of each verdict.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from bertds.report.case_report import CaseReport, ReportFiles, write_file
from bertds.report.formatting import NO_VALUE, duration, metric, one_line, table
from bertds.report.html import Section, page
from bertds.report.plots import Format
from bertds.report.run_data import ArmRun, natural
from bertds.report.tables import state_of

__all__ = ["ReportIndex", "case_directories", "write_index"]
TITLE = "Experiments"
HEADER = ("case", "title", "arms", "best arm", "valid loss", "valid acc", "time", "verdict")
NOTE = (
    "Generated from the run directories by `python -m bertds report`. The best arm of a case has the "
    "lowest validation loss at any step; loss and accuracy are those of that step."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportIndex:
    """The files of an index, and of the report of each case."""

    record: Path
    page: Path
    cases: tuple[ReportFiles, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A case's row in the index, and its section of the page, without its runs."""

    cells: Sequence[str]
    section: Section
    files: ReportFiles


def case_directories(directory: Path) -> list[Path]:
    """The case directories in a directory, in natural order; empty if it is a case directory."""
    if any(directory.glob("*/case.json")):
        return []
    cases = {path.parent.parent for path in directory.glob("*/*/case.json")}
    return sorted(cases, key=lambda path: natural(path.name))


def write_index(directory: Path, plot_format: Format = "png") -> ReportIndex:
    """Write the report of every case in a directory, and `record.md` and `record.html` over all.

    Args:
        directory: The directory.
        plot_format: Format of the plots, in addition to PNG.

    Raises:
        ValueError: The directory has no case, or a file of a run is malformed.
    """
    directory = directory.absolute()
    cases = case_directories(directory)
    if not cases:
        raise ValueError(
            f"{directory} has no case (expected <case>/<arm>/case.json): train a case first, or "
            "check the path"
        )
    bar = tqdm(cases, desc="report", unit="case", disable=None)
    entries = [_report(case, plot_format) for case in bar]
    record, html = directory / "record.md", directory / "record.html"
    note = f"{NOTE} [record.html](record.html) shows all plots interactively."
    blocks = [f"# {TITLE}", note, _index(entries)]
    write_file(record, ("\n\n".join(blocks) + "\n").encode())
    sections = [entry.section for entry in entries]
    write_file(html, page(TITLE, sections, index=[NOTE, _index(entries, on_page=True)]))
    return ReportIndex(record=record, page=html, cases=tuple(entry.files for entry in entries))


def _report(case_dir: Path, plot_format: Format) -> _Entry:
    case = CaseReport.load(case_dir)
    section = case.section()
    name, _, title = case.title.partition(": ")
    seconds = [
        arm.reached("seconds") - arm.branch.get("seconds", 0.0)  # those of another run
        for arm in case.arms
        if arm.lines and not arm.same_as
    ]
    time = duration(sum(seconds)) if seconds else NO_VALUE
    verdict = section.verdict.removeprefix("**Verdict:**").strip()
    first_paragraph = one_line(re.split(r"\r?\n\r?\n", verdict, maxsplit=1)[0]) or NO_VALUE
    return _Entry(
        cells=(name, title, _arms(case.arms), *_best(case.shown), time, first_paragraph),
        section=section,
        files=case.write(section, plot_format),
    )


def _index(entries: Sequence[_Entry], *, on_page: bool = False) -> str:
    """A table of the cases, with links to their sections or to their own reports."""
    rows = []
    for entry in entries:
        name = quote(entry.section.name)
        target = f"#{name}" if on_page else f"{name}/record.md"
        rows.append([f"[{entry.cells[0]}]({target})", *entry.cells[1:]])
    return table(HEADER, rows)


def _arms(arms: Sequence[ArmRun]) -> str:
    """The number of arms, and the states of those that are not done."""
    states = [state_of(arm).partition(" (")[0] for arm in arms]
    others = [state for state in dict.fromkeys(states) if state != "done"]
    counts = [f"{states.count(state)} {state}" for state in others]
    return f"{len(arms)}" + (f" ({', '.join(counts)})" if counts else "")


def _best(arms: Sequence[ArmRun]) -> list[str]:
    """The arm with the lowest validation loss at any step, its loss, and its accuracy there."""
    reached = {}
    for arm in arms:
        losses = arm.series("loss/valid")
        if np.isfinite(losses.values).any():
            at = int(np.nanargmin(losses.values))
            accuracy = arm.series("acc/valid").value_at("step", float(losses.at["step"][at]))
            reached[arm.name] = (float(losses.values[at]), accuracy)
    if not reached:
        return [NO_VALUE] * 3
    name = min(reached, key=lambda arm: reached[arm][0])
    loss, accuracy = reached[name]
    return [f"`{name}`", metric("loss/valid", loss), metric("acc/valid", accuracy)]
