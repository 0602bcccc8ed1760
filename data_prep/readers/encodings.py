"""Text in other encodings than UTF-8: finds out the encoding, and converts the text to UTF-8.

Text is converted in order while it is read, so a character is never cut, in any encoding. What is
invalid in an encoding is replaced and counted.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO

from data_prep.readers.streams import PieceStream

UTF8 = "utf-8"
_PIECE_BYTES = 1 << 20
_UNIT_CHARACTERS = 1000  # longer lines are judged in units of this length
_MAX_CONTROL = 0.25  # of the characters of a text
_MIN_CHARACTERS = 10  # beyond ASCII, so that a text that is valid UTF-8 is no coincidence
_MARKS = {  # those of UTF-32 first: they begin like those of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Files in the encodings on the left hold characters of these extensions, as browsers assume too.
_EXTENSIONS = {
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}
_CANDIDATES = ("cp949", "cp932", "euc_jp", "gb18030", "big5")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def parse_encoding(name: str) -> str:
    """The name of the codec that `--encoding` names.

    Raises:
        ValueError: There is no such encoding of text.
    """
    try:
        "a".encode(name).decode(name)
        found = codecs.lookup(name).name
    except (LookupError, UnicodeError, ValueError) as error:
        raise ValueError(
            f"--encoding is {name!r}, expected the name of an encoding that Python knows, such as "
            "utf-8, utf-16, cp949, euc-kr, shift_jis, gb18030, big5 or cp1252"
        ) from error
    return _EXTENSIONS.get(found, UTF8 if found == "utf-8-sig" else found)


def choose_encoding(head: bytes, encoding: str) -> str:
    """The encoding of a text: the one that its first bytes prove, or else `encoding`."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if encoding == UTF8 or not _is_valid(head, UTF8):
        return encoding
    text = head.decode(UTF8, "ignore")
    num_beyond_ascii = sum(not character.isascii() for character in text)
    if num_beyond_ascii >= _MIN_CHARACTERS or (_is_wide(encoding) and "\0" not in text):
        return UTF8
    return encoding


def explain_wrong_encoding(head: bytes, encoding: str) -> str:
    """Why most of a text is not clean in this encoding, and what to do; empty if it is clean."""
    if encoding in ("utf-16", "utf-32") and head and not head.startswith(tuple(_MARKS)):
        return (
            f"is not {encoding}: it does not begin with a byte order mark. Set --encoding to "
            f"{encoding}-le, {encoding}-be or the encoding of the text{_suggest(head)}"
        )
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    units = [
        line[start : start + _UNIT_CHARACTERS]
        for line in text.removesuffix("\n").split("\n")
        for start in range(0, max(1, len(line)), _UNIT_CHARACTERS)
    ]
    if len(_CONTROL.findall(text)) > _MAX_CONTROL * len(text):
        return (
            "is binary: more than a quarter of its first characters are control characters. Name "
            "files with text; if it is UTF-16 text, set --encoding to utf-16-le or utf-16-be"
        )
    num_invalid = sum("\ufffd" in unit for unit in units)
    if _is_valid(head, encoding):
        num_invalid = 0  # the replacement characters are those of the text
    if _is_wide(encoding) and b"\0" not in head and len(head) > _UNIT_CHARACTERS:
        num_invalid = len(units)  # not even a blank or a line end
    # UTF-8 may be damaged; a text in another encoding has hardly any error, or it is not in that.
    most = 0.5 if encoding == UTF8 else 0.1
    if num_invalid > most * len(units):
        return (
            f"is not {encoding}: {num_invalid:,} of its first {len(units):,} lines are not valid. "
            f"Set --encoding to the encoding of the text{_suggest(head)}"
        )
    return ""


def utf8_stream(stream: IO[bytes], encoding: str, counts: Counter[str]) -> PieceStream:
    """A stream of text in another encoding, converted to UTF-8."""
    return PieceStream(to_utf8(iter(lambda: stream.read(_PIECE_BYTES), b""), encoding, counts))


def to_utf8(pieces: Iterator[bytes], encoding: str, counts: Counter[str]) -> Iterator[bytes]:
    """Convert the pieces of a text to UTF-8, and count what is replaced. UTF-8 stays as it is."""
    if encoding == UTF8:
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for piece in pieces:
        yield _encode(decoder.decode(piece), encoding, counts)
    yield _encode(decoder.decode(b"", final=True), encoding, counts)


def _encode(text: str, encoding: str, counts: Counter[str]) -> bytes:
    counts[f"characters invalid in {encoding}"] += text.count("\ufffd")
    return text.encode(UTF8, "replace")  # a lone surrogate, which some encodings can hold


def _is_wide(encoding: str) -> bool:
    """Whether each ASCII character is several bytes, of which all but one are zero."""
    return encoding.startswith(("utf-16", "utf-32"))


def _is_valid(head: bytes, encoding: str) -> bool:
    """Whether bytes are valid in an encoding, except for a character that is cut at the end."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeError:
        return False
    return True


def _suggest(head: bytes) -> str:
    """How the text begins in the encodings in which it is valid."""
    if b"\0" in head:
        return ""
    valid = [name for name in _CANDIDATES if _is_valid(head, name)] or ["cp1252"]
    return "".join(
        f"; as {name} it reads {_first_words(head, name)!r}"
        for name in valid
        if _is_valid(head, name)
    )


def _first_words(head: bytes, encoding: str) -> str:
    """The beginning of the first line that has more than ASCII."""
    text = head.decode(encoding, "ignore")
    lines = (line.strip() for line in text.split("\n") if not line.isascii())
    return next(lines, "")[:20]
