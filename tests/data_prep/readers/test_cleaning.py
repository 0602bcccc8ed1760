"""Cleaning: what is replaced, cut or dropped is counted, and no input fails."""

import os
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.text import MAX_WORD_CHARACTERS, clean_text
from data_prep.readers.cleaning import clean_lines


def clean(content, kind="lines"):
    counts = Counter()
    return clean_lines(content, kind, counts), +counts


@pytest.mark.parametrize(
    ("content", "lines", "counts"),
    [
        (b"one\ntwo\n", ["one", "two"], {}),
        (b"one\ntwo", ["one", "two"], {}),
        (b"one\r\ntwo\r\n", ["one", "two"], {"carriage returns": 2}),
        (b"a\rb", ["a b"], {"carriage returns": 1}),
        (b" a \t b  \n", ["a b"], {}),
        (b"\n\n a\n", ["a"], {"blank lines": 2, "lines": 3}),
        (b"\xef\xbb\xbfa\n", ["a"], {"byte order marks": 1, "lines with control characters": 1}),
        (b"a\0b\0\n", ["ab"], {"NUL characters": 2, "lines with control characters": 1}),
        (b"a\x1b[0m\x7f", ["a[0m"], {"lines with control characters": 1}),
        ("a\u2028b\u2029c\u0085d\u00a0e\u3000f".encode(), ["a b c d e f"], {}),
        (b"\x0b\x0c\x1c\x1d", [], {"blank lines": 1}),
        (b"\xff\xfe\n", ["\ufffd\ufffd"], {"lines with invalid UTF-8": 1}),
        (b"ok\na\xed\xa0\x80b\n", ["ok", "a\ufffd\ufffd\ufffdb"], {"lines with invalid UTF-8": 1}),
        (b"\xc0\xaf\n\xea\xb0", ["\ufffd\ufffd", "\ufffd"], {"lines with invalid UTF-8": 2}),
        ("한글".encode()[:-1], ["한\ufffd"], {"lines with invalid UTF-8": 1}),
        ("\u1112\u1161\u11ab\n글".encode(), ["한", "글"], {"lines not NFC": 1}),
        ("e\0\u0301".encode(), ["é"], {"lines not NFC": 1, "NUL characters": 1,
                                       "lines with control characters": 1}),
        ("\ufffd".encode(), ["\ufffd"], {}),
        ("👩\u200d🔬 a\u200bb".encode(), ["👩\u200d🔬 a\u200bb"], {}),
        (b"", [], {}),
        (b"\n", [], {"blank lines": 1}),
    ],
)  # fmt: skip
def test_lines_and_counts(content, lines, counts):
    cleaned, counted = clean(content)
    assert cleaned == lines
    num_lines = content.count(b"\n") + (content[-1:] not in (b"\n", b""))
    assert counted == +Counter({"lines": num_lines} | counts)


@given(st.binary(max_size=300))
def test_any_bytes_become_clean_lines(content):
    lines, counts = clean(content)
    assert counts["lines"] == len(content.split(b"\n")) - (not content.split(b"\n")[-1])
    assert counts["lines"] == len(lines) + counts["blank lines"]
    for line in lines:
        assert line == " ".join(line.split())
        assert unicodedata.is_normalized("NFC", line)
        assert not any(unicodedata.category(character) == "Cc" for character in line)


@given(st.lists(st.text(), max_size=5))
def test_cleaning_is_idempotent(lines):
    once, _ = clean("\n".join(lines).encode("utf-8", "replace"))
    twice, counts = clean("\n".join(once).encode())
    assert twice == once
    assert set(counts) <= {"lines"}


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_a_text_is_cleaned_like_a_line_of_a_file(content):
    """Also bytes that are not UTF-8, which Python keeps as surrogates on a command line."""
    line = content.replace(b"\n", b" ")
    lines, _ = clean(line)
    assert clean_text(os.fsdecode(line)) == "".join(lines)


@given(st.text(st.characters()))
def test_any_text_of_python_is_cleaned(text):
    """Also lone surrogates, which a program or JSON may give: one replacement character each."""
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    cleaned.encode()


def test_white_space_of_a_text_is_kept_for_a_tokenizer_that_keeps_it():
    text = "if x:\n\t\treturn  1\x00\r\n"
    assert clean_text(text, keep_white_space=True) == "if x:\n\t\treturn  1\r\n"


def test_a_surrogate_is_one_replacement_character():
    assert clean_text("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert clean_text("\udced\udc95\udc9c") == "한"  # the bytes of a Korean syllable


def test_very_long_words_are_cut_by_spaces():
    (line,), counts = clean(("가" * (3 * MAX_WORD_CHARACTERS + 1)).encode())
    assert [len(word) for word in line.split()] == [MAX_WORD_CHARACTERS] * 3 + [1]
    assert counts["lines with words cut"] == 1
    (line,), counts = clean(b"x" * MAX_WORD_CHARACTERS)
    assert " " not in line
    assert counts["lines with words cut"] == 0


def test_lines_without_a_json_text_are_dropped_and_counted():
    content = "\n".join(
        [
            '{"text": "good\\nold  text"}',
            '{"text": 5}',
            '{"other": "x"}',
            "no json",
            "",
            "[1]",
            '{"text": "lone \\ud800 surrogate"}',
            '{"text": ""}',
            "[" * 100_000,
            '"text"',
        ]
    ).encode()
    lines, counts = clean(content, "jsonl")
    assert lines == ["good old text", "lone \ufffd surrogate"]
    assert counts["lines"] == 10
    assert counts["records without a text"] == 6
    assert counts["blank lines"] == 2
