r"""Raw text: where it comes from, and what is done to it before anything else reads it.

    files, globs, `-`  --open_sources-->  sources  --read_chunks-->  whole lines  --clean_lines-->

`\n` alone ends a line. A clean line is NFC, without control characters, with single blanks; what
cannot be so (bytes that are no UTF-8, lines too long for memory) is replaced or cut, and counted,
never a crash. The chunks of a file, and so the cuts, depend on its content alone. Memory is a few
chunks of 4 MiB, whatever the size of a file or a line; cleaning makes about 50 MB a second.
"""

import contextlib
import glob
import gzip
import hashlib
import json
import re
import shutil
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

CHUNK_BYTES = 4 << 20  # a longer line is cut there, and goes on as the next one
MAX_WORD_CHARACTERS = 4096  # a longer run without a blank is cut by blanks

# Control characters that are no white space, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LONG_WORD = re.compile(rf"(\S{{{MAX_WORD_CHARACTERS}}})(?=\S)")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of text."""

    path: Path
    kind: Literal["lines", "jsonl"]
    compression: Literal["none", "gz", "zst"]
    size: int  # bytes on disk
    sha256: str

    @property
    def identity(self) -> tuple[str, int, str]:
        """What the text depends on: not the name."""
        return self.sha256, self.size, f"{self.kind} {self.compression}"


@contextlib.contextmanager
def open_sources(spec: str, spool_dir: Path) -> Iterator[list[Source]]:
    """The sources that `F[,F…]` names, in an order that does not depend on their names.

    Args:
        spec: Paths and globs, separated by commas; `-` is standard input, which is copied to a
            file in `spool_dir` for the time of the context.
        spool_dir: An existing directory.

    Raises:
        ValueError: A path does not exist, a glob finds nothing, or all is empty.
    """
    spool = spool_dir / ".tmp-standard-input"
    try:
        paths = [path for word in _words(spec) for path in _expand(word, spool)]
        sources = [_describe(path) for path in dict.fromkeys(paths)]
        if not any(source.size for source in sources):
            raise ValueError(f"--input={spec} has no bytes: some text is wanted")
        yield sorted(sources, key=lambda source: source.identity)
    finally:
        spool.unlink(missing_ok=True)


def read_chunks(source: Source) -> Iterator[tuple[bytes, int]]:
    """The bytes of a source in chunks of whole lines, and how far into the file each leads.

    Only a line over `CHUNK_BYTES` is split between chunks.

    Raises:
        ValueError: The file is not the compressed file that its name says, or is cut off.
    """
    try:
        with source.path.open("rb") as file, _decompressed(file, source) as stream:
            rest = b""
            while piece := stream.read(CHUNK_BYTES):
                rest += piece
                while len(rest) > CHUNK_BYTES:
                    length = _cut_length(rest)
                    yield rest[:length], file.tell()
                    rest = rest[length:]
            if rest:
                yield rest, file.tell()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{source.path} is damaged or cut off ({error})") from error


def clean_lines(chunk: bytes, kind: Literal["lines", "jsonl"], counts: Counter[str]) -> list[str]:
    """The clean, non-empty lines of a chunk; what was changed or dropped is added to `counts`."""
    lines = _decoded(chunk, counts).split("\n")
    if lines[-1] == "":
        lines.pop()
    counts["lines"] += len(lines)
    if len(chunk) > CHUNK_BYTES - 4 and not chunk.endswith(b"\n"):
        counts["long lines cut"] += 1
    counts["byte order marks"] += chunk.count(b"\xef\xbb\xbf")
    counts["NUL characters"] += chunk.count(b"\0")
    counts["carriage returns"] += chunk.count(b"\r")
    if kind == "jsonl":
        lines = _json_texts(lines, counts)
    lines = [*_single_spaced(_normalised(lines, counts), counts)]
    kept = [line for line in lines if line]
    counts["blank lines"] += len(lines) - len(kept)
    return kept


def _words(spec: str) -> list[str]:
    """The parts between commas; a path that exists may hold commas itself."""
    return [spec] if Path(spec).exists() else [word for word in spec.split(",") if word]


def _expand(word: str, spool: Path) -> list[Path]:
    if word == "-":
        with spool.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [spool]
    path = Path(word).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ValueError(f"--input names the directory {word}: a file or a glob is wanted")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [each for each in found if each.is_file()]
    if not files:
        raise ValueError(f"--input names {word}, which does not exist: a file, glob or - is wanted")
    return files


def _describe(path: Path) -> Source:
    endings = path.suffixes
    compression: Literal["none", "gz", "zst"] = "none"
    if endings[-1:] in ([".gz"], [".zst"]):
        compression = cast("Literal['gz', 'zst']", endings.pop()[1:])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(
        path=path,
        kind="jsonl" if endings[-1:] == [".jsonl"] else "lines",
        compression=compression,
        size=path.stat().st_size,
        sha256=digest,
    )


@contextlib.contextmanager
def _decompressed(file: BinaryIO, source: Source) -> Iterator[IO[bytes]]:
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
            with zstandard.ZstdDecompressor().stream_reader(
                file, read_across_frames=True
            ) as stream:
                yield cast("IO[bytes]", stream)
        except zstandard.ZstdError as error:
            raise ValueError(f"{source.path} is damaged or cut off ({error})") from error


def _cut_length(data: bytes) -> int:
    """Where the first chunk of `data` ends: after the last line that fits, or inside a long one."""
    end = data.rfind(b"\n", 0, CHUNK_BYTES + 1) + 1
    if end:
        return end
    end = CHUNK_BYTES
    while data[end] & 0xC0 == 0x80 and end > CHUNK_BYTES - 4:
        end -= 1  # not inside a character
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


def _json_texts(lines: list[str], counts: Counter[str]) -> list[str]:
    """The `text` of each line; what has none is dropped and counted."""
    texts = []
    for line in lines:
        if not line.strip():
            texts.append("")
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if isinstance(text, str):
            texts.append(_SURROGATE.sub("\ufffd", text))
        else:
            counts["lines that are no JSON with a text"] += 1
    return texts


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
