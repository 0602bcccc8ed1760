"""Reads and decompresses byte streams in order, with little memory; detects truncated ones."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO, Any, Literal, Protocol, cast

Compression = Literal["none", "gz", "zst"]
PIECE_BYTES = 1 << 20
LINE_END = b"\x1e"
"""Stands for a line end inside a document. Cleaning makes it a blank, or a line end again."""
_COMPRESSED_BYTES = 4096  # decompressed at once, to 128 MiB at most


class Readable(Protocol):
    """A binary file that need not be seekable."""

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, or fewer at the end of the file."""


class Reader:
    """A stream that must not end before its content is complete.

    Attributes:
        name: The user's name for the stream, for error messages.
        position: Number of bytes read so far.
    """

    def __init__(self, stream: Readable, name: str) -> None:
        self._stream = stream
        self.name = name
        self.position = 0

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes.

        Raises:
            ValueError: The stream ends before.
        """
        content = self.read_up_to(size)
        if len(content) != size:
            raise self.damaged(f"it ends {size - len(content):,} bytes early")
        return content

    def read_up_to(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end of the stream."""
        content = self._stream.read(size)
        self.position += len(content)
        return content

    def pieces(self, size: int) -> Iterator[bytes]:
        """Read exactly `size` bytes, which may be many, in pieces.

        Raises:
            ValueError: The stream ends before.
        """
        while size:
            piece = self.read(min(size, PIECE_BYTES))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Skip exactly `size` bytes.

        Raises:
            ValueError: The stream ends before.
        """
        for _ in self.pieces(size):
            pass

    def damaged(self, reason: str) -> ValueError:
        """The error for a damaged or truncated stream."""
        return ValueError(f"{self.name} is damaged or truncated ({reason})")


class PieceStream(io.RawIOBase):
    """A stream over pieces of its content, which an iterator makes one after another."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._content = b""

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Copy the next bytes of the content to a buffer; raises what the iterator raises."""
        while not self._content:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._content = piece
        view = memoryview(buffer)
        size = min(len(view), len(self._content))
        view[:size], self._content = self._content[:size], self._content[size:]
        return size


def _zstd_pieces(stream: Readable, decompressor: Any) -> Iterator[bytes]:
    """Decompress concatenated zstd frames; unlike zstandard's reader, this detects truncation.

    Args:
        stream: The compressed content.
        decompressor: A `zstandard.ZstdDecompressor`.

    Raises:
        EOFError: The last frame is incomplete.
    """
    frame: Any = None
    while compressed := stream.read(_COMPRESSED_BYTES):
        while compressed:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(compressed)
            compressed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is incomplete")


@contextlib.contextmanager
def decompress(file: io.BufferedReader, name: str, compression: Compression) -> Iterator[IO[bytes]]:
    """The decompressed content of a file.

    Raises:
        ValueError: The file is damaged or truncated, or its compression needs a missing package.
    """
    try:
        if compression == "none":
            yield file
        elif compression == "gz":
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast("IO[bytes]", stream)
        else:
            with _decompress_zstd(file, name) as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} is damaged or truncated ({error})") from error


@contextlib.contextmanager
def _decompress_zstd(file: io.BufferedReader, name: str) -> Iterator[IO[bytes]]:
    try:
        import zstandard  # an optional dependency
    except ImportError as error:
        raise ValueError(
            f"reading {name} needs zstandard, which is not installed: run pip install 'bertds[zst]'"
        ) from error
    try:
        yield io.BufferedReader(
            PieceStream(_zstd_pieces(file, zstandard.ZstdDecompressor())), PIECE_BYTES
        )
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise ValueError(
                f"{name} needs more than 128 MiB to be decompressed: compress it without --long"
            ) from error
        raise ValueError(f"{name} is damaged or truncated ({error})") from error


def as_line(document: Iterator[bytes]) -> Iterator[bytes]:
    """Turn the pieces of a document into one line: line ends in it become `LINE_END`."""
    for piece in document:
        yield piece.replace(b"\n", LINE_END)
    yield b"\n"
