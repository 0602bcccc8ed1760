"""Cleans a text: the same for the lines of shards and for the texts that a model is given.

A clean text is valid Unicode in NFC, without control characters, with single spaces between words
and none at the ends.
"""

import re
import unicodedata

MAX_WORD_CHARACTERS = 4096  # longer words are cut by spaces
# Control characters that are not white space, and the byte order mark.
CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LONG_WORD = re.compile(rf"(\S{{{MAX_WORD_CHARACTERS}}})(?=\S)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def clean_text(text: str, *, keep_white_space: bool = False) -> str:
    """Clean a text of any source, as if it were a line of a text file.

    Bytes of a command line that are not UTF-8 become replacement characters, as in a file.

    Args:
        text: The text.
        keep_white_space: Whether line ends, tabs and runs of blanks stay, for a tokenizer that keeps
            white space.
    """
    text = unicodedata.normalize("NFC", CONTROL.sub("", _decode_arguments(text)))
    return cut_long_words(text if keep_white_space else collapse_white_space(text))


def _decode_arguments(text: str) -> str:
    """Decode bytes of a command line or a path that Python could not, as UTF-8 where they are."""
    if not _SURROGATE.search(text):
        return text
    # Python keeps such bytes as surrogates from U+DC80 on; others come from JSON.
    content = _NO_BYTE.sub("\ufffd", text).encode(errors="surrogateescape")
    return content.decode(errors="replace")


def replace_surrogates(text: str) -> str:
    """Replace surrogates, which JSON can spell and UTF-8 cannot, by replacement characters."""
    return _SURROGATE.sub("\ufffd", text)


def collapse_white_space(text: str) -> str:
    """Replace white space of any kind by single spaces, and strip both ends."""
    return " ".join(text.split())


def cut_long_words(text: str) -> str:
    """Cut words that are too long for a tokenizer by spaces."""
    if len(text) <= MAX_WORD_CHARACTERS:
        return text
    return _LONG_WORD.sub(r"\1 ", text)
