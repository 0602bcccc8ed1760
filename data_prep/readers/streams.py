"""Bytes of a stream in order: what is asked for and no less, in little memory."""

import io
from collections.abc import Iterator
from typing import Any, Protocol

PIECE_BYTES = 1 << 20
_PACKED_BYTES = 4096  # unpacked at once: 128 MiB at the very most


class Readable(Protocol):
    """A binary file; it need not seek."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end."""


class Reader:
    """A stream that must not end before its content says.

    Attributes:
        name: What its user calls it.
        position: Bytes read.
    """

    def __init__(self, stream: Readable, name: str) -> None:
        self._stream = stream
        self.name = name
        self.position = 0

    def read(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            ValueError: The stream ends before.
        """
        content = self.read_some(size)
        if len(content) != size:
            raise self.damaged(f"it ends {size - len(content):,} bytes early")
        return content

    def read_some(self, size: int) -> bytes:
        """So many bytes, fewer where the stream ends."""
        content = self._stream.read(size)
        self.position += len(content)
        return content

    def pieces(self, size: int) -> Iterator[bytes]:
        """So many bytes in pieces, whatever their number.

        Raises:
            ValueError: The stream ends before.
        """
        while size:
            piece = self.read(min(size, PIECE_BYTES))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Pass over so many bytes.

        Raises:
            ValueError: The stream ends before.
        """
        for _ in self.pieces(size):
            pass

    def damaged(self, why: str) -> ValueError:
        """The error that says so."""
        return ValueError(f"{self.name} is damaged or cut off ({why})")


class ZstdFrames(io.RawIOBase):
    """The content of zstd frames, one after the other; zstandard's own reader sees no cut-off one."""

    def __init__(self, stream: Readable, decompressor: Any) -> None:
        """Take a `zstandard.ZstdDecompressor`."""
        self._stream, self._decompressor = stream, decompressor
        self._frame: Any = None
        self._packed = self._ready = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is content at hand.

        Raises:
            EOFError: A frame ends too soon.
        """
        while not self._ready:
            self._packed = self._packed or self._stream.read(_PACKED_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame is not whole")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        view = memoryview(buffer)
        size = min(len(view), len(self._ready))
        view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def as_line(document: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a document as those of one line: its own line ends become blanks."""
    for piece in document:
        yield piece.replace(b"\n", b" ")
    yield b"\n"
