"""Cleans raw text. What cannot be kept is replaced, cut or dropped, and counted: no input fails.

`bertds.data.text` says what a clean line is. Cleaning processes about 50 MB/s.

White space may also be kept, with `LF` for every line end. A "line" is then a document that may have
several lines: the text of a JSON object, or a document of a container.
"""

import re
import unicodedata
from collections import Counter
from typing import Literal

from bertds.data.text import (
    CONTROL,
    MAX_WORD_CHARACTERS,
    collapse_white_space,
    cut_long_words,
)
from data_prep.readers.counts import BLANK, INVALID, NO_TEXT, READ
from data_prep.readers.jsonl import DEFAULT_COLUMN, parse_text_field
from data_prep.readers.streams import LINE_END

CHUNK_BYTES = 4 << 20  # longer lines are cut into several lines
LONG = "long lines cut"
_LINE_ENDS = re.compile(f"\r[\n{LINE_END.decode()}]?|{LINE_END.decode()}")


def clean_lines(
    chunk: bytes,
    kind: Literal["lines", "jsonl"],
    counts: Counter[str],
    column: str = DEFAULT_COLUMN,
    *,
    keep_white_space: bool = False,
) -> list[str]:
    """Clean the lines of a chunk and drop empty ones; adds what was changed to `counts`.

    Args:
        chunk: Whole lines.
        kind: What a line is: text, or a JSON object with a text.
        counts: Gets what was read, changed and dropped.
        column: The field of the text in a JSON object.
        keep_white_space: Whether to change only line ends, instead of all white space.
    """
    lines = _decode(chunk, counts).split("\n")
    if lines[-1] == "":
        lines.pop()
    counts[READ] += len(lines)
    if kind == "lines" and len(chunk) > CHUNK_BYTES - 4 and not chunk.endswith(b"\n"):
        counts[LONG] += 1
    counts["byte order marks"] += chunk.count(b"\xef\xbb\xbf")
    counts["NUL characters"] += chunk.count(b"\0")
    counts["carriage returns"] += chunk.count(b"\r")
    if kind == "jsonl":
        lines = _extract_texts(lines, counts, column)
    lines = _normalize(lines, counts)
    if keep_white_space:
        lines = ["" if line.isspace() else _LINE_ENDS.sub("\n", line) for line in lines]
    else:
        lines = [collapse_white_space(line) for line in lines]
    lines = _cut_long_words(lines, counts)
    kept = [line for line in lines if line]
    counts[BLANK] += len(lines) - len(kept)
    return kept


def character_end(data: bytes, end: int) -> int:
    """The position `end`, or up to 4 bytes before it, that is not inside a UTF-8 character."""
    latest = end
    while data[end] & 0xC0 == 0x80 and end > latest - 4:
        end -= 1
    return end


def _decode(chunk: bytes, counts: Counter[str]) -> str:
    """Decode UTF-8; invalid bytes become replacement characters, and their lines are counted."""
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        lines = chunk.split(b"\n")
        decoded = [line.decode(errors="replace") for line in lines]
        counts[INVALID] += sum(
            text.encode() != line for text, line in zip(decoded, lines, strict=True)
        )
        return "\n".join(decoded)


def _extract_texts(lines: list[str], counts: Counter[str], column: str) -> list[str]:
    """The texts of JSON lines; lines without one are dropped and counted."""
    texts = []
    for line in lines:
        text = parse_text_field(line, column) if line.strip() else ""
        if text is None:
            counts[NO_TEXT] += 1
        else:
            pieces = _split_long_text(text)
            counts[LONG] += len(pieces) - 1
            counts[READ] += len(pieces) - 1
            texts += pieces
    return texts


def _split_long_text(text: str) -> list[str]:
    """Cut a long text exactly as if it were a line of a text file."""
    if len(text) <= CHUNK_BYTES // 4:
        return [text]
    data, pieces = text.encode(), []
    while len(data) > CHUNK_BYTES:
        end = character_end(data, CHUNK_BYTES)
        pieces.append(data[:end].decode())
        data = data[end:]
    return [*pieces, data.decode()]


def _normalize(lines: list[str], counts: Counter[str]) -> list[str]:
    """Remove control characters, then convert to NFC.

    Most text needs neither, so all lines are checked at once first.
    """
    if CONTROL.search("\n".join(lines)):
        counts["lines with control characters"] += sum(bool(CONTROL.search(x)) for x in lines)
        lines = [CONTROL.sub("", line) for line in lines]
    if not unicodedata.is_normalized("NFC", "\n".join(lines)):
        counts["lines not NFC"] += sum(not unicodedata.is_normalized("NFC", x) for x in lines)
        lines = [unicodedata.normalize("NFC", line) for line in lines]
    return lines


def _cut_long_words(lines: list[str], counts: Counter[str]) -> list[str]:
    """Cut very long words by spaces."""
    if max(map(len, lines), default=0) <= MAX_WORD_CHARACTERS:
        return lines
    cut = [cut_long_words(line) for line in lines]
    changed = sum(ours != theirs for ours, theirs in zip(cut, lines, strict=True))
    if changed:
        counts["lines with words cut"] += changed
    return cut
