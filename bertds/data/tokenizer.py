"""A view of a Hugging Face `tokenizer.json`: what shards, masking and reports need from it.

Any file with a mask token and a pad token works. Text never yields a special token: the letters
`[MASK]` in a line are text, except in `encode_marked`, which `bertds fill` uses. Loading parses one
file (0.2 s at 50,000 merges); the tokenizers library does the encoding.
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

MAX_BYTES = 256 << 20  # 50,000 merges take 4 MiB


# Names of the five roles in the common tokenizer families, in order of preference.
ROLES: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>"),
    "cls": ("[CLS]", "<s>", "<cls>", "<|cls|>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<eos>", "<|sep|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer and its constant properties.

    Attributes:
        fingerprint: SHA-256 of the file, in hex.
        vocab_size: The largest id + 1.
        special_ids: Role ("pad", "unk", "cls", "sep", "mask") to id, for the roles that exist.
        unmaskable_ids: Ids of all special tokens and of the unknown token, ascending. Masking never
            masks or draws them.
        content: The bytes of the file, copied beside shards.
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
        if not path.is_file():
            raise ValueError(f"{path} does not exist: expected a tokenizer.json file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{path} has {size:,} bytes, a tokenizer.json at most {MAX_BYTES:,}")
        content = path.read_bytes()
        try:
            description = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON, so it is not a tokenizer.json") from error
        if not isinstance(description, dict) or "model" not in description:
            raise ValueError(f"{path} is JSON but not a tokenizer.json: it has no model")
        return cls.of(content, str(path))

    @classmethod
    def of(cls, content: bytes, path: str) -> Self:
        """Parse the bytes of a `tokenizer.json`; error messages name `path`.

        Raises:
            ValueError: It is not a tokenizer, or has no mask or pad token.
        """
        try:
            backend = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # BPE dropout gives the same text other ids each time
        backend.no_padding()
        backend.no_truncation()
        special_ids = _special_ids(backend)
        missing = [role for role in ("mask", "pad") if role not in special_ids]
        if missing:
            raise ValueError(
                f"{path} has no {' and no '.join(missing)} token, which masked-language modelling "
                f"needs: add one, named for example {ROLES[missing[0]][0]}"
            )
        added = backend.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        return cls(
            fingerprint=hashlib.sha256(content).hexdigest(),
            vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
            special_ids=special_ids,
            unmaskable_ids=tuple(sorted(special | set(special_ids.values()))),
            content=content,
            _backend=backend,
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode texts without special tokens, also where a text spells one."""
        self._backend.encode_special_tokens = True
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_marked(self, text: str) -> list[int]:
        """Encode one text that may spell special tokens, with the file's post-processor.

        `[MASK]` yields the mask token, and the post-processor adds its tokens around the text.
        """
        self._backend.encode_special_tokens = False
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Decode ids to text, special tokens included."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def tokens(self, ids: list[int]) -> list[str]:
        """Return the vocabulary's spelling of each id; `<id>` for an id without a token."""
        names = (self._backend.id_to_token(number) for number in ids)
        return [f"<{number}>" if name is None else name for number, name in zip(ids, names)]

    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Tell for each id whether it begins a word; special tokens count as words.

        Returns:
            (V,) booleans.

        Raises:
            ValueError: The vocabulary does not mark where a word begins.
        """
        model = self._description["model"]
        prefix_begins_word = True
        if model.get("type") == "WordPiece":
            prefix, prefix_begins_word = model["continuing_subword_prefix"], False
        elif _contains_type(self._description.get("pre_tokenizer"), "ByteLevel"):
            prefix = "Ġ"
        elif any(token.startswith("▁") for token in self._backend.get_vocab()):
            prefix = "▁"
        else:
            raise ValueError(
                "this tokenizer does not mark where a word begins (no ▁, Ġ or ##), so whole words "
                "cannot be masked: set the masking unit to token"
            )
        starts = np.ones(self.vocab_size, dtype=np.bool_)
        for token, number in self._backend.get_vocab(with_added_tokens=False).items():
            starts[number] = token.startswith(prefix) == prefix_begins_word
        starts[list(self.unmaskable_ids)] = True
        return starts

    @cached_property
    def words_are_independent(self) -> bool:
        """Whether a line can be encoded word by word: the ids of its words, concatenated.

        This holds if a Metaspace pre-tokenizer splits at each blank and the normalizer works on
        single characters. A text that contains `▁` is an exception.
        """
        split = self._description.get("pre_tokenizer") or {}
        if split.get("type") != "Metaspace" or not split.get("split", True):
            return False
        if split.get("replacement") != "▁" or split.get("prepend_scheme") != "always":
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


def _special_ids(backend: tokenizers.Tokenizer) -> dict[str, int]:
    """Find the id of each role: the first of its names in the vocabulary."""
    special_ids: dict[str, int] = {}
    for role, names in ROLES.items():
        ids = [backend.token_to_id(name) for name in names]
        number = next((number for number in ids if number is not None), None)
        if number is not None:
            special_ids[role] = number
    unknown = getattr(backend.model, "unk_token", None)
    number = None if unknown is None else backend.token_to_id(unknown)
    if number is not None:
        special_ids["unk"] = number
    return special_ids


def _contains_type(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json is, or contains, a component of this type."""
    if isinstance(part, dict):
        values = part.values()
        return part.get("type") == kind or any(_contains_type(value, kind) for value in values)
    return isinstance(part, list) and any(_contains_type(value, kind) for value in part)
