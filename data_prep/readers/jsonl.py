"""The text field of a JSON object: a line of a `.jsonl` file, or a member of a tar."""

import json
import re

DEFAULT_COLUMN = "text"
"""Name of the text field unless `--column` names another one."""
MAX_JSON_BYTES = 64 << 20
"""Maximum size of an object, which is parsed in memory."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_text_field(content: str, column: str) -> str | None:
    """The text in the field `column`, or None if this is not a JSON object with a text there."""
    try:
        text = json.loads(content.removeprefix("\ufeff"))[column]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return _SURROGATE.sub("\ufffd", text) if isinstance(text, str) else None
