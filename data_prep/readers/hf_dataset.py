"""Hugging Face dataset directories as inputs."""

import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from bertds.io.json_files import read_json_object
from bertds.io.remote import is_url

STATE_NAME, DICT_NAME = "state.json", "dataset_dict.json"


def hf_files(spec: str) -> list[Path | str]:
    """The Arrow and parquet files of the directories `D[,D…]`.

    Raises:
        ValueError: A directory is missing or damaged, or holds neither.
    """
    return [file for each in dataset_directories("from_hf", spec) for file in _hf_files(each)]


def dataset_directories(flag: str, spec: str) -> list[Path]:
    """The directories `D[,D…]` that a flag names.

    Raises:
        ValueError: One is a URL, or does not exist.
    """
    is_path = bool(spec) and os.path.isdir(spec)  # noqa: PTH112 - a long list is no error
    words = [spec] if is_path else [word for word in spec.split(",") if word]
    for word in words:
        if is_url(word):
            raise ValueError(f"--{flag} names the URL {word}: copy it to a directory first")
        if not Path(word).expanduser().is_dir():
            raise ValueError(f"--{flag} names {word}, which is no directory that exists")
    return [Path(word).expanduser().absolute() for word in words]


def _hf_files(directory: Path) -> list[Path]:
    if (directory / DICT_NAME).is_file():
        return _dict_files(directory)
    if (directory / STATE_NAME).is_file():
        return _dataset_files(directory)
    files = [path for path in sorted(directory.rglob("*.parquet")) if _is_shown(directory, path)]
    if not files:
        raise ValueError(
            f"--from_hf names {directory}, which has no {STATE_NAME}, no {DICT_NAME} and no .parquet "
            "file: a directory that save_to_disk wrote is wanted, or a snapshot from the Hub"
        )
    return files


def _is_shown(directory: Path, path: Path) -> bool:
    """Whether a file is no part of a hidden directory, such as a cache of downloads."""
    return path.is_file() and not any(
        part.startswith(".") for part in path.relative_to(directory).parts
    )


def _dict_files(directory: Path) -> list[Path]:
    """The files of all splits; that they are all is said, since a test set may be one of them."""
    path = directory / DICT_NAME
    splits = _read(path).get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise ValueError(f"{path} names no splits: save the dataset again with save_to_disk")
    print(
        f"{directory}: text of all splits ({', '.join(splits)}); for one, name its directory",
        file=sys.stderr,
    )
    return [file for split in splits for file in _dataset_files(_inside(path, split))]


def _dataset_files(directory: Path) -> list[Path]:
    path = directory / STATE_NAME
    state = _read(path)
    if state.get("_indices_data_files"):
        raise ValueError(
            f"{path} keeps a selection of rows beside the rows, as old releases of datasets did: "
            "load it and save it again with save_to_disk"
        )
    found = state.get("_data_files")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{path} names no data files: save the dataset again with save_to_disk")
    files = [_inside(path, each.get("filename")) for each in found]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} is missing, {path} names it: fetch the whole directory")
    return files


def _inside(path: Path, name: Any) -> Path:
    if not isinstance(name, str) or len(PurePosixPath(name).parts) != 1 or name in ("..", "/"):
        raise ValueError(f"{path} names {name!r}, which is not beside it")
    return path.parent / name


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, remedy="fetch the whole directory")
