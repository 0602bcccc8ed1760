"""Finds out what a file is: by its name, and by the first bytes of its content."""

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from data_prep.readers.json_records import is_json_array, is_json_over_lines
from data_prep.readers.streams import Compression, decompress

Kind = Literal["lines", "jsonl", "json", "tar", "arrow", "parquet", "mds"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tar": "tar",
    ".arrow": "arrow",
    ".parquet": "parquet",
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
    """

    kind: Kind
    compression: Compression


def detect_format(path: Path | str, file: io.BufferedReader) -> FileFormat:
    """The format that the name of a file tells, corrected by its first bytes.

    Raises:
        ValueError: Such files cannot be read, or not by --input.
    """
    kind, compression = _parse_file_name(path)
    if kind == "lines" or kind == "jsonl":
        kind = _kind_of_text(_read_head(path, file, compression), kind)
    return FileFormat(kind=kind, compression=compression)


def _read_head(path: Path | str, file: io.BufferedReader, compression: Compression) -> bytes:
    """The first bytes of the decompressed content."""
    file.seek(0)
    with decompress(file, str(path), compression) as stream:
        return stream.read(_HEAD_BYTES)


def _kind_of_text(head: bytes, kind: Kind) -> Kind:
    """The kind of a text file, which is told apart from JSON that spans lines."""
    text = head.decode("utf-8-sig", "replace")
    if kind == "jsonl" and (is_json_array(text) or is_json_over_lines(text)):
        return "json"
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
    if kind in ("arrow", "parquet") and compression != "none":
        raise ValueError(f"{path} is a compressed {extension} file: decompress it first")
    if extension == ".mds":
        raise ValueError(
            f"{path} is an MDS shard, which needs its index: name their directory with --from_mds"
        )
    return kind, compression
