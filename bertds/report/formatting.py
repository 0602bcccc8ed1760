"""Formats of numbers, and the Markdown table, of all reports."""

import math
from collections.abc import Iterable, Sequence

__all__ = [
    "NO_VALUE",
    "count",
    "date",
    "duration",
    "epochs",
    "metric",
    "one_line",
    "table",
    "time_unit",
]
NO_VALUE = "–"
TIME_UNITS = (("s", 1.0, 180.0), ("min", 60.0, 3 * 3600.0), ("h", 3600.0, 4 * 86400.0))
"""Name, seconds, and the longest time that an axis shows in this unit."""


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " ".join(text.split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    ruler = ["---"] * len(header)
    lines = [[one_line(cell).replace("|", "\\|") for cell in row] for row in (header, ruler, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def metric(key: str, value: float) -> str:
    """Format a loss with three decimals, an accuracy with four."""
    if not math.isfinite(value):
        return "NaN"
    return f"{value:.3f}" if key.startswith("loss/") else f"{value:.4f}"


def count(value: float | None) -> str:
    """Format a whole number with commas."""
    return NO_VALUE if value is None or math.isnan(value) else f"{round(value):,}"


def epochs(value: float) -> str:
    """Format a number of epochs with two decimals."""
    return NO_VALUE if math.isnan(value) else f"{value:.2f}"


def date(value: str | None) -> str:
    """Shorten an ISO date to the minute."""
    return "" if value is None else value[:16].replace("T", " ")


def duration(seconds: float) -> str:
    """Format a time in seconds, in minutes, or in hours and minutes."""
    if math.isnan(seconds):
        return NO_VALUE
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def time_unit(longest: float) -> tuple[str, float]:
    """Choose the unit of a time axis that ends at `longest` seconds: its name, its seconds."""
    for name, seconds, limit in TIME_UNITS:
        if longest < limit:
            return name, seconds
    return "days", 86400.0
