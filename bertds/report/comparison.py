"""Compares any run directories, of different cases and places: the same files as for a case.

What cannot be read is named and left out; the rest is compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bertds.report.case_report import CaseReport, ReportFiles, read_verdict
from bertds.report.comparability import compare
from bertds.report.formatting import count, one_line, table
from bertds.report.plots import Format
from bertds.report.run_data import ArmRun, follow_links, load_arm, numbered
from bertds.report.run_search import find_runs, short_names
from bertds.report.seed_groups import mean_over_seeds
from bertds.report.tables import state_of
from bertds.report.valid_set_identity import vocabulary_key

__all__ = ["Comparison", "write_comparison"]
NO_DIFFERENCE = (
    "All runs have the same vocabulary, validation sets, masks and batch: their figures can be "
    "compared."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The files of a comparison, and a line for each thing that is left out or may change."""

    files: ReportFiles
    remarks: Sequence[str]


def write_comparison(paths: Sequence[Path], out: Path, plot_format: Format = "png") -> Comparison:
    """Compare all runs at and below some paths.

    Args:
        paths: Run directories, and directories above run directories.
        out: The directory of the report, created if missing. It has no runs.
        plot_format: Format of the plots, in addition to PNG.

    Raises:
        ValueError: No run can be read, or `out` has runs.
    """
    # A run, a case, or a directory of cases has reports of its own.
    if any(any(out.glob(f"{level}case.json")) for level in ("", "*/", "*/*/")):
        raise ValueError(
            f"--out {out} has runs, whose own report would be replaced: choose another directory"
        )
    directories, remarks = find_runs(paths)
    places: dict[str, Path] = {}
    runs: list[ArmRun] = []
    for name, directory in zip(short_names(directories), directories, strict=True):
        run = _load(directory, directories, remarks)
        if run is not None:
            runs.append(replace(run, name=name))
            places[name] = directory
    if not runs:
        raise ValueError(f"there is no run to compare ({'; '.join(remarks)})")
    report = _report(numbered(runs), places, remarks, out.absolute())
    out.mkdir(parents=True, exist_ok=True)
    return Comparison(files=report.write(report.section(), plot_format), remarks=remarks)


def _load(directory: Path, compared: Sequence[Path], remarks: list[str]) -> ArmRun | None:
    """Read a run; None, and a remark, if there is nothing to compare."""
    try:
        run, source = load_arm(directory), follow_links(directory)
    except (ValueError, OSError) as error:
        remarks.append(f"{directory}: left out, because it cannot be read ({one_line(str(error))})")
        return None
    if run.same_as and source.resolve() in [each.resolve() for each in compared]:
        remarks.append(f"{directory}: left out, because it is the run {source}")
    elif run.same_as and not run.case:
        remarks.append(f"{directory}: left out, because its run {run.same_as} does not exist")
    elif "config" not in run.case:
        remarks.append(f"{directory}: left out, because its case.json is not that of a run")
    elif not run.lines:
        remarks.append(f"{directory}: left out, because it has not logged anything yet")
    else:
        if run.status.get("state") == "running":
            reached = f"step {count(run.reached('step'))} of {count(run.resolved.get('num_steps'))}"
            remarks.append(f"{directory}: not finished ({reached})")
        return replace(run, vocabulary=vocabulary_key(source / "tokenizer.json"))
    return None


def _report(
    runs: Sequence[ArmRun], places: Mapping[str, Path], remarks: Sequence[str], out: Path
) -> CaseReport:
    found = compare(runs)
    rows = [
        [
            f"`{run.name}{found.groups.get(run.name, '')}`",
            str(places[run.name]),
            f"{run.case.get('case')}/{run.case.get('arm')}",
            state_of(run),
        ]
        for run in runs
    ]
    notes = [table(("run", "directory", "case/arm", "status"), rows)]
    notes += ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []
    notes += found.notes or [NO_DIFFERENCE]
    return CaseReport(
        case_dir=out,
        title=one_line(f"{out.name}: comparison of {len(runs)} runs"),
        arms=_numbered_by_group(found.runs, found.groups),
        shown=_numbered_by_group(mean_over_seeds(found.runs), found.groups),
        verdict=read_verdict(out),
        notes=notes,
        measure=found.measure,
        has_vocabularies=found.has_vocabularies,
    )


def _numbered_by_group(runs: Sequence[ArmRun], groups: Mapping[str, str]) -> list[ArmRun]:
    """The runs with the numbers of their groups behind their names."""
    return [
        replace(run, name=run.name + groups.get((run.members or (run,))[0].name, ""))
        for run in runs
    ]
