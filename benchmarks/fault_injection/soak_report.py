"""Compares the disturbed run of `soak.py` with the undisturbed one, and writes the report."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common.tables import describe_machine
from benchmarks.fault_injection.faults import NO_TARGET
from bertds.report.formatting import table

TIME_DEPENDENT = {"seconds", "tokens_per_s", "data_wait", "mfu", "peak_memory"}
TIME_DEPENDENT |= {"forward", "backward", "update"}


def write_report(
    page: Path,
    summary: dict[str, Any],
    events: list[dict[str, Any]],
    run_dir: Path,
    reference: Path,
    memory: list[int],
) -> bool:
    """Compare the runs and write the report. Return whether all checks pass.

    Args:
        page: File for the report.
        summary: Durations, steps, leftover processes and shared memory of the soak.
        events: Faults and attempts in their order.
        run_dir: Run directory of the disturbed run.
        reference: Run directory of the undisturbed run.
        memory: Memory samples of the undisturbed run, in bytes.
    """
    steps = summary["steps"]
    equal = {
        "weights and moments": _tensor_hashes(run_dir) == _tensor_hashes(reference),
        "state (step, tokens, schedule, sums)": _state(run_dir) == _state(reference),
        "lines of metrics.jsonl": _metrics(run_dir, steps) == _metrics(reference, steps),
    }
    results = [f"{name}: {'bit-exact' if ok else '**different**'}" for name, ok in equal.items()]
    results += [
        f"processes left over: {len(summary['leftover'])}",
        f"longest time a process outlived its launcher: {summary['longest_leftover_s']:.0f} s",
        f"left in /dev/shm: {summary['shared_memory']:,} bytes",
    ]
    overview = (
        f"{summary['minutes']:g} minutes with a fault every {summary['every']:g} s on average, "
        f"{steps:,} steps. Compared with a run of the same number of steps without faults:"
    )
    blocks = [
        "# Soak test: two processes under random faults",
        describe_machine(),
        overview,
        "\n".join(f"- {result}" for result in results),
        *_describe_faults(events),
        *_describe_attempts(events),
        *_describe_memory(events, memory),
    ]
    text = "\n\n".join(blocks) + "\n"
    page.write_text(text, encoding="utf-8")
    print(text)
    return all(equal.values()) and not summary["leftover"]


def _newest_checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text().strip()


def _tensor_hashes(run_dir: Path) -> dict[str, str]:
    """Return the hash of each rank's tensor file in the newest checkpoint."""
    files = json.loads((_newest_checkpoint(run_dir) / "manifest.json").read_text())["files"]
    return {name: file["sha256"] for name, file in files.items() if name != "state.json"}


def _state(run_dir: Path) -> dict[str, Any]:
    """Return the saved state without the best loss and the sums since the last log line.

    A run that ends validates and logs once more, so these two differ.
    """
    saved = json.loads((_newest_checkpoint(run_dir) / "state.json").read_text())
    state = {k: v for k, v in saved["state"].items() if k not in ("best_loss", "since_log")}
    return {**saved, "state": state}


def _metrics(run_dir: Path, steps: int) -> list[dict[str, Any]]:
    """Return the metrics before the last step, without those that depend on time."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in TIME_DEPENDENT}
        for line in lines
        if line["step"] < steps
    ]


def _describe_faults(events: list[dict[str, Any]]) -> list[str]:
    faults = [event for event in events if event["what"] == "fault"]
    counts = Counter(fault["kind"] for fault in faults if fault["effect"] != NO_TARGET)
    blocks = [table(["fault", "count"], [[kind, f"{n}"] for kind, n in sorted(counts.items())])]
    if missed := len(faults) - counts.total():
        blocks.append(f"{missed} more kills or stops found no process to strike.")
    return blocks


def _describe_attempts(events: list[dict[str, Any]]) -> list[str]:
    """Count how the attempts ended, by the code in `status.json`."""
    attempts = [event for event in events if event["what"] == "life"]
    codes = Counter(f"{one['said']} (launcher: {one['code']})" for one in attempts)
    return [
        f"The same command was started {len(attempts) + 1} times. The code in status.json at each end:",
        table(["code", "count"], [[code, f"{count}"] for code, count in codes.most_common()]),
    ]


def _describe_memory(events: list[dict[str, Any]], undisturbed: list[int]) -> list[str]:
    """Show medians over each quarter of the time; memory is constant if they do not grow."""
    peaks = [event["memory"] for event in events if event["what"] == "life" and event["memory"]]
    rows = []
    for name, values in (
        ("peak of each attempt under faults", peaks),
        ("undisturbed run, after its first tenth", undisturbed[len(undisturbed) // 10 :]),
    ):
        size = max(1, len(values) // 4)
        quarters = [values[i * size : (i + 1) * size] or [0] for i in range(4)]
        rows.append([name, *(f"{statistics.median(each) / 1e6:,.0f}" for each in quarters)])
    header = "MB of both processes, median of each quarter:"
    return [header, table(["", "1", "2", "3", "4"], rows)]
