"""Finds the run directories of a comparison, and gives each a short name that no other has."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertds.report.run_data import natural

__all__ = ["find_runs", "short_names"]


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find the run directories at and below each path.

    Returns:
        The directories, each once: in the order of the paths, then in natural order of names. And a
        line for each path without a run, and for repeated runs.
    """
    found: dict[Path, Path] = {}
    lines, repeated = [], 0
    for path in paths:
        if not path.is_dir():
            lines.append(f"{path}: {'not a directory' if path.exists() else 'does not exist'}")
            continue
        try:
            runs = list(_runs_below(path, set()))
        except OSError as error:
            lines.append(f"{path}: {error.filename} cannot be read ({error.strerror})")
            continue
        if not runs:
            lines.append(f"{path}: no run in it (expected case.json there or in a directory below)")
        for run in runs:
            repeated += run.resolve() in found
            found.setdefault(run.resolve(), run)
    if repeated:
        lines.append(f"runs given more than once, and shown once: {repeated}")
    return list(found.values()), lines


def _runs_below(directory: Path, seen: set[Path]) -> Iterator[Path]:
    """The run directories in a tree. Nothing inside a run, hidden, or seen before is searched."""
    if (directory / "case.json").is_file():
        yield directory
        return
    seen.add(directory.resolve())
    for child in sorted(directory.iterdir(), key=lambda path: natural(path.name)):
        is_searched = child.is_dir() and not child.name.startswith(".")
        if is_searched and child.resolve() not in seen:  # a link may lead back
            yield from _runs_below(child, seen)


def short_names(directories: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other path has: `main`, or `case2/main`."""
    parts = [Path(os.path.abspath(each)).parts for each in directories]  # noqa: PTH100
    names = [""] * len(parts)
    for length in range(1, max(map(len, parts), default=0) + 1):
        tails = [str(Path(*each[-length:])) for each in parts]
        counts = Counter(tails)
        names = [
            name or (tail if counts[tail] == 1 else "")
            for name, tail in zip(names, tails, strict=True)
        ]
    return names
