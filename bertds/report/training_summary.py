"""What launch/train.py prints at its end: the results of its runs, and the files of the report."""

import logging
from collections.abc import Sequence
from pathlib import Path

from bertds.config.case import Arm
from bertds.io.json_files import read_json, write_json
from bertds.metrics.baselines import baselines_by_name
from bertds.report.case_report import write_report
from bertds.report.formatting import metric
from bertds.tracking.jsonl import read_metrics

logger = logging.getLogger("bertds")


def training_summary(case_dir: Path, arms: Sequence[Arm], run_dirs: Sequence[Path]) -> list[str]:
    """Write the report of a case, and list results and files, one per line.

    An error is logged and leaves the list empty: it does not change the exit code of the training.

    Args:
        case_dir: `<out>/<case>`.
        arms: The selected arms. Those that are runs of another case get a link in `case_dir`.
        run_dirs: The directories of the runs.
    """
    try:
        for arm in arms:
            if arm.same_as != f"{case_dir.name}/{arm.name}":
                directory = case_dir / arm.name
                directory.mkdir(parents=True, exist_ok=True)
                link = {"case": case_dir.name, "arm": arm.name, "same_as": arm.same_as}
                write_json(directory / "case.json", link, concurrent_writers=True)
        report = write_report(case_dir)
        return [
            *(f"run     {run_dir}{_result(run_dir)}" for run_dir in run_dirs),
            f"report  {case_dir / report.record.name}",
            f"page    {case_dir / report.page.name}",
            *(f"plot    {case_dir / plot.name}" for plot in report.plots),
        ]
    except (ValueError, OSError) as error:
        logger.error(
            "the report was not written (%s): retry with `python -m bertds report %s`",
            error,
            case_dir,
        )
        return []


def _result(run_dir: Path) -> str:
    """The last validation metrics beside the baselines, empty if one is missing."""
    baseline = read_json(run_dir / "case.json").get("resolved", {}).get("guess_without_context")
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "loss/valid" in line]
    if not lines or baseline is None:
        return ""
    last = lines[-1]
    known = baselines_by_name(baseline).items()
    accuracies = ", ".join(f"{name} baseline {each['accuracy']:.1%}" for name, each in known)
    losses = ", ".join(
        f"{name} baseline {metric('loss/valid', each['loss'])}" for name, each in known
    )
    return (
        f": step {last['step']}, validation accuracy {last['acc/valid']:.1%} ({accuracies}), "
        f"loss {metric('loss/valid', last['loss/valid'])} nats ({losses})"
    )
