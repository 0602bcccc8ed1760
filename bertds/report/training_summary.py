"""What launch/train.py prints at its end: the report of the case, and where everything is."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertds.config.case import Arm
from bertds.io.json_files import read_json, write_json
from bertds.report.case_report import write_report
from bertds.tracking.jsonl import read_metrics

logger = logging.getLogger("bertds")


def training_summary(case_dir: Path, arms: Sequence[Arm], run_dirs: Sequence[Path]) -> list[str]:
    """Write the report of a case, and list the files.

    A report that fails is logged: it does not change the exit code of the training.

    Args:
        case_dir: `<out>/<case>`.
        arms: The arms that were asked for; those that are runs of another case are linked.
        run_dirs: The directories of the runs.
    """
    try:
        return list(_write_and_list(case_dir, arms, run_dirs))
    except (ValueError, OSError) as error:
        logger.error(
            "the report was not written (%s): write it with `python -m bertds report %s`",
            *(error, case_dir),
        )
        return []


def _write_and_list(case_dir: Path, arms: Sequence[Arm], run_dirs: Sequence[Path]) -> Iterator[str]:
    for arm in arms:
        if arm.same_as != f"{case_dir.name}/{arm.name}":
            directory = case_dir / arm.name
            directory.mkdir(parents=True, exist_ok=True)
            content = {"case": case_dir.name, "arm": arm.name, "same_as": arm.same_as}
            write_json(directory / "case.json", content, concurrent_writers=True)
    report = write_report(case_dir)
    for run_dir in run_dirs:
        yield f"run     {run_dir}{_result(run_dir)}"
    yield f"report  {case_dir / report.record.name}"
    yield f"page    {case_dir / report.page.name}"
    for plot in report.plots:
        yield f"plot    {case_dir / plot.name}"


def _result(run_dir: Path) -> str:
    """The last validation metrics beside the unigram baseline."""
    baseline = read_json(run_dir / "case.json").get("resolved", {}).get("guess_without_context")
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "loss/valid" in line]
    if not lines or baseline is None:
        return ""
    last = lines[-1]
    return (
        f": step {last['step']}, validation accuracy {last['acc/valid']:.1%} (unigram baseline "
        f"{baseline['accuracy']:.1%}), loss {last['loss/valid']:.3f} nats (unigram baseline "
        f"{baseline['loss']:.3f})"
    )
