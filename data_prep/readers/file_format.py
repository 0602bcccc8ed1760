"""Finds out what a file is: by its name, and by the first bytes of its content."""

import codecs
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from data_prep.readers.encodings import UTF8, choose_encoding, explain_wrong_encoding
from data_prep.readers.json_records import (
    begins_with_json_array,
    is_json_array,
    is_json_lines,
    is_json_over_lines,
)
from data_prep.readers.signatures import (
    BinaryKind,
    binary_kind_of,
    compression_of,
    explain_unreadable,
)
from data_prep.readers.streams import Compression, decompress
from data_prep.readers.table import check_table_column

Kind = Literal["lines", "jsonl", "json", "csv", "tsv", "tar", "arrow", "parquet", "mds"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tar": "tar",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".parquet": "parquet",
}
_NAMES: dict[Kind, str] = {
    "lines": "text",
    "jsonl": "JSON lines",
    "json": "JSON records",
    "tar": "a tar",
    "arrow": "Arrow",
    "parquet": "parquet",
    "csv": "a table",
    "tsv": "a table",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
_UNSUPPORTED = {".xz", ".bz2", ".zip", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z"}
_HEAD_BYTES = 256 << 10  # of the content, compressed or not


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """How a file is read.

    Attributes:
        kind: The format of the content.
        compression: The compression around it.
        encoding: The encoding of the text, where the format leaves it open.
        note: What the user should know, since the name or the options do not tell it.
    """

    kind: Kind
    compression: Compression
    encoding: str = UTF8
    note: str = ""


def detect_format(
    path: Path | str, file: io.BufferedReader, column: str, encoding: str = UTF8
) -> FileFormat:
    """The format that the name of a file tells, corrected by its first bytes.

    Args:
        path: The name.
        file: The content.
        column: The name of the text column, which a table must have.
        encoding: The encoding of texts whose first bytes do not prove another one.

    Raises:
        ValueError: Such files cannot be read, or not by --input.
    """
    named_kind, named_compression = _parse_file_name(path)
    _check_not_compressed(path, named_kind, named_compression)
    compression = _detect_compression(path, file, named_compression)
    head = _read_head(path, file, compression)
    kind = _detect_binary_kind(path, head, compression) or named_kind
    chosen = encoding
    if kind in ("arrow", "parquet"):
        _check_not_compressed(path, kind, compression)
        chosen = encoding = UTF8  # by definition
    elif kind != "tar":
        chosen = choose_encoding(head, encoding)
        kind = _check_text(path, head, kind, column, chosen)
    notes = []
    if (kind, compression) != (named_kind, named_compression):
        wrapped = f" compressed with {compression}" if compression != named_compression else ""
        notes.append(f"read as {_NAMES[kind]}{wrapped}, by its content")
    if chosen != encoding:
        notes.append(f"read as {chosen}, which its first bytes prove, not as {encoding}")
    return FileFormat(kind=kind, compression=compression, encoding=chosen, note="; ".join(notes))


def _check_text(path: Path | str, head: bytes, kind: Kind, column: str, encoding: str) -> Kind:
    """The kind of a file with text in this encoding, by its first bytes.

    Raises:
        ValueError: It is no such text, or a table without the column.
    """
    if reason := explain_wrong_encoding(head, encoding):
        raise ValueError(f"{path} {reason}")
    text = _decode(head, encoding)
    if text and (kind == "csv" or kind == "tsv"):
        check_table_column(path, text, kind, column)
    return _kind_of_text(text, kind)


def _check_not_compressed(path: Path | str, kind: Kind, compression: Compression) -> None:
    if kind in ("arrow", "parquet") and compression != "none":
        raise ValueError(f"{path} is a compressed {kind} file: decompress it first")


def _detect_compression(
    path: Path | str, file: io.BufferedReader, named: Compression
) -> Compression:
    """The compression by content, or else by name."""
    found = compression_of(_read_head(path, file, "none"))
    return named if found == "none" else found


def _read_head(path: Path | str, file: io.BufferedReader, compression: Compression) -> bytes:
    """The first bytes of the decompressed content."""
    file.seek(0)
    with decompress(file, str(path), compression) as stream:
        return stream.read(_HEAD_BYTES)


def _detect_binary_kind(
    path: Path | str, head: bytes, compression: Compression
) -> BinaryKind | None:
    """The binary format of the content, if it is one."""
    if reason := explain_unreadable(head):
        raise ValueError(f"{path} is {reason}")
    if compression != "none" and compression_of(head) != "none":
        raise ValueError(f"{path} is compressed twice: decompress it once")
    return binary_kind_of(head)


def _decode(head: bytes, encoding: str) -> str:
    """The text of the first bytes."""
    text: str = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    return text.removeprefix("\ufeff")


def _kind_of_text(text: str, kind: Kind) -> Kind:
    """The kind of a text file, which is told apart from JSON that is not one object per line."""
    if kind == "jsonl" and (is_json_array(text) or is_json_over_lines(text)):
        return "json"
    if kind == "lines" and (is_json_over_lines(text) or begins_with_json_array(text)):
        return "json"
    if kind == "lines" and is_json_lines(text):
        return "jsonl"
    return kind


def _parse_file_name(path: Path | str) -> tuple[Kind, Compression]:
    """The kind and the compression that the extensions of a file name tell.

    Raises:
        ValueError: Such files cannot be read, or not by --input.
    """
    name = str(path).partition("?")[0] if isinstance(path, str) else path  # without URL parameters
    extensions = [extension.lower() for extension in PurePosixPath(name).suffixes]
    if extensions and extensions[-1] in _UNSUPPORTED:
        raise ValueError(
            f"{path} has the unsupported compression {extensions[-1]}: decompress it, or use .gz "
            "or .zst"
        )
    compression: Compression = "none"
    if extensions and extensions[-1] in _COMPRESSIONS:
        compression = _COMPRESSIONS[extensions.pop()]
    extension = extensions[-1] if extensions else ""
    if extension == ".tgz":
        extension, compression = ".tar", "gz"
    kind = _KINDS.get(extension, "lines")
    if extension == ".mds":
        raise ValueError(
            f"{path} is an MDS shard, which needs its index: name their directory with --from_mds"
        )
    return kind, compression
