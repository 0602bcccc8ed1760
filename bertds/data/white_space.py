r"""Tokenizers for text whose white space counts, such as code.

The tokenizer.json itself tells whether white space is kept: its normalizer turns the line ends
`\r\n` and `\r` into `\n`. Where white space is collapsed, such a step has no use. So shards, `fill`
and exported models agree without a setting of their own, and a copy that transformers saves still
tells it.
"""

from typing import Any

from bertds.data.special_tokens import Description

# The steps of the normalizer that keep white space in one form.
# A text before [MASK] ends without the blank that the masked token has, as in training.
STEPS: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"Regex": r"\r\n?"}, "content": "\n"},
    {"type": "Replace", "pattern": {"Regex": r" \z"}, "content": ""},
]
_ESCAPES = str.maketrans({character: repr(character)[1:-1] for character in "\n\r\t\v\f"})


def keeps_white_space(description: Description) -> bool:
    """Whether the tokenizer is for text whose white space counts."""
    return any(
        step.get("type") == "Replace" and step.get("content") == "\n"
        for step in normalizer_steps(description)
    )


def keeping_white_space(description: Description, mask: str) -> Description:
    """The same tokenizer for text whose white space counts.

    The mask token no longer takes the white space before it, since that may be a line break.
    """
    added = [
        {**token, "lstrip": False, "rstrip": False} if token["content"] == mask else token
        for token in description.get("added_tokens") or []
    ]
    steps = [*STEPS, *normalizer_steps(description)]
    return {
        **description,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
    }


def on_one_line(text: str) -> str:
    """The text with line breaks and tabs as escapes, for tables."""
    return text.translate(_ESCAPES)


def normalizer_steps(description: Description) -> list[dict[str, Any]]:
    """The steps of the normalizer, none if there is no normalizer."""
    normalizer = description.get("normalizer")
    if normalizer is None:
        return []
    steps: list[dict[str, Any]] = (
        normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    )
    return steps
