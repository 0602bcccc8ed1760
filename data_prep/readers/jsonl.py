"""The text field of a JSON object: a line of a `.jsonl` file, or a member of a tar."""

import json

from bertds.data.text import replace_surrogates

DEFAULT_COLUMN = "text"
"""Name of the text field unless `--column` names another one."""
MAX_JSON_BYTES = 64 << 20
"""Maximum size of an object, which is parsed in memory."""


def parse_text_field(content: str, column: str) -> str | None:
    """The text in the field `column`, or None if this is not a JSON object with a text there."""
    try:
        text = json.loads(content.removeprefix("\ufeff"))[column]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return replace_surrogates(text) if isinstance(text, str) else None
