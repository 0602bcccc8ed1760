"""Result tables in Markdown with date, machine and versions, printed and written to `results/`."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

from bertds.report.formatting import table

RESULTS = Path(__file__).resolve().parents[1] / "results"


def publish(name: str, title: str, header: list[str], rows: list[list[str]], notes: str) -> None:
    """Print a table and write it to `results/NAME.md`.

    Args:
        name: File name without its ending.
        title: Heading of the page.
        header: Column names.
        rows: Cells.
        notes: How the figures were measured.
    """
    text = f"# {title}\n\n{describe_machine()}\n\n{table(header, rows)}\n\n{notes.strip()}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def describe_machine() -> str:
    """Return one line with the date, the processor, the load and the versions."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = (line.split(":", 1) for line in lines if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields}
    flags = cpu.get("flags", "").split()
    extensions = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    processor = f"{cpu.get('model name', platform.processor())} ({', '.join(extensions)})"
    cores = len(os.sched_getaffinity(0))
    names = ("torch", "deepspeed", "numpy", "tokenizers")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{today}; {processor}, {cores} cores, load {os.getloadavg()[1]:.1f} in the last five "
        f"minutes; Python {platform.python_version()}, {versions}."
    )
