"""Reads text from the shards of MosaicML Streaming (MDS): an `index.json` and `.mds` files.

    shard:   number of samples, uint32 | start of each sample, and the end, uint32 |
             settings of the writer, JSON | samples
    sample:  size of each column without a fixed one, uint32 | columns

The index names the columns and their encodings. The text column must be encoded as `str`. No other
column is decoded, so pickles are never loaded. Samples are read in order from a stream, with the
table of one shard and a piece of one sample in memory.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from data_prep.readers.hf_dataset import dataset_directories
from data_prep.readers.splits import choose_split
from data_prep.readers.streams import Reader, as_line

INDEX_NAME = "index.json"
_MAX_INDEX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class MdsShard:
    """One shard as the index describes it, with the path of its file.

    Attributes:
        path: The file, compressed or not.
        compression: Compression of the file.
        file_bytes: Size of the file by the index.
        file_hashes: Hashes of the file by the index, as (algorithm, digest); often empty.
        raw_bytes: Size of the decompressed content.
        samples: Number of samples.
        column_sizes: Bytes of each column in a sample, None if they vary.
        text_column: Number of the text column.
    """

    path: Path
    compression: Literal["none", "gz", "zst"]
    file_bytes: int
    file_hashes: tuple[tuple[str, str], ...]
    raw_bytes: int
    samples: int
    column_sizes: tuple[int | None, ...]
    text_column: int

    @property
    def layout(self) -> str:
        """Position of the text in a sample, as part of the source's identity."""
        return f"{self.text_column} of {json.dumps(self.column_sizes)}"


class _File(BaseModel):
    basename: str
    bytes: NonNegativeInt
    hashes: dict[str, str] = Field(default_factory=dict)


class _Entry(BaseModel):
    """The entry of a shard in the index."""

    format: str
    samples: NonNegativeInt
    raw_data: _File
    zip_data: _File | None = None
    compression: str | None = None
    column_names: list[str]
    column_encodings: list[str]
    column_sizes: list[NonNegativeInt | None] = Field(max_length=1 << 16)


class _Index(BaseModel):
    shards: list[dict[str, Any]]


def mds_files(spec: str, column: str) -> list[MdsShard]:
    """The shards of the MDS directories `D[,D...]`.

    Raises:
        ValueError: A directory is missing or damaged, or lacks this text column.
    """
    return [
        shard
        for directory in dataset_directories("from_mds", spec)
        for shard in mds_shards(directory, column)
    ]


def mds_shards(directory: Path, column: str) -> list[MdsShard]:
    """The shards of an MDS directory.

    Raises:
        ValueError: The index is missing, damaged, or has no text in that column; or a file that it
            names is missing or outside the directory.
    """
    path = directory / INDEX_NAME
    splits = {index.parent.name: index for index in sorted(directory.glob(f"*/{INDEX_NAME}"))}
    if not path.is_file() and splits:
        path = choose_split(str(directory), splits, f"--from_mds {directory}/{next(iter(splits))}")
    if not path.is_file():
        raise ValueError(
            f"--from_mds names {directory}, which has no {INDEX_NAME}: expected the directory of "
            "one split, written by MDSWriter"
        )
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise ValueError(
            f"{path} has more than {_MAX_INDEX_BYTES:,} bytes: it is not an index of MDS shards"
        )
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _invalid_index(path, error) from error
    return [_parse_entry(path, entry, column) for entry in index.shards]


def check_mds_file(shard: MdsShard, file: io.BufferedReader, size: int) -> None:
    """Check a shard's file against the size and the hashes in the index.

    Raises:
        ValueError: They differ.
    """
    if size != shard.file_bytes:
        raise ValueError(
            f"{shard.path} is damaged or truncated (it has {size:,} bytes, the index says "
            f"{shard.file_bytes:,})"
        )
    for algorithm, expected in shard.file_hashes:
        if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
            continue  # such as xxh64, which hashlib lacks
        file.seek(0)
        if hashlib.file_digest(file, algorithm).hexdigest() != expected:
            raise ValueError(
                f"{shard.path} is damaged or truncated (its {algorithm} differs from the index)"
            )


