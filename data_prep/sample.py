"""Sample."""

from pathlib import Path


def write_sample(out: Path, sentences: int, seed: int) -> None:
    """Not."""
