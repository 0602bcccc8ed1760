"""Numbers and tables as the record writes them."""

import math
from collections.abc import Iterable, Sequence

__all__ = [
    "NO_VALUE",
    "count",
    "date",
    "decimals",
    "duration",
    "epochs",
    "one_line",
    "table",
]
NO_VALUE = "–"


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    ruler = ["---"] * len(header)
    lines = [[one_line(cell).replace("|", "\\|") for cell in row] for row in (header, ruler, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def decimals(key: str, value: float) -> str:
    """A loss with three decimals, an accuracy with four."""
    if not math.isfinite(value):
        return "NaN"
    return f"{value:.3f}" if key.startswith("loss/") else f"{value:.4f}"


def count(value: float | None) -> str:
    """A whole number with commas."""
    return NO_VALUE if value is None or math.isnan(value) else f"{round(value):,}"


def epochs(value: float) -> str:
    """Passes over the data with two decimals."""
    return NO_VALUE if math.isnan(value) else f"{value:.2f}"


def date(value: str | None) -> str:
    """An ISO date to the minute."""
    return "" if value is None else value[:16].replace("T", " ")


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes."""
    if math.isnan(seconds):
        return NO_VALUE
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
