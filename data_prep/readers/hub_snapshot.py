"""Finds the parquet files for training in a snapshot of a dataset repository of the Hub.

The splits follow from the names of files and directories. The configurations follow from the
header of README.md, as they do for Hugging Face `datasets`.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.readers.splits import TRAIN, by_split, choose_split

_CARD_NAME = "README.md"
_NUMBERS = re.compile(r"\d{5}-of-\d{5}")
Splits = dict[str, list[Path]]


def snapshot_files(directory: Path) -> list[Path]:
    """The parquet files for training.

    Raises:
        ValueError: The configuration or the split is not clear.
    """
    files = [
        path
        for path in sorted(directory.rglob("*.parquet"))
        # Hidden directories are caches of downloads.
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    ]
    configurations = _configurations(directory, files)
    splits = _choose_configuration(directory, configurations) or by_split(files, directory)
    if splits.keys() <= {""}:
        return splits.get("", [])
    first = next(iter(splits.values()))
    return choose_split(str(directory), splits, f"--input '{_glob(first)}'")


def _choose_configuration(directory: Path, configurations: Mapping[str, Splits]) -> Splits | None:
    """The splits of the default configuration, or of the only one; None if there are none."""
    if not configurations:
        return None
    names = ", ".join(name for name in configurations if name)
    if "" in configurations:  # the default one
        name = ""
    elif len(configurations) == 1:
        (name,) = configurations
    else:
        splits = next(iter(configurations.values()))
        files = splits.get(TRAIN) or next(iter(splits.values()))
        raise ValueError(
            f"{directory} has the configurations {names} and no default: name what to read, as in "
            f"--input '{_glob(files)}'"
        )
    if names and len(configurations) > 1:
        print(f"{directory}: reading the default configuration; not read: {names}", file=sys.stderr)
    return configurations[name]


def _configurations(directory: Path, files: list[Path]) -> dict[str, Splits]:
    """The splits of each configuration that has parquet files; the default one has no name."""
    from huggingface_hub import metadata_load  # slow to import

    card = directory / _CARD_NAME
    try:
        header: Any = metadata_load(card) if card.is_file() else None
    except Exception as error:  # the errors of the parser of YAML have no common public type
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{card} has an invalid header ({reason}): name the parquet files with --input"
        ) from error
    entries = header.get("configs") if isinstance(header, dict) else None
    configurations: dict[str, Splits] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            is_default = entry.get("default") or entry.get("config_name") == "default"
            name = "" if is_default else str(entry.get("config_name"))
            if splits := _splits_of_entry(directory, entry, set(files)):
                configurations[name] = splits
    return configurations


def _splits_of_entry(root: Path, entry: Mapping[str, Any], files: set[Path]) -> Splits:
    """The splits that the `data_files` of a configuration name, or those of its `data_dir`."""
    data_dir, data_files = entry.get("data_dir"), entry.get("data_files")
    directory = root / data_dir.strip("/") if isinstance(data_dir, str) else root
    if data_files is None and directory != root:
        data_files = "**"
    splits: Splits = {}
    for item in data_files if isinstance(data_files, list) else [data_files]:
        patterns = item.get("path") if isinstance(item, dict) else item
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            found = _matches(directory, pattern, files)
            if isinstance(item, dict):
                splits.setdefault(str(item.get("split")), []).extend(found)
            else:
                for split, each in by_split(found, directory).items():
                    splits.setdefault(split, []).extend(each)
    return {split: found for split, found in splits.items() if found}


def _matches(directory: Path, pattern: Any, files: set[Path]) -> list[Path]:
    """The parquet files that a pattern of the header matches."""
    if not isinstance(pattern, str) or not pattern.strip("/"):
        return []
    pattern = re.sub(r"(^|/)\*\*$", r"\1**/*", pattern.lstrip("/"))  # it means files, at any depth
    return [path for path in sorted(set(directory.glob(pattern))) if path in files]


def _glob(files: list[Path]) -> str:
    """A glob that matches the files that are numbered like the first."""
    return str(files[0].with_name(_NUMBERS.sub("*", files[0].name)))
