"""Reads labelled data: a file with columns, or a directory that Hugging Face datasets wrote.

All rows are in memory: data sets for fine-tuning have at most a few hundred thousand. pyarrow, which
parquet and directories need, is imported only for them.
"""

import csv
import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertds.errors import ConfigError, ProblemsError

Row = Mapping[str, Any]
_MOST_SHOWN = 20
_FIELD_LIMIT = 1 << 27  # characters; csv's own limit is shorter than a long text


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of a file or of a split, with their places for messages."""

    source: str
    columns: Sequence[str]
    rows: Sequence[Row]
    places: Sequence[str]
    """Where each row stands: `line 7`, or `row 7` in a table."""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The names of the numbered classes of a column, if the file knows them."""


def problems_error(source: str, problems: Sequence[str]) -> ConfigError:
    """The error about one or several problems of a file; of many, the first are shown."""
    if len(problems) == 1:
        return ConfigError(f"{source}: {problems[0]}")
    if len(problems) <= _MOST_SHOWN:
        return ProblemsError(source, problems)
    return ProblemsError(f"{source} (the first of {len(problems):,})", problems[:_MOST_SHOWN])


def read_file(path: Path) -> Rows:
    """Read a .tsv, .csv, .jsonl or .parquet file.

    A .tsv file has no quotes: each line is a row, and tabs separate its cells.

    Raises:
        ConfigError: The file is missing, empty, or has malformed lines: all of them are named.
    """
    if path.suffix not in _READERS:
        raise ConfigError(f"{path}: expected a file named {', '.join(_READERS)}")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    found = _READERS[path.suffix](path)
    if not found.rows:
        raise ConfigError(f"{path} has no rows")
    return found


def read_split(directory: Path, split: str) -> Rows:
    """Read a split of a directory that `save_to_disk` wrote, or that has files named as the split.

    The Hub's repositories have such files, as train-00000-of-00001.parquet.

    Raises:
        ConfigError: The directory does not have the split, or a file is malformed.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} does not exist: --data must have the task's directory")
    state = directory / split / "state.json"
    if state.is_file():
        names = [each["filename"] for each in json.loads(state.read_bytes())["_data_files"]]
        return _of_tables(str(state.parent), [_arrow_table(state.parent / name) for name in names])
    found = [*directory.glob(f"{split}[-.]*"), *directory.glob(f"{split}/*")]
    paths = sorted(path for path in found if path.suffix in _READERS)
    if not paths:
        present = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
        raise ConfigError(
            f"{directory} has no split {split}: expected {split}/state.json, as save_to_disk of "
            f"Hugging Face datasets writes it, or {split}.parquet (.jsonl, .csv, .tsv); it has {present}"
        )
    parts = [read_file(path) for path in paths]
    return Rows(
        source=str(directory / split),
        columns=parts[0].columns,
        rows=[row for part in parts for row in part.rows],
        places=[f"{Path(part.source).name}, {at}" for part in parts for at in part.places],
        class_names=parts[0].class_names,
    )


def _text(path: Path) -> str:
    """The content of a text file.

    Raises:
        ConfigError: Lines are not UTF-8: all of them are named.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        lines = enumerate(content.split(b"\n"), 1)
        bad = [f"line {number} is not UTF-8" for number, line in lines if not _is_utf8(line)]
        raise problems_error(str(path), bad) from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    lines = enumerate(_text(path).split("\n"), 1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def _read_tsv(path: Path) -> Rows:
    return _of_cells(path, [(number, line.split("\t")) for number, line in _lines(path)])


def _read_csv(path: Path) -> Rows:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        return _of_cells(path, [(reader.line_num, row) for row in reader if row])
    except csv.Error as error:
        raise ConfigError(f"{path}: line {reader.line_num}: {error}") from error


def _of_cells(path: Path, cells: Sequence[tuple[int, list[str]]]) -> Rows:
    """Rows of cells, of which the first has the names of the columns."""
    if not cells:
        raise ConfigError(f"{path} is empty: expected a line with the names of the columns")
    (_, header), *lines = cells
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}: two columns have the same name: {', '.join(header)}")
    problems = [
        f"line {number}: {len(row)} cells, expected {len(header)} ({', '.join(header)})"
        for number, row in lines
        if len(row) != len(header)
    ]
    if problems:
        raise problems_error(str(path), problems)
    return Rows(
        source=str(path),
        columns=header,
        rows=[dict(zip(header, row, strict=True)) for _, row in lines],
        places=[f"line {number}" for number, _ in lines],
    )


def _read_jsonl(path: Path) -> Rows:
    rows, places, problems = [], [], []
    for number, line in _lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: not JSON ({error})")
            continue
        if not isinstance(value, dict):
            problems.append(f"line {number}: {line[:40]!r} is not a JSON object")
        else:
            rows.append(value)
            places.append(f"line {number}")
    if problems:
        raise problems_error(str(path), problems)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Rows(source=str(path), columns=columns, rows=rows, places=places)


def _read_parquet(path: Path) -> Rows:
    parquet = _pyarrow(path, "pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:  # pyarrow's own errors are among these
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return _of_tables(str(path), [table])


def _arrow_table(path: Path) -> Any:
    ipc = _pyarrow(path, "pyarrow.ipc")
    try:
        with path.open("rb") as file:
            return ipc.open_stream(file).read_all()
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _of_tables(source: str, tables: Sequence[Any]) -> Rows:
    rows = [row for table in tables for row in table.to_pylist()]
    if not rows:
        raise ConfigError(f"{source} has no rows")
    return Rows(
        source=source,
        columns=tables[0].column_names,
        rows=rows,
        places=[f"row {number}" for number in range(1, len(rows) + 1)],
        class_names=_class_names((tables[0].schema.metadata or {}).get(b"huggingface", b"{}")),
    )


def _class_names(metadata: bytes) -> dict[str, list[str]]:
    """The names of the classes of each column, of what Hugging Face datasets adds to a schema."""
    features = json.loads(metadata).get("info", {}).get("features", {})
    inner = {name: _inner_feature(feature) for name, feature in features.items()}
    return {
        name: feature["names"]
        for name, feature in inner.items()
        if feature.get("_type") == "ClassLabel"
    }


def _inner_feature(feature: Any) -> dict[str, Any]:
    """The feature of a list's elements, which older versions write as a list; else itself."""
    if isinstance(feature, list):
        feature = feature[0]
    inner: dict[str, Any] = feature.get("feature", feature)
    return inner if "_type" in inner else {}


def _pyarrow(path: Path, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"reading {path} needs pyarrow, which is not installed ({error}): run pip install "
            "'bertds[finetune]'"
        ) from error


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
