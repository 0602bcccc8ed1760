"""Text in a column of Arrow streams and parquet files, the files of Hugging Face `datasets`.

Read by pyarrow (`pip install 'bertds[migrate]'`), some rows at a time, without copying more of a
file than they need. Values are taken as bytes: what is no UTF-8 is the cleaning's to see, offsets
that lead astray are refused before anything follows them.
"""

import contextlib
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from bertds.errors import RemoteError

_BYTES, _MAX_ROWS = 1 << 20, 1024  # at a time, about
_PAGE_BYTES = 1 << 20  # of a parquet file at once
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
Kind = Literal["arrow", "parquet"]


def check_column(path: Path | str, file: io.BufferedReader, kind: Kind, column: str) -> None:
    """See that a file has a column of text by that name; little of it is read.

    Raises:
        ValueError: It has none, or is damaged, or pyarrow is not installed.
    """
    pa = _pyarrow(path)
    with _sentences(pa, path, kind), _opened(pa, path, file, kind) as (content, _):
        schema = content.schema if kind == "arrow" else content.schema_arrow
        names = schema.names
    if names.count(column) != 1:
        raise ValueError(
            f"{path} has no column {column!r}, it has {', '.join(names) or 'none'}: name the "
            "one of the text with --column"
        )
    type_ = schema.field(column).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        raise ValueError(
            f"{path}: the column {column!r} is of {type_}, wanted is text: name the one of the text "
            "with --column"
        )


def arrow_lines(
    path: Path | str, file: io.BufferedReader, kind: Kind, column: str
) -> Iterator[tuple[bytes, int]]:
    """The texts of a column, each a line, in pieces; beside them how far into the file they lead.

    A null is an empty line.

    Raises:
        ValueError: The file is damaged.
        RemoteError: It is behind a URL and cannot be read.
    """
    pa = _pyarrow(path)
    with _sentences(pa, path, kind), _opened(pa, path, file, kind) as (content, mapped):
        for array, position in _arrays(content, mapped, kind, column):
            step = _rows_at_a_time(len(array), array.get_total_buffer_size())
            for start in range(0, len(array), step):
                rows = _as_bytes(pa, array.slice(start, step))
                yield b"".join(row.replace(b"\n", b" ") + b"\n" for row in rows), position


def check_end(path: Path | str, file: io.BufferedReader, size: int) -> None:
    """See that an Arrow stream has its end: without it, a file cut between batches looks whole.

    Raises:
        ValueError: It has not.
    """
    file.seek(max(0, size - len(_END_OF_STREAM)))
    if file.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise ValueError(f"{path} is damaged or cut off (the end of the Arrow stream is missing)")


def _pyarrow(path: Path | str) -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ValueError(
            f"{path} needs pyarrow to be read, which is not installed ({error}): pip install "
            "'bertds[migrate]'"
        ) from error


@contextlib.contextmanager
def _opened(
    pa: Any, path: Path | str, file: io.BufferedReader, kind: Kind
) -> Iterator[tuple[Any, Any]]:
    """A stream of batches or a parquet file, and its bytes; a local one is mapped, never held."""
    mapped = pa.memory_map(str(path)) if isinstance(path, Path) else pa.PythonFile(file, "r")
    if kind == "arrow":
        with pa.ipc.open_stream(mapped) as stream:
            yield stream, mapped
    else:
        yield pa.parquet.ParquetFile(mapped, buffer_size=_PAGE_BYTES), mapped


@contextlib.contextmanager
def _sentences(pa: Any, path: Path | str, kind: Kind) -> Iterator[None]:
    """Around what pyarrow does: its errors in words."""
    try:
        yield
    except RemoteError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} is no whole {kind} file ({why})") from error


def _arrays(content: Any, mapped: Any, kind: Kind, column: str) -> Iterator[tuple[Any, int]]:
    """The column batch by batch, and how far into the file each leads, about."""
    if kind == "arrow":
        for batch in content:
            yield batch.column(column), mapped.tell()
        return
    facts = content.metadata
    groups = [facts.row_group(number).total_byte_size for number in range(facts.num_row_groups)]
    step = _rows_at_a_time(facts.num_rows, sum(groups))
    rows = 0
    for batch in content.iter_batches(step, columns=[column], use_threads=False):
        rows += len(batch)
        yield batch.column(0), min(mapped.size(), mapped.size() * rows // max(1, facts.num_rows))


def _rows_at_a_time(rows: int, num_bytes: int) -> int:
    """Few of long documents, many of short ones."""
    return max(1, min(_MAX_ROWS, _BYTES * rows // max(1, num_bytes)))


def _as_bytes(pa: Any, array: Any) -> Iterator[bytes]:
    """The values, checked: a damaged file may say that one lies anywhere."""
    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        array = array.dictionary_decode()
    is_large = pa.types.is_large_string(array.type)
    array = array.view(pa.large_binary() if is_large else pa.binary())
    array.validate(full=True)
    return (value or b"" for value in array.to_pylist())
