"""Chooses what to read of an input with splits or configurations: what is meant for training.

The rule is the same for all inputs: the split `train` where there is one, else the user must name
one. What is read and what is left out is always printed.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

TRAIN = "train"
_SYNONYMS = {  # as Hugging Face datasets knows them
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_NAMES = {synonym: split for split, synonyms in _SYNONYMS.items() for synonym in synonyms}
_KEYWORD = re.compile(rf"(?<![^\W\d_])({'|'.join(_NAMES)})(?![^\W\d_])", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+?)-\d{5}-of-\d{5}\b")
Content = TypeVar("Content")


def split_of(path: PurePath) -> str:
    """The split that a relative path names, as `data/validation-00000-of-00001.parquet` does.

    Returns:
        The split, or an empty string if the path names none.
    """
    for part in reversed(path.parts):
        if keyword := _KEYWORD.search(part):
            return _NAMES[keyword[1].lower()]
    numbered = _NUMBERED.match(path.name)
    return numbered[1] if numbered else ""


def choose_split(where: str, splits: Mapping[str, Content], example: str) -> Content:
    """The content of the split `train`.

    Args:
        where: The input, as the user named it.
        splits: What there is to choose from, by name.
        example: How to name a split, for the error message.

    Raises:
        ValueError: There is no such split.
    """
    if TRAIN not in splits:
        names = ", ".join(name or "(no name)" for name in splits)
        raise ValueError(
            f"{where} has no split {TRAIN}, it has {names}: name what to read, as in {example}"
        )
    others = [name or "files of no split" for name in splits if name != TRAIN]
    left_out = f"; not read: {', '.join(others)}" if others else ""
    print(f"{where}: reading the split {TRAIN}{left_out}", file=sys.stderr)
    return splits[TRAIN]


def by_split(files: Sequence[Path], directory: Path) -> dict[str, list[Path]]:
    """The files of each split, as their paths in the directory tell."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.relative_to(directory)), []).append(file)
    return splits


def warn_of_splits(pattern: str, files: Sequence[PurePath]) -> None:
    """Warn if a glob matches files for training and, by their names, others for evaluation."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(split_of(PurePath(file.name)), []).append(file.name)
    held_out = [name for split in ("validation", "test") for name in names.get(split, [])]
    if TRAIN in names and held_out:
        print(
            f"warning: {pattern} also matches {len(held_out):,} files that are not meant for "
            f"training by their names ({', '.join(sorted(held_out)[:3])}): name the files for "
            "training only",
            file=sys.stderr,
        )
