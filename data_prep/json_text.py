"""The text in a JSON object, of a line of `.jsonl` or a member of a tar."""

import json
import re

COLUMN = "text"
"""The field of the text, where `--column` names no other."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of_json(content: str, column: str) -> str | None:
    """The field of that name; None for what is no JSON object with a text there."""
    try:
        text = json.loads(content)[column]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return _SURROGATE.sub("\ufffd", text) if isinstance(text, str) else None
