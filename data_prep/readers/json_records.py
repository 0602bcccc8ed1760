"""Reads JSON that is not one object per line: an array of records, or records over several lines.

Each record becomes one JSON line, so the rest of the program reads it like a `.jsonl` file. A
record is parsed in memory, the file is not.
"""

import codecs
import json
import re
from collections.abc import Iterator

from data_prep.readers.jsonl import MAX_JSON_BYTES
from data_prep.readers.streams import PIECE_BYTES, Reader

_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
_ARRAY_OF_OBJECTS = re.compile(r"\[[ \t\r\n]*\{")
_DECODER = json.JSONDecoder()


def is_json_array(text: str) -> bool:
    """Whether a text begins with a JSON array of objects."""
    return _ARRAY_OF_OBJECTS.match(text.lstrip()) is not None


def begins_with_json_array(text: str) -> bool:
    """Whether a text begins with a JSON array whose first object is there and is valid."""
    match = _ARRAY_OF_OBJECTS.match(text.lstrip())
    return match is not None and _object_end(text.lstrip(), match.end() - 1) > 0


def is_json_lines(text: str) -> bool:
    """Whether every whole line of the beginning of a text is a JSON object."""
    lines = [line.strip() for line in text.split("\n")]
    if len(lines) > 1:
        lines.pop()  # may be cut
    objects = [line for line in lines if line]
    return bool(objects) and all(
        line.startswith("{") and _object_end(line, 0) == len(line) for line in objects
    )


def is_json_over_lines(text: str) -> bool:
    """Whether a text begins with a JSON object that ends on a later line."""
    text = text.lstrip()
    return text.startswith("{") and "\n" in text[: _object_end(text, 0)]


def json_record_lines(reader: Reader) -> Iterator[bytes]:
    """The records of a JSON array, or of several JSON values in a row, one JSON line each.

    Raises:
        ValueError: The file is damaged or truncated, or a record is too large.
    """
    scanner = _Scanner(reader)
    while character := scanner.next_character():
        if character != "[":
            yield scanner.take_value()
            continue
        scanner.take(character)
        while scanner.next_character() != "]":
            yield scanner.take_value()
            if scanner.next_character() == ",":
                scanner.take(",")
            elif scanner.next_character() != "]":
                raise scanner.damaged("expected a comma or the end of the array")
        scanner.take("]")


def _object_end(text: str, start: int) -> int:
    """The end of the JSON value at `start`; 0 if there is none, or not all of it."""
    try:
        _, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return 0
    return end


class _Scanner:
    """A JSON text that is read as far as needed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # Invalid bytes stay as they are: cleaning replaces and counts them.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._start = "", 0
        self._is_ended = False
        self._num_values = 0
        if self.next_character() == "\ufeff":
            self.take("\ufeff")

    def next_character(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            match = _WHITE_SPACE.match(self._text, self._start)
            self._start = match.end() if match else self._start
            if self._start < len(self._text):
                return self._text[self._start]
            if not self._read_more():
                return ""

    def take(self, character: str) -> None:
        """Skip the next character, which `next_character` has told."""
        self._start += len(character)

    def take_value(self) -> bytes:
        """Read a JSON value, as one line."""
        reason = "the end is missing"
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._start)
            except (ValueError, RecursionError) as error:
                end = -1
                reason = getattr(error, "msg", "nested too deeply") if self._is_ended else reason
            if 0 < end < len(self._text) or (end > 0 and self._is_ended):  # a number may go on
                value = self._text[self._start : end].replace("\n", " ").replace("\r", " ")
                self._start = end
                self._num_values += 1
                return value.encode("utf-8", "surrogateescape") + b"\n"
            if not self._read_more():
                raise self.damaged(reason)

    def damaged(self, reason: str) -> ValueError:
        """The error for JSON that cannot be read further."""
        return self._reader.damaged(f"JSON record {self._num_values + 1:,}: {reason}")

    def _read_more(self) -> bool:
        """Read the next piece; False at the end of the file."""
        rest = self._text[self._start :]
        if len(rest) > MAX_JSON_BYTES:
            raise ValueError(
                f"{self._reader.name}: JSON record {self._num_values + 1:,} has more than "
                f"{MAX_JSON_BYTES:,} bytes, or is not valid JSON: write JSON lines instead"
            )
        # As much as is there already: parsing a long record again then costs little.
        piece = self._reader.read_up_to(max(PIECE_BYTES, len(rest)))
        is_new = bool(piece) or not self._is_ended
        self._is_ended = not piece
        self._text, self._start = rest + self._decoder.decode(piece, final=not piece), 0
        return is_new
