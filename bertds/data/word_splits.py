"""Whether a tokenizer encodes the words of a line independently, found from its tokenizer.json.

Then a table of words saves most of the encoding. The normalizer must work on single characters or
white space, and no added token may span words.
"""

from bertds.data.special_tokens import Description
from bertds.data.white_space import STEPS, normalizer_steps


def words_are_independent(description: Description) -> bool:
    """Whether a Metaspace pre-tokenizer splits at each blank, and marks the first word as well."""
    split = description.get("pre_tokenizer") or {}
    return (
        split.get("type") == "Metaspace"
        and split.get("split", True)
        and split.get("replacement") == "▁"
        and split.get("prepend_scheme") == "always"
        and _normalizes_words_alone(description)
    )


def words_have_their_blank(description: Description) -> bool:
    """Whether a byte-level pre-tokenizer splits before white space, and adds no blank."""
    split = description.get("pre_tokenizer") or {}
    return (
        split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split.get("add_prefix_space", True)
        and _normalizes_words_alone(description)
    )


def _normalizes_words_alone(description: Description) -> bool:
    steps = normalizer_steps(description)
    added = description.get("added_tokens") or []
    return all(step["type"] in ("NFC", "Lowercase") or step in STEPS for step in steps) and all(
        token["special"] for token in added
    )
