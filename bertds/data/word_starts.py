"""How a vocabulary marks where a word begins, found from its tokenizer.json.

| Convention | Tokenizers | A token begins a word if |
|---|---|---|
| continuation prefix | WordPiece, BPE with `continuing_subword_prefix` | it has no `##` |
| byte-level | `ByteLevel`, also inside a `Sequence` | it starts with a white space byte, such as `Ġ` |
| word mark | BPE and Unigram with `Metaspace` | it starts with `▁` |
| whole words | WordLevel, split at white space | always |

A vocabulary that marks the end of a word (`</w>`) is none of these: whether its token begins a word
depends on the token before.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

WORD_MARK = "▁"
_WHITE_SPACE_BYTES = tuple(chr(0x100 + byte) for byte in b"\t\n\v\f\r ")
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def word_starts(
    description: dict[str, Any], backend: tokenizers.Tokenizer, vocab_size: int
) -> npt.NDArray[np.bool_]:
    """Tell for each id whether its token begins a word; added tokens do.

    Args:
        description: The content of the tokenizer.json.
        backend: The tokenizer made from it.
        vocab_size: V, the largest id + 1.

    Returns:
        (V,) booleans.

    Raises:
        ValueError: The vocabulary does not mark where a word begins.
    """
    vocabulary = backend.get_vocab(with_added_tokens=False)
    prefix, begins_word = _convention(description, backend, vocabulary)
    has_byte_tokens = description["model"].get("byte_fallback", False)
    starts = np.ones(vocab_size, dtype=np.bool_)
    for token, number in vocabulary.items():
        is_byte = has_byte_tokens and _BYTE_TOKEN.fullmatch(token) is not None
        starts[number] = token.startswith(prefix) == begins_word and not is_byte
    return starts


def contains_type(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json is, or contains, a component of this type."""
    if isinstance(part, dict):
        values = part.values()
        return part.get("type") == kind or any(contains_type(value, kind) for value in values)
    return isinstance(part, list) and any(contains_type(value, kind) for value in part)


def _convention(
    description: dict[str, Any], backend: tokenizers.Tokenizer, vocabulary: dict[str, int]
) -> tuple[str | tuple[str, ...], bool]:
    """A prefix, or several, and whether it begins a word or continues one."""
    model = description["model"]
    if prefix := _continuation_prefix(description, vocabulary):
        return prefix, False
    suffix = model.get("end_of_word_suffix")
    if suffix and any(token.endswith(suffix) for token in vocabulary):
        raise ValueError(
            f"this tokenizer marks where a word ends ({suffix}), not where it begins, so whole "
            "words cannot be masked: set the masking unit to token"
        )
    if contains_type(description.get("pre_tokenizer"), "ByteLevel"):
        return _WHITE_SPACE_BYTES, True
    if any(token.startswith(WORD_MARK) for token in vocabulary):
        return WORD_MARK, True
    if model.get("type") == "WordLevel" and _splits_at_blanks(backend):
        return "", True
    raise ValueError(
        "this tokenizer does not mark where a word begins (no ▁, Ġ or ##), so whole words "
        "cannot be masked: set the masking unit to token"
    )


def _continuation_prefix(description: dict[str, Any], vocabulary: dict[str, int]) -> str:
    """The prefix of tokens inside a word, such as `##`, or an empty string.

    A BPE or Unigram model may leave it to the decoder. It counts if a token has it.
    """
    model, decoder = description["model"], description.get("decoder") or {}
    if model.get("type") == "WordPiece":
        return str(model["continuing_subword_prefix"])
    names = [model.get("continuing_subword_prefix")]
    if decoder.get("type") == "WordPiece":
        names.append(decoder.get("prefix"))
    for prefix in filter(None, names):
        if any(token.startswith(prefix) and token != prefix for token in vocabulary):
            return str(prefix)
    return ""


def _splits_at_blanks(backend: tokenizers.Tokenizer) -> bool:
    """Whether the pre-tokenizer splits a text into its words."""
    if backend.pre_tokenizer is None:
        return False
    pieces = backend.pre_tokenizer.pre_tokenize_str("ab cd 가나")
    return [piece for piece, _ in pieces] == ["ab", "cd", "가나"]
