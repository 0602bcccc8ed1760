"""The record of all cases in a directory: an index, and a page with every case in it.

Each case is drawn as `report` draws it; what stands above them is made from the same runs, and the
first line of a case's verdict is its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from bertds.io.atomic import atomic_write
from bertds.report.case_report import CaseRecord, Report
from bertds.report.formatting import NO_VALUE, duration, one_line, table
from bertds.report.html import Section, page
from bertds.report.run_data import ArmRun, natural
from bertds.report.tables import best, state_of

__all__ = ["ReportIndex", "case_directories", "write_index"]
TITLE = "The record"
HEADER = ("case", "what it compares", "arms", "best validation accuracy", "time", "verdict")
NOTE = "Drawn from the runs by `python -m bertds report`."


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportIndex:
    """What was written: the index, its page, and what each case has."""

    record: Path
    page: Path
    cases: tuple[Report, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A case's row in the index, and its section of the page; the runs are let go."""

    cells: Sequence[str]
    section: Section
    report: Report


def case_directories(directory: Path) -> list[Path]:
    """The cases that lie in a directory, in the order of their numbers; none if it is a case."""
    if any(directory.glob("*/case.json")):
        return []
    cases = {path.parent.parent for path in directory.glob("*/*/case.json")}
    return sorted(cases, key=lambda path: natural(path.name))


def write_index(directory: Path) -> ReportIndex:
    """Draws every case of a directory, then `record.md` and `record.html` over all of them.

    Raises:
        ValueError: If the directory holds no case, or a file of a run is broken.
    """
    directory = directory.absolute()
    cases = case_directories(directory)
    if not cases:
        raise ValueError(f"{directory} holds no case: no arm's case.json; train a case first.")
    bar = tqdm(cases, desc="drawing", unit="case", disable=None)
    entries = [_draw(case) for case in bar]
    record, drawn = directory / "record.md", directory / "record.html"
    blocks = [f"# {TITLE}", f"{NOTE} [record.html](record.html) has all curves.", _index(entries)]
    with atomic_write(record, concurrent_writers=True) as file:
        file.write(("\n\n".join(blocks) + "\n").encode())
    with atomic_write(drawn, concurrent_writers=True) as file:
        sections = [entry.section for entry in entries]
        file.write(page(TITLE, sections, index=[NOTE, _index(entries, on_page=True)]))
    return ReportIndex(record=record, page=drawn, cases=tuple(entry.report for entry in entries))


def _draw(case_dir: Path) -> _Entry:
    case = CaseRecord.load(case_dir)
    section = case.section()
    name, _, title = case.title.partition(": ")
    return _Entry(
        cells=(
            name,
            title,
            _arms(case.arms),
            _best(case.arms),
            _time(case.arms),
            _verdict(section),
        ),
        section=section,
        report=case.write(section),
    )


def _index(entries: Sequence[_Entry], *, on_page: bool = False) -> str:
    """A row a case, with a link to its section or to its own record."""
    rows = []
    for entry in entries:
        name = quote(entry.section.name)
        target = f"#{name}" if on_page else f"{name}/record.md"
        rows.append([f"[{entry.cells[0]}]({target})", *entry.cells[1:]])
    return table(HEADER, rows)


def _arms(arms: Sequence[ArmRun]) -> str:
    """How many there are, and what those do that are not done."""
    states = [state_of(arm).partition(" (")[0] for arm in arms]
    others = [state for state in dict.fromkeys(states) if state != "done"]
    counted = [f"{states.count(state)} {state}" for state in others]
    return f"{len(arms)}" + (f" ({', '.join(counted)})" if counted else "")


def _best(arms: Sequence[ArmRun]) -> str:
    """The arm that reached the greatest accuracy, wherever it was."""
    reached = {}
    for arm in arms:
        accuracy = arm.series("acc/valid").values
        if np.isfinite(accuracy).any():
            reached[arm.name] = (float(np.nanmax(accuracy)), best(arm, "acc/valid")[0])
    if not reached:
        return NO_VALUE
    name = max(reached, key=lambda arm: reached[arm][0])
    return f"{reached[name][1]} `{name}`"


def _time(arms: Sequence[ArmRun]) -> str:
    """Of the runs that are this case's own."""
    reached = [arm.reached("seconds") for arm in arms if arm.lines and not arm.same_as]
    return duration(sum(reached)) if reached else NO_VALUE


def _verdict(section: Section) -> str:
    """Its first paragraph, without the word."""
    text = section.verdict.removeprefix("**Verdict:**").strip()
    return one_line(re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]) or NO_VALUE
