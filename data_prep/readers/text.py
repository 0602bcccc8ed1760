r"""Raw text: how it is cut into chunks, and what is done to it before anything else reads it.

    sources  --read_chunks, cut_chunks-->  whole lines  --clean_lines-->

`\n` alone ends a line; of a container (tar, Arrow, parquet, MDS) each document becomes one, its own
line ends blanks, as in JSON lines. A clean line is NFC, without control characters, with single
blanks; what cannot be so (bytes that are no UTF-8, lines too long for memory) is replaced or cut,
and counted, never a crash. The chunks of a file, and so the cuts, depend on its content alone. Memory is a few
chunks of 4 MiB, whatever the size of a file or a line; cleaning makes about 50 MB a second.
"""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from data_prep.readers import cleaning
from data_prep.readers.arrow import arrow_lines
from data_prep.readers.cleaning import character_end
from data_prep.readers.jsonl import MAX_JSON_BYTES
from data_prep.readers.mds import mds_lines
from data_prep.readers.sources import Source, open_binary
from data_prep.readers.streams import Reader, ZstdFrames
from data_prep.readers.tar import tar_lines

_PIECE_BYTES = 1 << 20  # read at a time, at least
_TAIL_BYTES = 64 << 10  # looked through for the last end of line


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """Whole lines of a source that is not compressed, by where they lie: whoever needs them reads."""

    path: Path | str
    start: int
    stop: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            ValueError: The file ends before, so it was changed.
            RemoteError: It is behind a URL and cannot be read.
        """
        with open_binary(self.path) as file:
            file.seek(self.start)
            content = file.read(self.stop - self.start)
        if len(content) != self.stop - self.start:
            raise ValueError(f"{self.path} was changed while it was read: run the command again")
        return content


def read_chunks(source: Source) -> Iterator[tuple[bytes, int]]:
    """The bytes of a source in chunks of whole lines, and how far into the file each leads.

    Only a line over `CHUNK_BYTES` is split between chunks; one of JSON if it is over `MAX_JSON_BYTES`.

    Raises:
        ValueError: The file is not what its name says, or is damaged or cut off.
        RemoteError: It is behind a URL and cannot be read.
    """
    rest, longest = b"", _longest_line(source)
    for piece, position in _pieces(source):
        rest += piece
        while length := _cut_length(rest, longest):
            yield rest[:length], position
            rest = rest[length:]
    if rest:
        yield rest, source.size


def cut_chunks(source: Source) -> Iterator[tuple[bytes | FileRange, int]]:
    """The chunks of `read_chunks`, those of a plain file by where they lie: little of it is read.

    Raises:
        ValueError: As `read_chunks`.
    """
    if source.compression != "none" or source.kind not in ("lines", "jsonl"):
        yield from read_chunks(source)
        return
    start = 0
    with open_binary(source.path, _TAIL_BYTES) as file:
        while start < source.size:
            stop = source.size
            if stop - start > cleaning.CHUNK_BYTES:
                length = _found_cut(file, start, _longest_line(source))
                stop = start + length if length else stop
            yield FileRange(path=source.path, start=start, stop=stop), stop
            start = stop


def _pieces(source: Source) -> Iterator[tuple[bytes, int]]:
    """Some megabytes at a time, and how far into the file they lead."""
    try:
        with open_binary(source.path) as file:
            if source.kind == "arrow" or source.kind == "parquet":
                yield from _joined(arrow_lines(source.path, file, source.kind, source.column))
                return
            with _decompressed(file, source) as stream:
                yield from _joined((piece, file.tell()) for piece in _stream_pieces(source, stream))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source.path} is damaged or cut off ({error})") from error


def _stream_pieces(source: Source, stream: IO[bytes]) -> Iterator[bytes]:
    if source.kind in ("lines", "jsonl"):
        while piece := stream.read(cleaning.CHUNK_BYTES):
            yield piece
        return
    if source.compression != "none":  # small reads would each go to the decompressor
        stream = io.BufferedReader(cast("io.RawIOBase", stream), _PIECE_BYTES)
    reader = Reader(stream, str(source.path))
    if source.shard is not None:
        yield from mds_lines(reader, source.shard)
    else:
        yield from tar_lines(reader, source.column)


def _joined(pieces: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Fewer and larger pieces: each costs a copy of the chunk that it becomes part of."""
    waiting: list[bytes] = []
    size = position = 0
    for piece, position in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting), position
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting), position


@contextlib.contextmanager
def _decompressed(file: io.BufferedReader, source: Source) -> Iterator[IO[bytes]]:
    if source.compression == "none":
        yield file
    elif source.compression == "gz":
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast("IO[bytes]", stream)
    else:
        try:
            import zstandard  # an extra
        except ImportError as error:
            raise ValueError(f"{source.path} needs the package zstandard to be read") from error
        try:
            yield io.BufferedReader(ZstdFrames(file, zstandard.ZstdDecompressor()), _PIECE_BYTES)
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):
                raise ValueError(
                    f"{source.path} needs more than 128 MiB to be unpacked: pack it without --long"
                ) from error
            raise ValueError(f"{source.path} is damaged or cut off ({error})") from error


def _longest_line(source: Source) -> int:
    """Bytes at which a line is cut: an object of JSON is of no use in two."""
    return MAX_JSON_BYTES if source.kind == "jsonl" else cleaning.CHUNK_BYTES


def _found_cut(file: io.BufferedReader, start: int, longest: int) -> int:
    """The `_cut_length` of the file from `start`, mostly from the end of the chunk alone."""
    behind = max(0, cleaning.CHUNK_BYTES + 1 - _TAIL_BYTES)
    file.seek(start + behind)
    end = file.read(cleaning.CHUNK_BYTES + 1 - behind).rfind(b"\n") + 1
    if end:
        return behind + end
    file.seek(start)
    return _cut_length(file.read(longest + 1), longest)


def _cut_length(data: bytes, longest: int) -> int:
    """Where the first chunk of `data` ends: after the last line that fits, or inside a long one.

    0: with its end, or further on than `data` leads.
    """
    if len(data) <= cleaning.CHUNK_BYTES:
        return 0
    end = (
        data.rfind(b"\n", 0, cleaning.CHUNK_BYTES + 1) + 1
        or data.find(b"\n", cleaning.CHUNK_BYTES, longest) + 1
    )
    if end or len(data) <= longest:
        return end
    return character_end(data, longest)
