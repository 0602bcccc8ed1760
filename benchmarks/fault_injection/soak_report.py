"""What `soak.py` found: the comparison to the undisturbed run, and a page about it."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from tables import machine

# What depends on the clock.
TIMED = {"seconds", "tokens_per_s", "data_wait", "mfu", "peak_memory"}
TIMED |= {"forward", "backward", "update"}


def write_report(
    page: Path,
    facts: dict[str, Any],
    events: list[dict[str, Any]],
    run_dir: Path,
    straight: Path,
    memory: list[int],
) -> bool:
    """Compare, print and write; whether all is as it must be.

    Args:
        page: Where the report goes.
        facts: Of the soak.
        events: Faults and lives in their order.
        run_dir: Of the disturbed run.
        straight: Of the undisturbed run.
        memory: Samples of the undisturbed run.
    """
    same = {
        "weights and moments": _tensors(run_dir) == _tensors(straight),
        "state (step, tokens, schedule, sums)": _state(run_dir) == _state(straight),
        "lines of metrics.jsonl": _figures(run_dir, facts["steps"])
        == _figures(straight, facts["steps"]),
    }
    good = all(same.values()) and not facts["left"]
    summary = (
        f"{facts['minutes']:g} minutes with a fault about every {facts['every']:g} s, "
        f"{facts['steps']:,} steps. At its end, compared with a run of as many steps without a fault:"
    )
    lines = [
        "# Soak: two processes under random faults",
        "",
        machine(),
        "",
        summary,
        "",
        *(
            f"- {name}: {'the same to the bit' if yes else '**different**'}"
            for name, yes in same.items()
        ),
        f"- processes left behind: {len(facts['left'])}",
        f"- longest that a process outlived its launcher: {facts['longest leftover']:.0f} s",
        f"- left in /dev/shm: {facts['shared memory']:,} bytes",
        "",
        *_faults(events),
        "",
        *_lives(events),
        "",
        *_memory(events, memory),
    ]
    text = "\n".join(lines) + "\n"
    page.write_text(text, encoding="utf-8")
    print(text)
    return good


def _newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text().strip()


def _tensors(run_dir: Path) -> dict[str, str]:
    """The hash of each process's file."""
    files = json.loads((_newest(run_dir) / "manifest.json").read_text())["files"]
    return {name: file["sha256"] for name, file in files.items() if name != "state.json"}


def _state(run_dir: Path) -> dict[str, Any]:
    """All but the best figure and the open sums: a run that ends validates and logs once more."""
    saved = json.loads((_newest(run_dir) / "state.json").read_text())
    state = {k: v for k, v in saved["state"].items() if k not in ("best_loss", "since_log")}
    return {**saved, "state": state}


def _figures(run_dir: Path, steps: int) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in TIMED}
        for line in lines
        if line["step"] < steps
    ]


def _faults(events: list[dict[str, Any]]) -> list[str]:
    faults = [event for event in events if event["what"] == "fault"]
    struck = Counter(f["kind"] for f in faults if f["effect"] != "nobody was there")
    missed = sum(fault["effect"] == "nobody was there" for fault in faults)
    rows = [f"| {kind} | {count} |" for kind, count in sorted(struck.items())]
    note = f"{missed} more kills or stops found no process to strike." if missed else ""
    return ["| fault | times |", "|---|---|", *rows, *(["", note] if note else [])]


def _lives(events: list[dict[str, Any]]) -> list[str]:
    """How the run ended each time, by the code in its status."""
    lives = [event for event in events if event["what"] == "life"]
    codes = Counter(f"{life['said']} (launcher: {life['code']})" for life in lives)
    rows = [f"| {code} | {count} |" for code, count in codes.most_common()]
    head = [f"The same command was started {len(lives) + 1} times. Code in status.json at its end:"]
    return [*head, "", "| code | times |", "|---|---|", *rows]


def _memory(events: list[dict[str, Any]], undisturbed: list[int]) -> list[str]:
    """Medians of the four quarters of the time: flat if they do not grow."""
    peaks = [event["memory"] for event in events if event["what"] == "life" and event["memory"]]
    steady = undisturbed[len(undisturbed) // 10 :]
    rows = [
        f"| {name} | {' | '.join(f'{value / 1e6:,.0f}' for value in _quarters(values))} |"
        for name, values in (
            ("peak of a life under faults", peaks),
            ("undisturbed run, after its first tenth", steady),
        )
    ]
    return ["MB of both processes, median of each quarter:", "", "| | 1 | 2 | 3 | 4 |"] + [
        "|---|---|---|---|---|",
        *rows,
    ]


def _quarters(values: list[int]) -> list[float]:
    quarter = max(1, len(values) // 4)
    return [statistics.median(values[i * quarter : (i + 1) * quarter] or [0]) for i in range(4)]
