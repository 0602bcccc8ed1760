"""A view of a Hugging Face `tokenizer.json`: what shards, masks and reports need of it.

Any such file with a mask and a pad token serves. Text never makes a special token: a line that
holds the letters `[MASK]` is text, except in `encode_marked`, which `bertds fill` uses. Loading
costs the parse of one file (0.2 s at 50,000 merges); encoding is the library's.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tokenizers

MAX_BYTES = 256 << 20  # a larger file is no tokenizer; 50,000 merges take 4 MiB


# The names that the common families give to the five roles, in order of preference.
ROLES: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>"),
    "cls": ("[CLS]", "<s>", "<cls>", "<|cls|>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<eos>", "<|sep|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """One tokenizer and the facts about it that do not change.

    Attributes:
        fingerprint: SHA-256 of the file's bytes, in hex.
        vocab_size: The largest id + 1.
        special_ids: Role ("pad", "unk", "cls", "sep", "mask") to id, for the roles that exist.
        unmaskable_ids: Every special token and the unknown one, ascending: never masked or drawn.
        content: The file's bytes, to be copied beside shards.
    """

    fingerprint: str
    vocab_size: int
    special_ids: dict[str, int]
    unmaskable_ids: tuple[int, ...]
    content: bytes
    _backend: tokenizers.Tokenizer

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            ValueError: It is missing, too large, not a tokenizer, or has no mask or pad token.
        """
        return cls.of(_read(path), str(path))

    @classmethod
    def of(cls, content: bytes, path: str) -> Self:
        """The tokenizer of a file's bytes; `path` is what a complaint names.

        Raises:
            ValueError: It is not a tokenizer, or has no mask or pad token.
        """
        try:
            backend = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # it gives the same text other ids each time
        backend.no_padding()
        backend.no_truncation()
        special_ids = _special_ids(backend)
        missing = [role for role in ("mask", "pad") if role not in special_ids]
        if missing:
            raise ValueError(
                f"{path} has no {' and no '.join(missing)} token, which masked-language modelling "
                f"needs: add one, named for example {ROLES[missing[0]][0]}"
            )
        special = {number for number, added in _added(backend).items() if added.special}
        return cls(
            fingerprint=hashlib.sha256(content).hexdigest(),
            vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
            special_ids=special_ids,
            unmaskable_ids=tuple(sorted(special | set(special_ids.values()))),
            content=content,
            _backend=backend,
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special tokens, whatever the text says."""
        self._backend.encode_special_tokens = True
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_marked(self, text: str) -> list[int]:
        """Ids of one text as the file has it, in which special tokens may be written out.

        So `[MASK]` is that token, and what the post-processor puts around a text is there.
        """
        self._backend.encode_special_tokens = False
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens written out."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def tokens(self, ids: list[int]) -> list[str]:
        """The token of each id as the vocabulary spells it, `<id>` where it has none."""
        names = (self._backend.id_to_token(number) for number in ids)
        return [f"<{number}>" if name is None else name for number, name in zip(ids, names)]

    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Whether each id begins a word, shape [vocab_size]; special tokens stand alone.

        Raises:
            ValueError: The vocabulary does not mark where a word begins.
        """
        starts = np.ones(self.vocab_size, dtype=np.bool_)
        marks = self._word_mark
        for token, number in self._backend.get_vocab(with_added_tokens=False).items():
            starts[number] = token.startswith(marks.prefix) == marks.begins
        starts[list(self.unmaskable_ids)] = True
        return starts

    @cached_property
    def words_are_independent(self) -> bool:
        """Whether the ids of words between blanks, end to end, are the ids of the line.

        So it is where a Metaspace pre-tokenizer cuts at each blank and the normaliser looks at
        single characters; a text with `▁` in it is the exception.
        """
        cut = self._description.get("pre_tokenizer") or {}
        if cut.get("type") != "Metaspace" or not cut.get("split", True):
            return False
        if cut.get("replacement") != "▁" or cut.get("prepend_scheme") != "always":
            return False
        steps = self._description.get("normalizer") or {"type": "Sequence", "normalizers": []}
        steps = steps["normalizers"] if steps["type"] == "Sequence" else [steps]
        added = self._description.get("added_tokens", [])
        return all(step["type"] in ("NFC", "Lowercase") for step in steps) and all(
            token["special"] for token in added
        )

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self.content)
        return description

    @cached_property
    def _word_mark(self) -> "_WordMark":
        """How this vocabulary tells a word's first token from the others."""
        model = self._description["model"]
        if model.get("type") == "WordPiece":
            return _WordMark(prefix=model["continuing_subword_prefix"], begins=False)
        if _mentions(self._description.get("pre_tokenizer"), "ByteLevel"):
            return _WordMark(prefix="Ġ", begins=True)
        if any(token.startswith("▁") for token in self._backend.get_vocab()):
            return _WordMark(prefix="▁", begins=True)
        raise ValueError(
            "this tokenizer does not mark where a word begins (no ▁, Ġ or ##), so whole words "
            "cannot be masked: set the masking unit to token"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _WordMark:
    prefix: str
    begins: bool  # True: the prefix marks a word's first token; False: it marks the others


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: a tokenizer.json file is wanted")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, a tokenizer.json at most {MAX_BYTES:,}")
    content = path.read_bytes()
    try:
        description = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, so it is no tokenizer.json") from error
    if not isinstance(description, dict) or "model" not in description:
        raise ValueError(f"{path} is JSON, but no tokenizer.json: it has no model")
    return content


def _added(backend: tokenizers.Tokenizer) -> dict[int, tokenizers.AddedToken]:
    added: dict[int, tokenizers.AddedToken] = backend.get_added_tokens_decoder()
    return added


def _special_ids(backend: tokenizers.Tokenizer) -> dict[str, int]:
    """The id of each role: the first of its names that the vocabulary holds."""
    found: dict[str, int] = {}
    for role, names in ROLES.items():
        ids = [backend.token_to_id(name) for name in names]
        number = next((number for number in ids if number is not None), None)
        if number is not None:
            found[role] = number
    unknown = getattr(backend.model, "unk_token", None)
    number = None if unknown is None else backend.token_to_id(unknown)
    if number is not None:
        found["unk"] = number
    return found


def _mentions(part: Any, kind: str) -> bool:
    """Whether a part of the tokenizer's description is, or contains, one of this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(value, kind) for value in part.values())
    return isinstance(part, list) and any(_mentions(value, kind) for value in part)
