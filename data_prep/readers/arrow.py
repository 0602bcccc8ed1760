"""Reads a text column of Arrow streams, Arrow files (also named Feather) and parquet files.

pyarrow reads the files (`pip install 'bertds[migrate]'`) in batches of rows, with little more than
a batch in memory. Values are taken as bytes, so invalid UTF-8 is left to text cleaning. Offsets of
a damaged file are validated before they are used.
"""

import contextlib
import importlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from bertds.errors import RemoteError
from data_prep.readers.counts import NO_TEXT
from data_prep.readers.streams import LINE_END

_BATCH_BYTES, _MAX_BATCH_ROWS = 1 << 20, 1024  # approximate bytes of a batch, and its most rows
_PAGE_BYTES = 1 << 20  # read at once from a parquet file
_FILE_MAGIC = b"ARROW1"  # at the beginning of an Arrow file, which has its schema at the end
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
Kind = Literal["arrow", "parquet"]


def check_column(path: Path | str, file: io.BufferedReader, kind: Kind, column: str) -> None:
    """Check that a file has one text column of this name, by its schema.

    Raises:
        ValueError: It has none, the file is damaged, or pyarrow is not installed.
    """
    pa = _import_pyarrow(path)
    with _translate_arrow_errors(pa, path, kind), _open(pa, path, file, kind) as (content, _):
        schema = content.schema if kind == "arrow" else content.schema_arrow
        names = schema.names
    if names.count(column) != 1:
        raise ValueError(
            f"{path} has no column {column!r}, it has {', '.join(names) or 'none'}: name the text "
            "column with --column"
        )
    type_ = schema.field(column).type
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        type_ = type_.value_type
    if type_ not in (pa.string(), pa.large_string(), pa.string_view()):
        raise ValueError(
            f"{path}: the column {column!r} has the type {type_}, expected text: name the text "
            "column with --column"
        )


def check_end_of_stream(path: Path | str, file: io.BufferedReader, size: int) -> None:
    """Check that an Arrow stream ends with its marker: a file truncated between batches does not.

    An Arrow file needs no check. It cannot be opened without its end.

    Raises:
        ValueError: The marker is missing.
    """
    if _is_arrow_file(file):
        return
    file.seek(max(0, size - len(_END_OF_STREAM)))
    if file.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise ValueError(f"{path} is damaged or truncated (the end of the Arrow stream is missing)")


def arrow_lines(
    path: Path | str, file: io.BufferedReader, kind: Kind, column: str, counts: Counter[str]
) -> Iterator[tuple[bytes, int]]:
    """The texts of a column, one line each, in pieces of whole lines.

    A null is an empty line, and is counted in `counts`.

    Yields:
        A piece, and the approximate position in the file after it.

    Raises:
        ValueError: The file is damaged.
        RemoteError: The file is remote and cannot be read.
    """
    pa = _import_pyarrow(path)
    with _translate_arrow_errors(pa, path, kind), _open(pa, path, file, kind) as (content, stream):
        for array, position in _column_batches(content, stream, kind, column):
            step = _batch_rows(len(array), array.get_total_buffer_size())
            for start in range(0, len(array), step):
                rows = _to_bytes(pa, array.slice(start, step))
                counts[NO_TEXT] += rows.count(None)
                yield (
                    b"".join((row or b"").replace(b"\n", LINE_END) + b"\n" for row in rows),
                    position,
                )


def _is_arrow_file(file: io.BufferedReader) -> bool:
    """Whether this is an Arrow file, not a stream; leaves the position at the start."""
    file.seek(0)
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    return magic == _FILE_MAGIC


def _import_pyarrow(path: Path | str) -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ValueError(
            f"reading {path} needs pyarrow, which is not installed ({error}): run pip install "
            "'bertds[migrate]'"
        ) from error


@contextlib.contextmanager
def _open(
    pa: Any, path: Path | str, file: io.BufferedReader, kind: Kind
) -> Iterator[tuple[Any, Any]]:
    """The batches of an Arrow stream or file, or the parquet file; and its byte stream.

    Local files are memory-mapped.
    """
    is_arrow_file = kind == "arrow" and _is_arrow_file(file)
    stream = pa.memory_map(str(path)) if isinstance(path, Path) else pa.PythonFile(file, "r")
    if is_arrow_file:
        with pa.ipc.open_file(stream) as content:
            yield content, stream
    elif kind == "arrow":
        with pa.ipc.open_stream(stream) as batches:
            yield batches, stream
    else:
        yield pa.parquet.ParquetFile(stream, buffer_size=_PAGE_BYTES), stream


@contextlib.contextmanager
def _translate_arrow_errors(pa: Any, path: Path | str, kind: Kind) -> Iterator[None]:
    """Raise errors of pyarrow about the file as ValueError; errors of the disk stay as they are."""
    try:
        yield
    except RemoteError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{path} is not a valid {kind} file, or is truncated ({reason})"
        ) from error


def _column_batches(
    content: Any, stream: Any, kind: Kind, column: str
) -> Iterator[tuple[Any, int]]:
    """The column in batches, with the approximate position in the file after each."""
    if hasattr(content, "get_batch"):  # an Arrow file
        for number in range(content.num_record_batches):
            position = stream.size() * (number + 1) // content.num_record_batches
            yield content.get_batch(number).column(column), position
        return
    if kind == "arrow":
        for batch in content:
            yield batch.column(column), stream.tell()
        return
    metadata = content.metadata
    num_bytes = sum(
        metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)
    )
    step = _batch_rows(metadata.num_rows, num_bytes)
    rows = 0
    for batch in content.iter_batches(step, columns=[column], use_threads=False):
        rows += len(batch)
        position = stream.size() * rows // max(1, metadata.num_rows)
        yield batch.column(0), min(stream.size(), position)


def _batch_rows(rows: int, num_bytes: int) -> int:
    """Number of rows per batch, so that a batch has about `_BATCH_BYTES`."""
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * rows // max(1, num_bytes)))


def _to_bytes(pa: Any, array: Any) -> list[bytes | None]:
    """The values as bytes, after validation: offsets of a damaged file may point anywhere."""
    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        if array.type.value_type == pa.string_view():  # pyarrow cannot decode these
            entries = array.dictionary.view(pa.binary_view()).cast(pa.large_binary())
            array = pa.DictionaryArray.from_arrays(array.indices, entries)
        array = array.dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        array.validate(full=True)
        array = importlib.import_module("pyarrow.compute").run_end_decode(array)
    binary_types = {pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if array.type != pa.large_binary():
        array = array.view(binary_types.get(array.type, pa.binary()))
    array.validate(full=True)
    values: list[bytes | None] = array.to_pylist()
    return values
