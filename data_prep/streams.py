"""Bytes of a stream in order: what is asked for and no less, in little memory."""

from collections.abc import Iterator
from typing import Protocol

PIECE_BYTES = 1 << 20


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


def as_line(document: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a document as those of one line: its own line ends become blanks."""
    for piece in document:
        yield piece.replace(b"\n", b" ")
    yield b"\n"
