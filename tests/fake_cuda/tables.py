"""The committed tables of waits and operators, and the tables of the architecture page.

python -m tests.fake_cuda.tables    regenerate `waits.txt`, `operators.txt` and the page
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fake_cuda.programs import run_program
from tests.helpers.launching import ROOT

WAITS = Path(__file__).with_name("waits.txt")
OPERATORS = Path(__file__).with_name("operators.txt")
PAGE = ROOT / "docs" / "internals" / "architecture.md"
PHASES = ("forward", "backward", "update", "sums")
_PART = re.compile(r"(<!-- generated: (?P<name>gpu-[a-z]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_HEADER = "# Regenerate with python -m tests.fake_cuda.tables\n"


def wait_lines(stage: int | str, precision: str, waits: list[list[Any]]) -> list[str]:
    """The lines of one stage and precision; one line says so if there is no wait."""
    rows = waits or [[0, "none", ""]]
    return [f"{stage} {precision} {n} | {wait} | {place}".rstrip(" |") for n, wait, place in rows]


def committed_waits(stage: int | str, precision: str) -> list[str]:
    """The lines of one stage and precision in the committed table."""
    return [line for line in _rows(WAITS) if line.startswith(f"{stage} {precision} ")]


def committed_operators() -> dict[tuple[str, int], dict[str, int]]:
    """Operators by phase, by case file and micro-batch size."""
    rows = [line.split() for line in _rows(OPERATORS)]
    return {
        (name, int(sequences)): dict(zip(PHASES, map(int, counts), strict=True))
        for name, sequences, *counts in rows
    }


def waits_table() -> str:
    """A row for each ZeRO stage and precision: waits of DeepSpeed, and of this project."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for line in _rows(WAITS):
        stage, precision, times = line.split(" | ")[0].split()
        owner = line.rsplit(" | ", 1)[-1].split("/")[0]
        counts.setdefault((stage, precision), Counter())[owner] += int(times)
    rows = [
        "| ZeRO stage | Precision | Waits in DeepSpeed | Waits in bertds |",
        "|---|---|---|---|",
    ]
    for (stage, precision), owners in counts.items():
        rows.append(f"| {stage} | {precision} | {owners['deepspeed']} | {owners['bertds']} |")
    return "\n".join(rows) + "\n"


def operators_table() -> str:
    """A row for each case file and micro-batch size: operators by phase."""
    rows = [
        "| Case file | Micro-batch | Forward | Backward | Update | Metric sums | Total |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, sequences), counts in committed_operators().items():
        cells = " | ".join(f"{counts[phase]:,}" for phase in PHASES)
        rows.append(f"| `{name}.json` | {sequences} | {cells} | {sum(counts.values()):,} |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """A page with its generated parts replaced."""
    tables = {"gpu-waits": waits_table, "gpu-operators": operators_table}
    return _PART.sub(lambda part: f"{part[1]}\n{tables[part['name']]()}\n{part[3]}", page)


def _rows(table: Path) -> list[str]:
    lines = table.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def regenerate() -> None:
    """Run the programs and write all tables."""
    lines = [
        _HEADER,
        "# Waits of the host for the device in a step of two micro-batches, rank 0 of 2.\n",
    ]
    lines += ["# ZeRO stage, precision, times | wait | place\n"]
    for key, waits in run_program("step_waits").items():
        lines += [line + "\n" for line in wait_lines(*key.split(), waits)]
    WAITS.write_text("".join(lines), encoding="utf-8")
    lines = [_HEADER, "# Operators of a step with one micro-batch, by phase.\n"]
    lines.append(f"# case file, sequences, {', '.join(PHASES)}\n")
    for name, steps in run_program("full_size").items():
        for step in steps:
            counts = " ".join(str(step["operators"][phase]) for phase in PHASES)
            lines.append(f"{name} {step['sequences']} {counts}\n")
    OPERATORS.write_text("".join(lines), encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    regenerate()