def mds_lines(reader: Reader, shard: MdsShard) -> Iterator[bytes]:
    """The texts of a shard, one line each, in pieces.

    Raises:
        ValueError: The shard is damaged, or not the one in the index.
    """
    table_bytes = 4 * (shard.samples + 2)
    if table_bytes > shard.raw_bytes or int.from_bytes(reader.read(4), "little") != shard.samples:
        raise reader.damaged(f"it does not have the {shard.samples:,} samples of the index")
    offsets = np.frombuffer(reader.read(table_bytes - 4), dtype="<u4").astype(np.int64)
    sizes = np.diff(offsets)
    if offsets[0] < table_bytes or offsets[-1] != shard.raw_bytes or (sizes < 0).any():
        raise reader.damaged("its table of samples is invalid")
    reader.skip(int(offsets[0]) - table_bytes)
    for size in sizes:
        yield from _sample_lines(reader, int(size), shard)
    if reader.read_up_to(1):
        raise reader.damaged(f"it has more than the {shard.raw_bytes:,} bytes of the index")


def _sample_lines(reader: Reader, size: int, shard: MdsShard) -> Iterator[bytes]:
    """The text of the next sample, which has `size` bytes."""
    end = reader.position + size
    num_variable = shard.column_sizes.count(None)
    variable_sizes = iter(np.frombuffer(reader.read(4 * num_variable), dtype="<u4").tolist())
    sizes = [next(variable_sizes) if fixed is None else fixed for fixed in shard.column_sizes]
    if 4 * num_variable + sum(sizes) != size:
        raise reader.damaged("the size of a sample differs from the sum of its columns")
    reader.skip(sum(sizes[: shard.text_column]))
    yield from as_line(reader.pieces(sizes[shard.text_column]))
    reader.skip(end - reader.position)


def _parse_entry(index: Path, content: dict[str, Any], column: str) -> MdsShard:
    """The shard that an entry of the index describes."""
    if content.get("format") != "mds":
        raise ValueError(
            f"{index} describes shards in the format {content.get('format')!r}, expected 'mds': "
            "convert them to JSON lines and use --input"
        )
    try:
        entry = _Entry.model_validate(content)
    except ValidationError as error:
        raise _invalid_index(index, error) from error
    if not len(entry.column_names) == len(entry.column_encodings) == len(entry.column_sizes):
        raise ValueError(f"{index} is damaged: it has columns without a name, encoding or size")
    path, compression, file = _find_file(index, entry)
    return MdsShard(
        path=path,
        compression=compression,
        file_bytes=file.bytes,
        file_hashes=tuple(sorted(file.hashes.items())),
        raw_bytes=entry.raw_data.bytes,
        samples=entry.samples,
        column_sizes=tuple(entry.column_sizes),
        text_column=_find_text_column(index, entry, column),
    )


def _find_text_column(index: Path, entry: _Entry, column: str) -> int:
    """The number of the text column."""
    if column not in entry.column_names:
        raise ValueError(
            f"{index} has no column {column!r}, it has {', '.join(entry.column_names)}: name the "
            "text column with --column"
        )
    number = entry.column_names.index(column)
    encoding = entry.column_encodings[number]
    if encoding == "pkl":
        raise ValueError(
            f"{index}: the column {column!r} is pickled (pkl), and pickles are never loaded, since "
            "they can run any code: write the text again as str"
        )
    if encoding != "str":
        raise ValueError(
            f"{index}: the column {column!r} is encoded as {encoding}, expected str: name the text "
            "column with --column"
        )
    return number


def _find_file(index: Path, entry: _Entry) -> tuple[Path, Literal["none", "gz", "zst"], _File]:
    """The shard's file: the uncompressed one if it exists, otherwise the compressed one."""
    raw = _path_below(index, entry.raw_data)
    if raw.is_file():
        return raw, "none", entry.raw_data
    if entry.zip_data is None:
        raise ValueError(f"{raw} is missing, but {index} names it: download the whole directory")
    compressed = _path_below(index, entry.zip_data)
    if not compressed.is_file():
        raise ValueError(
            f"{compressed} is missing, but {index} names it: download the whole directory"
        )
    algorithm = (entry.compression or "").partition(":")[0]
    known: dict[str, Literal["gz", "zst"]] = {"gz": "gz", "zstd": "zst"}
    if algorithm not in known:
        raise ValueError(
            f"{compressed} is compressed with {algorithm!r}, expected zstd or gz: decompress it in "
            "its directory"
        )
    return compressed, known[algorithm], entry.zip_data


def _path_below(index: Path, file: _File) -> Path:
    """The path of a file that the index names; files outside its directory are rejected."""
    name = PurePosixPath(file.basename)
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise ValueError(
            f"{index} names the file {file.basename!r}, which is outside its directory"
        )
    return index.parent / name


def _invalid_index(path: Path, error: ValidationError) -> ValueError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return ValueError(f"{path} is not an index of MDS shards ({key}: {first['msg']})")
