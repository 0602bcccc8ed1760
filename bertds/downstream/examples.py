"""Makes examples of rows: texts and numbered labels. All mistakes of a file are reported at once."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertds.downstream.metrics import BIO
from bertds.downstream.rows import Row, Rows, problems_error, read_file, read_split
from bertds.downstream.tasks import Task
from bertds.errors import ConfigError

Label = int | float | list[int]
_LABELS_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A row that a model is trained on or scored with."""

    texts: tuple[str, ...]
    """One text, or two."""
    label: Label
    """The number of a class, the value of a regression, or the numbers of the tags."""
    units: tuple[tuple[int, int], ...] = ()
    """Where each tagged unit, a word or a letter, stands in the text."""
    group: object = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """The examples of a task."""

    task: Task
    """With its metrics, which may follow from the labels."""
    names: tuple[str, ...]
    """The names of the labels, by number; empty for a regression."""
    train: Sequence[Example]
    valid: Mapping[str, Sequence[Example]]
    """The validation sets, by the suffix of their metrics' names."""

    def fingerprint(self) -> str:
        """A hash of all examples and their order."""
        digest = hashlib.blake2b(repr(self.names).encode(), digest_size=16)
        for examples in (self.train, *self.valid.values()):
            for example in examples:
                digest.update(repr((example.texts, example.label)).encode(errors="replace"))
        return digest.hexdigest()


def data_of_files(task: Task, train: Path, valid: Path, limit: int | None) -> TaskData:
    """Read a training and a validation file; at most the first `limit` rows of each if one is given.

    Raises:
        ConfigError: A file or a column is missing, or values are not labels of the task.
    """
    return _data(task, read_file(train), {"": read_file(valid)}, limit)


def data_of_directory(task: Task, directory: Path, limit: int | None) -> TaskData:
    """Read the splits of a task of a data set; arguments and errors as above."""
    valid = {suffix: read_split(directory, split) for suffix, split in task.valid.items()}
    return _data(task, read_split(directory, "train"), valid, limit)


def _data(task: Task, train: Rows, valid: Mapping[str, Rows], limit: int | None) -> TaskData:
    for rows in (train, *valid.values()):
        _check_columns(task, rows)
    values = _labels(task, train)
    names = _class_names(task, train, values)
    numbers = {value: number for number, value in enumerate(values)}
    task = _with_metrics(task, names)
    return TaskData(
        task=task,
        names=names,
        train=_examples(task, train, numbers, limit),
        valid={suffix: _examples(task, rows, numbers, limit) for suffix, rows in valid.items()},
    )


def _check_columns(task: Task, rows: Rows) -> None:
    needed = [*task.columns, task.label.partition(".")[0]]
    missing = [name for name in dict.fromkeys(needed) if name not in rows.columns]
    if missing:
        flags = (
            ""
            if task.name
            else ": name the columns with --text_column, --pair_column, --label_column"
        )
        raise ConfigError(
            f"{rows.source} has no column {' and no '.join(missing)}, its columns are "
            f"{', '.join(rows.columns)}{flags}"
        )


def _value(task: Task, row: Row) -> Any:
    """The label of a row, before it is numbered."""
    value: Any = row
    for name in task.label.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value.split() if task.kind == "tokens" and isinstance(value, str) else value


def _labels(task: Task, train: Rows) -> list[Any]:
    """The labels that occur in the training data, in order: numbers first, then words."""
    if task.kind == "regression":
        return []
    names = train.class_names.get(task.label)
    if names:
        return list(range(len(names)))
    cells = [_value(task, row) for row in train.rows]
    if task.kind == "tokens":
        cells = [tag for tags in cells if isinstance(tags, list) for tag in tags]
    found = {value for value in cells if _is_label(value)}
    return sorted(found, key=lambda each: (isinstance(each, str), each))


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) and value != ""


