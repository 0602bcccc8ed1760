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
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from data_prep.arrow_text import arrow_lines
from data_prep.inputs import Source, open_binary
from data_prep.json_text import COLUMN, MAX_JSON_BYTES, text_of_json
from data_prep.mds_text import mds_lines
from data_prep.streams import Reader, ZstdFrames
from data_prep.tar_text import tar_lines

CHUNK_BYTES = 4 << 20  # a longer line is cut there, and goes on as the next one
_PIECE_BYTES = 1 << 20  # read at a time, at least
_TAIL_BYTES = 64 << 10  # looked through for the last end of line
MAX_WORD_CHARACTERS = 4096  # a longer run without a blank is cut by blanks

NO_TEXT = "lines that are no JSON with a text"
LONG = "long lines cut"

# Control characters that are no white space, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LONG_WORD = re.compile(rf"(\S{{{MAX_WORD_CHARACTERS}}})(?=\S)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
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


def cut_chunks(source: Source) -> Iterator[tuple[bytes | Stretch, int]]:
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
            if stop - start > CHUNK_BYTES:
                length = _found_cut(file, start, _longest_line(source))
                stop = start + length if length else stop
            yield Stretch(path=source.path, start=start, stop=stop), stop
            start = stop


def clean_lines(
    chunk: bytes, kind: Literal["lines", "jsonl"], counts: Counter[str], column: str = COLUMN
) -> list[str]:
    """The clean, non-empty lines of a chunk; what was changed or dropped is added to `counts`."""
    lines = _decoded(chunk, counts).split("\n")
    if lines[-1] == "":
        lines.pop()
    counts["lines"] += len(lines)
    if kind == "lines" and len(chunk) > CHUNK_BYTES - 4 and not chunk.endswith(b"\n"):
        counts[LONG] += 1
    counts["byte order marks"] += chunk.count(b"\xef\xbb\xbf")
    counts["NUL characters"] += chunk.count(b"\0")
    counts["carriage returns"] += chunk.count(b"\r")
    if kind == "jsonl":
        lines = _json_texts(lines, counts, column)
    lines = [*_single_spaced(_normalised(lines, counts), counts)]
    kept = [line for line in lines if line]
    counts["blank lines"] += len(lines) - len(kept)
    return kept


def no_text(counts: Counter[str]) -> str:
    """A sentence where no line of JSON has a text, so that the field's name is in doubt."""
    if not counts[NO_TEXT] or counts[NO_TEXT] + counts["blank lines"] < counts["lines"]:
        return ""
    return (
        f"none of {counts['lines']:,} lines is JSON with a text in its field: --column names the "
        f"field, which is {COLUMN!r} otherwise"
    )


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
        while piece := stream.read(CHUNK_BYTES):
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
    return MAX_JSON_BYTES if source.kind == "jsonl" else CHUNK_BYTES


def _found_cut(file: io.BufferedReader, start: int, longest: int) -> int:
    """The `_cut_length` of the file from `start`, mostly from the end of the chunk alone."""
    behind = max(0, CHUNK_BYTES + 1 - _TAIL_BYTES)
    file.seek(start + behind)
    end = file.read(CHUNK_BYTES + 1 - behind).rfind(b"\n") + 1
    if end:
        return behind + end
    file.seek(start)
    return _cut_length(file.read(longest + 1), longest)


def _cut_length(data: bytes, longest: int) -> int:
    """Where the first chunk of `data` ends: after the last line that fits, or inside a long one.

    0: with its end, or further on than `data` leads.
    """
    if len(data) <= CHUNK_BYTES:
        return 0
    end = data.rfind(b"\n", 0, CHUNK_BYTES + 1) + 1 or data.find(b"\n", CHUNK_BYTES, longest) + 1
    if end or len(data) <= longest:
        return end
    return _character_end(data, longest)


def _character_end(data: bytes, end: int) -> int:
    """The end, or a little before it, where it is not inside a character."""
    most = end
    while data[end] & 0xC0 == 0x80 and end > most - 4:
        end -= 1
    return end


def _decoded(chunk: bytes, counts: Counter[str]) -> str:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        lines = chunk.split(b"\n")
        decoded = [line.decode(errors="replace") for line in lines]
        counts["lines with invalid UTF-8"] += sum(
            text.encode() != line for text, line in zip(decoded, lines, strict=True)
        )
        return "\n".join(decoded)


def _json_texts(lines: list[str], counts: Counter[str], column: str) -> list[str]:
    """The text of each line; what has none is dropped and counted."""
    texts = []
    for line in lines:
        text = text_of_json(line, column) if line.strip() else ""
        if text is None:
            counts[NO_TEXT] += 1
        else:
            pieces = _short(text)
            counts[LONG] += len(pieces) - 1
            texts += pieces
    return texts


def _short(text: str) -> list[str]:
    """The text, cut where it is longer than a line may be, as it would be in a file of lines."""
    if len(text) <= CHUNK_BYTES // 4:
        return [text]
    data, pieces = text.replace("\n", " ").encode(), []
    while len(data) > CHUNK_BYTES:
        end = _character_end(data, CHUNK_BYTES)
        pieces.append(data[:end].decode())
        data = data[end:]
    return [*pieces, data.decode()]


def _normalised(lines: list[str], counts: Counter[str]) -> list[str]:
    """Without control characters, then NFC; most text is so already, which is seen at once."""
    if _CONTROL.search("\n".join(lines)):
        counts["lines with control characters"] += sum(bool(_CONTROL.search(x)) for x in lines)
        lines = [_CONTROL.sub("", line) for line in lines]
    if not unicodedata.is_normalized("NFC", "\n".join(lines)):
        counts["lines not NFC"] += sum(not unicodedata.is_normalized("NFC", x) for x in lines)
        lines = [unicodedata.normalize("NFC", line) for line in lines]
    return lines


def _single_spaced(lines: list[str], counts: Counter[str]) -> Iterator[str]:
    """White space of any kind becomes single blanks, none at the ends."""
    for line in lines:
        spaced = " ".join(line.split())
        if len(spaced) > MAX_WORD_CHARACTERS and _LONG_WORD.search(spaced):
            counts["lines with words cut"] += 1
            spaced = _LONG_WORD.sub(r"\1 ", spaced)
        yield spaced
