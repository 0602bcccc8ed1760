"""Text in the shards of MosaicML Streaming (MDS): `index.json` and `.mds` files, perhaps compressed.

    a shard:   samples, uint32 | where each begins, and the end, uint32 | the writer's settings |
               samples
    a sample:  sizes of the columns that have no fixed one, uint32 each | the columns

The index says which columns there are and how each is encoded. The column of the text must be a
`str`; no other is decoded, and a pickled one is never loaded. Samples are read in order from a
stream, so memory is the table of a shard and a piece of a sample.
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
from data_prep.readers.streams import Reader, as_line

INDEX_NAME = "index.json"
_MAX_INDEX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class MdsShard:
    """One shard as the index describes it, and the file of it that is there.

    Attributes:
        path: The file, compressed or not.
        compression: Of that file.
        file_bytes: Its size by the index.
        file_hashes: Its hashes by the index, by the name of each; often none.
        raw_bytes: Its size without compression.
        samples: How many it holds.
        column_sizes: Bytes of each column in a sample, None where each sample says.
        text_column: The number of the text's column.
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
        """Where the text is in a sample, in words that are the same each time."""
        return f"{self.text_column} of {json.dumps(self.column_sizes)}"


class _File(BaseModel):
    basename: str
    bytes: NonNegativeInt
    hashes: dict[str, str] = Field(default_factory=dict)


class _Entry(BaseModel):
    """What the index says of a shard."""

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
    """The shards of the MDS directories `D[,D…]`.

    Raises:
        ValueError: A directory is missing or damaged, or has no such column of text.
    """
    return [
        shard
        for each in dataset_directories("from_mds", spec)
        for shard in mds_shards(each, column)
    ]


def mds_shards(directory: Path, column: str) -> list[MdsShard]:
    """The shards of an MDS directory.

    Raises:
        ValueError: It has no index, or one that is damaged, names a file that is missing or outside
            of it, or has no text in that column.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        raise ValueError(
            f"--from_mds names {directory}, which has no {INDEX_NAME}: a directory that MDSWriter "
            "wrote is wanted, of one split"
        )
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise ValueError(f"{path} has over {_MAX_INDEX_BYTES:,} bytes: that is no index of shards")
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _bad_index(path, error) from error
    return [_shard(path, entry, column) for entry in index.shards]


def check_file(shard: MdsShard, file: io.BufferedReader, size: int) -> None:
    """See that a shard's file is the one of the index, by its size and the hashes that we know.

    Raises:
        ValueError: It is not.
    """
    if size != shard.file_bytes:
        raise ValueError(
            f"{shard.path} is damaged or cut off (it has {size:,} bytes, its index says "
            f"{shard.file_bytes:,})"
        )
    for name, wanted in shard.file_hashes:
        if name not in hashlib.algorithms_guaranteed or name.startswith("shake"):
            continue  # such as xxh64, of which Python has none
        file.seek(0)
        if hashlib.file_digest(file, name).hexdigest() != wanted:
            raise ValueError(f"{shard.path} is damaged or cut off (its {name} is another)")


def mds_lines(reader: Reader, shard: MdsShard) -> Iterator[bytes]:
    """The texts of a shard, each as the pieces of a line.

    Raises:
        ValueError: The shard is damaged, or not the one of the index.
    """
    head = 4 * (shard.samples + 2)
    if head > shard.raw_bytes or int.from_bytes(reader.read(4), "little") != shard.samples:
        raise reader.damaged(f"it has not the {shard.samples:,} samples of its index")
    begins = np.frombuffer(reader.read(head - 4), dtype="<u4").astype(np.int64)
    sizes = np.diff(begins)
    if begins[0] < head or begins[-1] != shard.raw_bytes or (sizes < 0).any():
        raise reader.damaged("its samples do not lie where its table says")
    reader.skip(int(begins[0]) - head)
    for size in sizes:
        yield from _sample_lines(reader, int(size), shard)
    if reader.read_some(1):
        raise reader.damaged(f"it has more than the {shard.raw_bytes:,} bytes of its index")


def _sample_lines(reader: Reader, size: int, shard: MdsShard) -> Iterator[bytes]:
    begin = reader.position
    num_open = shard.column_sizes.count(None)
    said = iter(np.frombuffer(reader.read(4 * num_open), dtype="<u4").tolist())
    sizes = [next(said) if fixed is None else fixed for fixed in shard.column_sizes]
    if 4 * num_open + sum(sizes) != size:
        raise reader.damaged("a sample is not as long as its columns")
    reader.skip(sum(sizes[: shard.text_column]))
    yield from as_line(reader.pieces(sizes[shard.text_column]))
    reader.skip(begin + size - reader.position)


def _shard(index: Path, content: dict[str, Any], column: str) -> MdsShard:
    if content.get("format") != "mds":
        raise ValueError(
            f"{index} is of shards in the format {content.get('format')!r}, only 'mds' is read: "
            "give JSON lines to --input"
        )
    try:
        entry = _Entry.model_validate(content)
    except ValidationError as error:
        raise _bad_index(index, error) from error
    if not len(entry.column_names) == len(entry.column_encodings) == len(entry.column_sizes):
        raise ValueError(f"{index} is damaged: it has columns without a name, encoding or size")
    path, compression, file = _file(index, entry)
    return MdsShard(
        path=path,
        compression=compression,
        file_bytes=file.bytes,
        file_hashes=tuple(sorted(file.hashes.items())),
        raw_bytes=entry.raw_data.bytes,
        samples=entry.samples,
        column_sizes=tuple(entry.column_sizes),
        text_column=_text_column(index, entry, column),
    )


def _text_column(index: Path, entry: _Entry, column: str) -> int:
    if column not in entry.column_names:
        raise ValueError(
            f"{index} has no column {column!r}, its shards have {', '.join(entry.column_names)}: "
            "name the one of the text with --column"
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
            f"{index}: the column {column!r} is encoded as {encoding}, wanted is str: name the one "
            "of the text with --column"
        )
    return number


def _file(index: Path, entry: _Entry) -> tuple[Path, Literal["none", "gz", "zst"], _File]:
    """The shard's file: the one that is not compressed if it is there."""
    raw = _inside(index, entry.raw_data)
    if entry.zip_data is None or raw.is_file():
        if not raw.is_file():
            raise ValueError(f"{raw} is missing, {index} names it: fetch the whole directory")
        return raw, "none", entry.raw_data
    packed = _inside(index, entry.zip_data)
    if not packed.is_file():
        raise ValueError(f"{packed} is missing, {index} names it: fetch the whole directory")
    kind = (entry.compression or "").partition(":")[0]
    known: dict[str, Literal["gz", "zst"]] = {"gz": "gz", "zstd": "zst"}
    if kind not in known:
        raise ValueError(
            f"{packed} is compressed with {kind!r}, zstd and gz are read: unpack it beside itself"
        )
    return packed, known[kind], entry.zip_data


def _inside(index: Path, file: _File) -> Path:
    """Merged indexes name files in directories below; what leads elsewhere is refused."""
    name = PurePosixPath(file.basename)
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{index} names the file {file.basename!r}, which is not below it")
    return index.parent / name


def _bad_index(path: Path, error: ValidationError) -> ValueError:
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return ValueError(f"{path} is no index of MDS shards ({place}: {fault['msg']})")
