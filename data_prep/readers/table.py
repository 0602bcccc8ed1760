"""Reads the text column of `.csv` and `.tsv` files, whose first row names the columns.

Files differ in their delimiter and in whether they quote. Of the usual forms, the one is taken that
names the column and fits most rows: these have as many fields as the first one. Quotation marks of
a `.tsv` quote only if its first rows say so, since many such files use them as letters. A table is
read in order, with a row in memory.
"""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from data_prep.readers.counts import WRONG_FIELDS
from data_prep.readers.jsonl import MAX_JSON_BYTES
from data_prep.readers.streams import LINE_END

TableKind = Literal["csv", "tsv"]
_DELIMITERS: dict[TableKind, str] = {"csv": ",;\t|", "tsv": "\t"}  # the first is the usual one
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 10_000, 4 << 20
_MAX_ROW_CHARACTERS = MAX_JSON_BYTES
_QUOTED_ROW = re.compile(r'^"(?:[^"]|"")*"\r?$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """How the rows of a table are written."""

    delimiter: str
    is_quoted: bool

    def rows(self, lines: Iterable[str]) -> Any:
        """A reader of the rows, which also tells its line number."""
        csv.field_size_limit(_MAX_ROW_CHARACTERS)
        if self.is_quoted:
            return csv.reader(lines, delimiter=self.delimiter)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)


def check_table_column(path: Path | str, text: str, kind: TableKind, column: str) -> None:
    """Check that the first row of a table names the column once.

    Args:
        path: Name of the file.
        text: The beginning of the file.
        kind: The kind by its name.
        column: Name of the text column.

    Raises:
        ValueError: It does not.
    """
    _choose_form(path, text.splitlines(keepends=True), kind, column)


def table_lines(
    path: Path | str, stream: IO[bytes], kind: TableKind, column: str, counts: Counter[str]
) -> Iterator[bytes]:
    """The texts of a column, one line each.

    A row with more or fewer fields than the first one is an empty line, and is counted in `counts`.

    Raises:
        ValueError: The file is not a valid table.
    """
    # Invalid bytes stay as they are: cleaning replaces and counts them.
    wrapper = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
    lines = _checked_lines(path, wrapper)
    sample = _take_sample(lines)
    form = _choose_form(path, sample, kind, column)
    rows = form.rows(itertools.chain(sample, lines))
    try:
        header: list[str] = next(rows, [])
        place = header.index(column) if header else 0
        for row in rows:
            is_valid = len(row) == len(header)
            counts[WRONG_FIELDS] += bool(row) and not is_valid
            text = row[place] if is_valid else ""
            yield text.encode("utf-8", "surrogateescape").replace(b"\n", LINE_END) + b"\n"
    except csv.Error as error:
        raise ValueError(
            f"{path} is not a valid .{kind} file, line {rows.line_num:,} ({error}): is a quotation "
            "mark missing?"
        ) from error
    wrapper.detach()


def _checked_lines(path: Path | str, file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(_MAX_ROW_CHARACTERS + 1):
        if len(line) > _MAX_ROW_CHARACTERS:
            raise ValueError(f"{path} has a line of more than {_MAX_ROW_CHARACTERS:,} characters")
        yield line


def _take_sample(lines: Iterator[str]) -> list[str]:
    """The first lines, from which the form is guessed."""
    sample: list[str] = []
    size = 0
    for line in itertools.islice(lines, _SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS:
            break
    return sample


def _is_quoted(lines: list[str]) -> bool:
    """Whether some fields begin with a quotation mark, and all of these end with one."""
    rows = _Form(delimiter="\t", is_quoted=False).rows(lines)
    fields = [field for row in rows for field in row if field.startswith('"')]
    return bool(fields) and all(len(field) > 1 and field.endswith('"') for field in fields)


def _is_quoted_column(text: str) -> bool:
    """Whether the quotation marks that begin a row of a single column quote it.

    This holds if at least nine in ten of these rows end with a quotation mark, perhaps some lines
    later, and have only doubled ones inside.
    """
    others, num_quoted = _QUOTED_ROW.subn("", text)
    num_open = sum(line.startswith('"') for line in others.splitlines())
    return num_quoted > 0 and num_quoted >= 9 * num_open


def _choose_form(path: Path | str, lines: list[str], kind: TableKind, column: str) -> _Form:
    """The form that names the column and fits most rows."""
    forms = [
        _Form(delimiter=delimiter, is_quoted=is_quoted)
        for is_quoted in (True, False)
        for delimiter in _DELIMITERS[kind]
    ]
    header: list[str] = next(forms[0].rows(lines), [])
    named = [form for form in forms if next(form.rows(lines), [column]).count(column) == 1]
    if not named:
        names = ", ".join(header) or "none"
        raise ValueError(
            f"{path} has no column {column!r}, or several, it has {names}: name the text column "
            "with --column; a file without a row of names needs another ending, such as .txt"
        )
    if all(len(next(form.rows(lines), [])) == 1 for form in named):
        # Every row of a single column fits without quotation marks, also a part of a quoted text.
        has_quotes = _is_quoted_column("".join(lines))
        named = [form for form in named if form.is_quoted == has_quotes]
    else:
        has_quotes = kind == "csv" or _is_quoted(lines)
    return max(named, key=lambda form: (_score(form, lines), form.is_quoted == has_quotes))


def _score(form: _Form, lines: list[str]) -> int:
    """Number of rows with as many fields as the first, minus the number of other rows."""
    rows = form.rows(lines)
    score = 0
    try:
        length = len(next(rows, []))
        for row in rows:
            score += 1 if len(row) == length else -bool(row)
    except csv.Error:
        pass  # a field that is not closed; the rows before count
    return score
