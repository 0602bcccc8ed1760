r"""Reads a source as chunks of whole lines: open, decompress, extract the documents, cut.

    source --open, decompress, extract--> lines --read_chunks--> chunks of whole lines --> cleaning

Only `\n` ends a line. Each document of a container (tar, Arrow, parquet, MDS) becomes one line, in
which `LINE_END` stands for line ends. Where chunks are cut depends only on the content
of the source. A few chunks of 4 MiB are in memory, whatever the size of a file or a line.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from data_prep.readers import cleaning
from data_prep.readers.arrow import arrow_lines
from data_prep.readers.cleaning import character_end
from data_prep.readers.encodings import UTF8, utf8_stream
from data_prep.readers.json_records import json_record_lines
from data_prep.readers.jsonl import MAX_JSON_BYTES
from data_prep.readers.mds import mds_lines
from data_prep.readers.sources import Source, open_binary
from data_prep.readers.streams import Reader, decompress
from data_prep.readers.table import table_lines
from data_prep.readers.tar import tar_lines

_PIECE_BYTES = 1 << 20  # minimum size of a read
_TAIL_BYTES = 64 << 10  # end of a chunk that is searched for a line end first


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """Whole lines of an uncompressed file, by position, so that a worker can read them itself."""

    path: Path | str
    start: int
    stop: int

    def read(self) -> bytes:
        """Read the bytes of the range.

        Raises:
            ValueError: The file is shorter than before.
            RemoteError: The file is remote and cannot be read.
        """
        with open_binary(self.path) as file:
            file.seek(self.start)
            content = file.read(self.stop - self.start)
        if len(content) != self.stop - self.start:
            raise ValueError(f"{self.path} changed while it was read: run the command again")
        return content


def cut_chunks(
    source: Source, counts: Counter[str] | None = None
) -> Iterator[tuple[bytes | FileRange, int]]:
    """The chunks of `read_chunks`; those of a plain file as ranges, without reading all of it.

    Raises:
        ValueError: As `read_chunks`.
    """
    is_plain = source.compression == "none" and source.encoding == UTF8
    if not is_plain or source.kind not in ("lines", "jsonl"):
        yield from read_chunks(source, counts)
        return
    max_line_bytes = _max_line_bytes(source)
    start = 0
    with open_binary(source.path, _TAIL_BYTES) as file:
        while start < source.size:
            stop = source.size
            if stop - start > cleaning.CHUNK_BYTES:
                length = _chunk_length_in_file(file, start, max_line_bytes)
                stop = start + length if length else stop
            yield FileRange(path=source.path, start=start, stop=stop), stop
            start = stop


def read_chunks(source: Source, counts: Counter[str] | None = None) -> Iterator[tuple[bytes, int]]:
    """The content of a source in chunks of whole lines.

    A line is cut only if it is longer than `CHUNK_BYTES`, a JSON line if it is longer than
    `MAX_JSON_BYTES`. What the reader drops or replaces is added to `counts`, see
    `add_reader_counts`.

    Yields:
        A chunk, and the position in the file after it, approximate if compressed.

    Raises:
        ValueError: The file is damaged, truncated, or not what its name says.
        RemoteError: The file is remote and cannot be read.
    """
    max_line_bytes = _max_line_bytes(source)
    rest = b""
    for piece, position in _pieces(source, Counter() if counts is None else counts):
        rest += piece
        while length := _chunk_length(rest, max_line_bytes):
            yield rest[:length], position
            rest = rest[length:]
    if rest:
        yield rest, source.size


def _pieces(source: Source, counts: Counter[str]) -> Iterator[tuple[bytes, int]]:
    """The lines of a source in pieces of about 1 MiB, with the position in the file after each."""
    with open_binary(source.path) as file:
        if source.kind == "arrow" or source.kind == "parquet":
            lines = arrow_lines(source.path, file, source.kind, source.column, counts)
            yield from _merge_small(lines)
            return
        with decompress(file, str(source.path), source.compression) as stream:
            pieces = ((piece, file.tell()) for piece in _stream_pieces(source, stream, counts))
            yield from _merge_small(pieces)


def _stream_pieces(source: Source, stream: IO[bytes], counts: Counter[str]) -> Iterator[bytes]:
    """The lines of a decompressed source in UTF-8, in pieces of any size."""
    if source.encoding != UTF8 and source.kind != "tar":
        stream = io.BufferedReader(utf8_stream(stream, source.encoding, counts), _PIECE_BYTES)
    if source.kind in ("lines", "jsonl"):
        while piece := stream.read(cleaning.CHUNK_BYTES):
            yield piece
        return
    if source.kind == "csv" or source.kind == "tsv":
        yield from table_lines(source.path, stream, source.kind, source.column, counts)
        return
    if source.compression != "none":  # otherwise each small read goes to the decompressor
        stream = io.BufferedReader(cast("io.RawIOBase", stream), _PIECE_BYTES)
    reader = Reader(stream, str(source.path))
    if source.shard is not None:
        yield from mds_lines(reader, source.shard)
    elif source.kind == "json":
        yield from json_record_lines(reader)
    else:
        yield from tar_lines(reader, source.column, counts, source.encoding)


def _merge_small(pieces: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Merge small pieces, since appending each to a chunk copies the chunk."""
    merged: list[bytes] = []
    size = position = 0
    for piece, position in pieces:
        merged.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(merged), position
            merged, size = [], 0
    if merged:
        yield b"".join(merged), position


def _max_line_bytes(source: Source) -> int:
    """The length at which a line is cut; half a JSON object cannot be parsed."""
    return MAX_JSON_BYTES if source.line_kind == "jsonl" else cleaning.CHUNK_BYTES


def _chunk_length_in_file(file: io.BufferedReader, start: int, max_line_bytes: int) -> int:
    """The `_chunk_length` of the file from `start`; usually reads only the end of the chunk."""
    offset = max(0, cleaning.CHUNK_BYTES + 1 - _TAIL_BYTES)
    file.seek(start + offset)
    end = file.read(cleaning.CHUNK_BYTES + 1 - offset).rfind(b"\n") + 1
    if end:
        return offset + end
    file.seek(start)
    return _chunk_length(file.read(max_line_bytes + 1), max_line_bytes)


def _chunk_length(data: bytes, max_line_bytes: int) -> int:
    """Length of the first chunk of `data`: it ends after the last line that fits.

    If the first line does not fit, the chunk ends after that line, or inside it if the line is
    longer than `max_line_bytes`.

    Returns:
        The length, or 0 if the chunk ends with the data or more data is needed.
    """
    if len(data) <= cleaning.CHUNK_BYTES:
        return 0
    end = (
        data.rfind(b"\n", 0, cleaning.CHUNK_BYTES + 1) + 1
        or data.find(b"\n", cleaning.CHUNK_BYTES, max_line_bytes) + 1
    )
    if end or len(data) <= max_line_bytes:
        return end
    return character_end(data, max_line_bytes)
