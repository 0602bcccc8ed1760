"""The `tokenizer.json` of a trained vocabulary.

With byte fallback, a character outside the vocabulary becomes the tokens of its UTF-8 bytes,
`<0xF0>` and so on, as in SentencePiece. A byte-level vocabulary writes all text as bytes, as GPT-2,
RoBERTa and ModernBERT do. With either, no text yields `[UNK]`.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bertds.data.white_space import keeping_white_space
from bertds.data.word_starts import WORD_MARK
from bertds.io.atomic import atomic_write

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteOptions:
    """How bytes stand for text, under the names of the tokenizers library.

    Attributes:
        byte_fallback: Whether a character outside the vocabulary becomes its UTF-8 bytes, instead
            of `[UNK]`.
        byte_level: Whether all text is bytes, and merges of bytes.
        keep_white_space: Whether line breaks, tabs and runs of blanks count, as in code.
    """

    byte_fallback: bool = False
    byte_level: bool = False
    keep_white_space: bool = False

    def __post_init__(self) -> None:
        if self.byte_fallback and self.byte_level:
            raise ValueError(
                "--byte_level and --byte_fallback exclude each other: a byte-level vocabulary has "
                "every byte already; set only one of them"
            )

        if self.keep_white_space and not self.byte_level:
            raise ValueError(
                "--keep_white_space needs --byte_level: other vocabularies split text at white "
                "space and have no tokens for it; set both"
            )

    @property
    def byte_tokens(self) -> list[str]:
        """The tokens of the bytes, after the special tokens."""
        if self.byte_level:
            return sorted(pre_tokenizers.ByteLevel.alphabet())
        return _BYTE_NAMES if self.byte_fallback else []


NO_BYTES = ByteOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The result of training: bytes, characters, merges in order, and what became of the text."""

    characters: list[str]
    merges: list[tuple[str, str]]
    byte_tokens: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def tokens(self, num_merges: int) -> tuple[list[str], list[tuple[str, str]]]:
        """The tokens of a vocabulary with `num_merges` merged tokens, and their merges.

        Two merges may make the same token, as `a` `aa` and `aa` `a` do. It counts once.

        Raises:
            ValueError: This vocabulary has fewer.
        """
        tokens = dict.fromkeys([*SPECIALS, *self.byte_tokens, *self.characters])
        num_tokens = len(tokens) + num_merges
        merges: list[tuple[str, str]] = []
        for merge in self.merges:
            if len(tokens) == num_tokens:
                break
            tokens["".join(merge)] = None
            merges.append(merge)
        if len(tokens) < num_tokens:
            available = num_merges - num_tokens + len(tokens)
            raise ValueError(
                f"the text has only {available:,} merges, {num_merges:,} were requested: set "
                f"--merges to {available:,} or less, or give more text"
            )
        return list(tokens), merges


def build(
    vocabulary: Vocabulary, num_merges: int, lowercase: bool, options: ByteOptions = NO_BYTES
) -> bytes:
    """The `tokenizer.json` of the first merges of a vocabulary.

    Raises:
        ValueError: The vocabulary has fewer merges.
    """
    tokens, merges = vocabulary.tokens(num_merges)
    ids = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(
        vocab=ids, merges=merges, unk_token=SPECIALS[1], byte_fallback=options.byte_fallback
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizer(options)
    backend.decoder = _decoder(options)
    backend.add_special_tokens(
        # [MASK] replaces a token including its `▁`, so it takes the space before it.
        [tokenizers.AddedToken(name, lstrip=name == "[MASK]", special=True) for name in SPECIALS]
    )
    content: str = backend.to_str(pretty=True)
    if options.keep_white_space:
        description = keeping_white_space(json.loads(content), mask="[MASK]")
        content = json.dumps(description, ensure_ascii=False, indent=2)
    return (content + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Write a tokenizer.json atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)


def normalizer(lowercase: bool) -> Any:
    """NFC, and lower case if asked for."""
    steps: list[Any] = [normalizers.NFC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def pre_tokenizer(options: ByteOptions) -> Any:
    """What splits text into words."""
    if options.byte_level:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Metaspace(WORD_MARK, prepend_scheme="always")


def _decoder(options: ByteOptions) -> Any:
    if options.byte_level:
        return decoders.ByteLevel()
    metaspace = decoders.Metaspace(WORD_MARK, prepend_scheme="always")
    return (
        decoders.Sequence([decoders.ByteFallback(), metaspace])
        if options.byte_fallback
        else metaspace
    )
