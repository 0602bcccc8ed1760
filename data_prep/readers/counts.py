"""What became of the lines of a text: the names of the counts, their table, and what they warn of.

Each line that is read is either kept, or dropped for exactly one reason. A record of a format with
fields, such as a row of a table, counts as one line. Other counts tell what cleaning changed.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

READ = "lines"
KEPT = "lines kept"
BLANK = "blank lines"
NO_TEXT = "records without a text"
WRONG_FIELDS = "rows with another number of fields"
DUPLICATE = "duplicate lines"
INVALID = "lines with invalid UTF-8"
HELD_OUT = "lines of the validation text"
UNKNOWN = "lines of which more than a tenth is [UNK]"
UNMASKABLE_LINES = "lines dropped whole"
# Reasons to drop a line, as the counts name them, with their explanation.
_DROPPED = {
    BLANK: BLANK,
    NO_TEXT: NO_TEXT,
    "lines that are no JSON with a text": NO_TEXT,  # the name in older manifests
    WRONG_FIELDS: "another number of fields than the first row",
    DUPLICATE: DUPLICATE,
    HELD_OUT: "training lines that the validation text has",
    UNMASKABLE_LINES: "lines without a maskable token",
}
_REMEDIES = {
    NO_TEXT: "name the field of the text with --column",
    WRONG_FIELDS: "quote fields that hold the delimiter",
    DUPLICATE: "--nodedup keeps these",
    UNMASKABLE_LINES: "the tokenizer knows no character of these, was it trained on other text?",
}
_MAX_LOST = 0.1  # a larger share is worth a warning; blank lines do not count


def add_reader_counts(counts: Counter[str], by_reader: Counter[str]) -> None:
    """Add what a reader counted; it left a blank line in the place of each dropped record."""
    counts.update(by_reader)
    counts[BLANK] -= sum(by_reader[name] for name in _DROPPED)


def check_is_utf8(path: Path | str, counts: Counter[str]) -> None:
    """Check that most lines of a file were valid UTF-8, or were converted to it.

    Raises:
        ValueError: They were not.
    """
    if 2 * counts[INVALID] > counts[READ]:
        raise ValueError(
            f"{path} is not utf-8: {counts[INVALID]:,} of its {counts[READ]:,} lines are not "
            "valid. Set --encoding to the encoding of the text, or leave this file out"
        )


def add_kept(counts: Counter[str]) -> None:
    """Count the lines that cleaning kept, where no later stage drops any."""
    counts[KEPT] = _not_dropped(counts)


def _not_dropped(counts: Mapping[str, int]) -> int:
    return counts.get(READ, 0) - sum(counts.get(name, 0) for name in _DROPPED)


def format_counts(counts: Mapping[str, int]) -> str:
    """A table of what was read, kept, dropped and changed."""
    counts = {KEPT: _not_dropped(counts), **counts}  # older manifests do not have it
    rows = [(counts.get(READ, 0), "lines read"), (counts[KEPT], f"kept ({_share(counts, KEPT)})")]
    rows += [
        (counts[name], f"dropped: {reason} ({_share(counts, name)})")
        for name, reason in _DROPPED.items()
        if counts.get(name)
    ]
    others = counts.keys() - _DROPPED.keys() - {READ, KEPT}
    rows += [(counts[name], f"changed: {name}") for name in sorted(others) if counts[name]]
    return "\n".join(f"{count:>15,}  {label}" for count, label in rows)


def warn_of_losses(title: str, counts: Mapping[str, int]) -> None:
    """Warn if more than a tenth of the lines that are not blank was lost in one of three ways.

    They were dropped, were not UTF-8, or have many tokens that the tokenizer does not know.
    """
    dropped = {name: counts.get(name, 0) for name in _DROPPED if name != BLANK}
    not_blank = counts.get(READ, 0) - counts.get(BLANK, 0)
    total = sum(dropped.values())
    if total > _MAX_LOST * not_blank:
        reasons = [
            f"{count:,} {_DROPPED[name]}" + (f" ({_REMEDIES[name]})" if name in _REMEDIES else "")
            for name, count in dropped.items()
            if count
        ]
        _warn(title, total, not_blank, f"were dropped: {', '.join(reasons)}")
    if counts.get(INVALID, 0) > _MAX_LOST * not_blank:
        reason = "have invalid UTF-8: set --encoding if the text is in another encoding"
        _warn(title, counts[INVALID], not_blank, reason)
    if counts.get(UNKNOWN, 0) > _MAX_LOST * not_blank:
        reason = "are more than a tenth [UNK]: was the tokenizer trained on other text?"
        _warn(title, counts[UNKNOWN], not_blank, reason)


def _warn(title: str, count: int, total: int, what: str) -> None:
    print(
        f"warning: {title}: {count:,} of {total:,} lines ({count / total:.1%}) {what}",
        file=sys.stderr,
    )


def explain_nothing_kept(counts: Mapping[str, int], column: str) -> str:
    """An error message if cleaning kept no line, though not all are blank; else empty."""
    records = counts.get(READ, 0) - counts.get(BLANK, 0)
    no_text, wrong_fields = counts.get(NO_TEXT, 0), counts.get(WRONG_FIELDS, 0)
    if not records or no_text + wrong_fields < records:
        return ""
    if wrong_fields:
        return (
            f"none of the {records:,} rows is kept: {wrong_fields:,} have "
            f"{_DROPPED[WRONG_FIELDS]}, {no_text:,} have no text; {_REMEDIES[WRONG_FIELDS]}"
        )
    return (
        f"none of the {records:,} records has a text in the field {column!r}: expected JSON "
        "objects, or rows of a table, with text there; name the field of the text with --column"
    )


def _share(counts: Mapping[str, int], name: str) -> str:
    return f"{counts.get(name, 0) / max(1, counts.get(READ, 0)):.1%}"
