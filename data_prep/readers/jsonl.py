"""The text in a JSON object, of a line of `.jsonl` or a member of a tar."""

import json
import re

COLUMN = "text"
"""The field of the text, where `--column` names no other."""
MAX_JSON_BYTES = 64 << 20
"""Of an object, which is parsed whole."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of_json(content: str, column: str) -> str | None:
    """The field of that name; None for what is no JSON object with a text there."""
    try:
        text = json.loads(content.removeprefix("\ufeff"))[column]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return _SURROGATE.sub("\ufffd", text) if isinstance(text, str) else None
