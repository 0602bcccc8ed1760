"""Text cleaning: control characters, blanks, long words, encodings."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from data_prep.readers.jsonl import COLUMN, text_of_json

CHUNK_BYTES = 4 << 20  # a longer line is cut there, and goes on as the next one
MAX_WORD_CHARACTERS = 4096  # a longer run without a blank is cut by blanks
NO_TEXT = "lines that are no JSON with a text"
LONG = "long lines cut"


# Control characters that are no white space, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LONG_WORD = re.compile(rf"(\S{{{MAX_WORD_CHARACTERS}}})(?=\S)")


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


def character_end(data: bytes, end: int) -> int:
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
        end = character_end(data, CHUNK_BYTES)
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
