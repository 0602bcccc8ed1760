"""Finds the Arrow and parquet files of Hugging Face dataset directories.

A directory is one of three kinds: a DatasetDict or a Dataset written by `save_to_disk`, or any
directory with parquet files, such as a snapshot from the Hub. Of splits, `train` is read.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from bertds.io.json_files import read_json_object
from bertds.io.remote import is_url
from data_prep.readers.hub_snapshot import snapshot_files
from data_prep.readers.splits import choose_split

STATE_NAME, DICT_NAME = "state.json", "dataset_dict.json"


def hf_files(spec: str) -> list[Path | str]:
    """The Arrow and parquet files of the directories `D[,D...]`.

    Raises:
        ValueError: A directory is missing or damaged, or holds no such file.
    """
    return [file for each in dataset_directories("from_hf", spec) for file in _find_files(each)]


def dataset_directories(flag: str, spec: str) -> list[Path]:
    """The directories `D[,D...]` that a flag names.

    Raises:
        ValueError: One is a URL, or does not exist.
    """
    # A path may contain commas itself. Path.is_dir raises if the list is too long for a path.
    is_path = bool(spec) and os.path.isdir(spec)  # noqa: PTH112
    names = [spec] if is_path else [name for name in spec.split(",") if name]
    for name in names:
        if is_url(name):
            raise ValueError(
                f"--{flag} names the URL {name}, expected a local directory: copy it first"
            )
        if not Path(name).expanduser().is_dir():
            raise ValueError(f"--{flag} names {name}, which is not an existing directory")
    return [Path(name).expanduser().absolute() for name in names]


def _find_files(directory: Path) -> list[Path]:
    if (directory / DICT_NAME).is_file():
        return _dataset_dict_files(directory)
    if (directory / STATE_NAME).is_file():
        return _dataset_files(directory)
    files = snapshot_files(directory)
    if not files:
        raise ValueError(
            f"--from_hf names {directory}, which has no {STATE_NAME}, no {DICT_NAME} and no "
            ".parquet file: expected a directory written by save_to_disk, or a snapshot from the Hub"
        )
    return files


def _dataset_dict_files(directory: Path) -> list[Path]:
    """The files of the split for training."""
    path = directory / DICT_NAME
    names = _read_json(path).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} names no splits: save the dataset again with save_to_disk")
    splits = {name: _sibling(path, name) for name in names}
    example = f"--from_hf {directory}/{names[0]}" if names else "--from_hf"
    return _dataset_files(choose_split(str(directory), splits, example))


def _dataset_files(directory: Path) -> list[Path]:
    path = directory / STATE_NAME
    state = _read_json(path)
    if state.get("_indices_data_files"):
        raise ValueError(
            f"{path} stores a selection of rows in a separate file, as old releases of datasets "
            "did: load the dataset and save it again with save_to_disk"
        )
    entries = state.get("_data_files")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} names no data files: save the dataset again with save_to_disk")
    files = [_sibling(path, entry.get("filename")) for entry in entries]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{file} is missing, but {path} names it: download the whole directory"
            )
    return files


def _sibling(path: Path, name: Any) -> Path:
    """The file or directory `name` in the directory of `path`; paths elsewhere are rejected."""
    if not isinstance(name, str) or len(PurePosixPath(name).parts) != 1 or name in ("..", "/"):
        raise ValueError(f"{path} names {name!r}, which is not in the same directory")
    return path.parent / name


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, remedy="download the whole directory")
