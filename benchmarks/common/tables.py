"""Markdown tables with the date and the machine, printed and kept in `results/`."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def publish(name: str, title: str, header: list[str], rows: list[list[str]], notes: str) -> None:
    """Print a table and write it to `results/NAME.md`.

    Args:
        name: Of the file.
        title: Its headline.
        header: Of the columns.
        rows: The cells.
        notes: What a reader must know to judge the figures.
    """
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"# {title}\n\n{machine()}\n\n{table}\n\n{notes.strip()}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def machine() -> str:
    """Date, processor, load, versions."""
    today = datetime.datetime.now(datetime.UTC).date()
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[1]
    names = ("torch", "deepspeed", "numpy", "tokenizers")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{today}; {_processor()}, {cores} cores, load {load:.1f} in the last five minutes; "
        f"Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = named.get("flags", "").split()
    kinds = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{named.get('model name', platform.processor())} ({', '.join(kinds)})"