def _class_names(task: Task, train: Rows, values: Sequence[Any]) -> tuple[str, ...]:
    if task.kind == "regression":
        return ()
    if len(values) < 2:
        shown = ", ".join(map(str, values)) or "none"
        raise ConfigError(
            f"{train.source}: the column {task.label} has the labels {shown}, expected two or more"
        )
    return tuple(train.class_names.get(task.label) or map(str, values))


def _with_metrics(task: Task, names: Sequence[str]) -> Task:
    """The task, with metrics that its labels have.

    Raises:
        ConfigError: A metric of the task needs other labels.
    """
    is_bio = all(map(BIO.fullmatch, names))
    if task.kind == "tokens" and not task.metrics:
        task = replace(task, metrics=("entity_f1",) if is_bio else ("accuracy",))
    of_entities = [name for name in task.metrics if name.startswith("entity_")]
    if of_entities and not (task.kind == "tokens" and is_bio):
        raise ConfigError(
            f"{of_entities[0]} needs tags such as B-PER, I-PER and O, not {names[:5]}"
        )
    of_values = [name for name in task.metrics if name in ("pearson", "spearman", "f1_of_similar")]
    if len(of_values) not in (0, len(task.metrics)) or bool(of_values) != (
        task.kind == "regression"
    ):
        raise ConfigError(f"--metrics {','.join(task.metrics)} do not fit --kind {task.kind}")
    if "f1" in task.metrics and len(names) != 2:
        raise ConfigError(f"f1 needs two labels, and there are {len(names)}: use f1_macro")
    return task


def _examples(
    task: Task, rows: Rows, numbers: Mapping[Any, int], limit: int | None
) -> list[Example]:
    examples, problems = [], []
    for row, place in list(zip(rows.rows, rows.places, strict=True))[:limit]:
        try:
            examples.append(_example(task, row, numbers))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise problems_error(rows.source, problems)
    return examples


def _example(task: Task, row: Row, numbers: Mapping[Any, int]) -> Example:
    value = _value(task, row)
    if task.kind == "tokens":
        return _tagged(task, row, value, numbers)
    for name in task.columns:
        if row.get(name) is None or (not task.compose and not isinstance(row[name], str)):
            raise ValueError(f"{name} is {row.get(name)!r}, expected a text")
    group = task.group(row) if task.group else None
    if task.kind == "regression":
        return Example(texts=task.texts(row), label=_number(task, value), group=group)
    label = _numbered(task, value, numbers)
    return Example(texts=task.texts(row), label=label, group=group)


def _tagged(task: Task, row: Row, value: Any, numbers: Mapping[Any, int]) -> Example:
    tokens = row.get(task.columns[0])
    tokens = tokens.split() if isinstance(tokens, str) else tokens
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise ValueError(f"{task.columns[0]} is {tokens!r}, expected a list of words")
    if not isinstance(value, list) or len(value) != len(tokens) or not tokens:
        count = f"{len(value)}" if isinstance(value, list) else "no"
        raise ValueError(f"{len(tokens)} {task.columns[0]} and {count} {task.label}")
    labels = [_numbered(task, tag, numbers) for tag in value]
    # Letters make up the text themselves, with its blanks; words are separated by blanks.
    separator = "" if all(len(each) <= 1 for each in tokens) else " "
    units, start = [], 0
    for each in tokens:
        units.append((start, start + len(each)))
        start += len(each) + len(separator)
    return Example(
        texts=(separator.join(tokens),),
        label=labels,
        units=tuple(units),
    )


def _number(task: Task, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{task.label} is {value!r}, expected a number")
    return number


def _numbered(task: Task, value: Any, numbers: Mapping[Any, int]) -> int:
    if not _is_label(value):
        raise ValueError(f"{task.label} is {value!r}, expected a label: a word or a whole number")
    if value not in numbers:
        shown = ", ".join(map(str, [*numbers][:_LABELS_SHOWN]))
        raise ValueError(f"{task.label} is {value!r}, and the training data has {shown}")
    return numbers[value]
