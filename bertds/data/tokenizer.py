"""A view of a Hugging Face `tokenizer.json`: what shards, masking and reports need from it.

Any file with a mask token and a pad token works. Text never yields a special token: the letters
`[MASK]` in a line are text, except in `encode_marked`, which `bertds fill` uses. The tokenizers
library does the encoding, and its result is checked. Loading parses the file (0.2 s at 50,000
merges), and the first encoding once more.
"""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tokenizers

from bertds.data.special_tokens import (
    Description,
    declared_beside,
    with_special,
    with_unspellable,
)
from bertds.data.white_space import keeping_white_space, keeps_white_space
from bertds.data.word_splits import words_are_independent, words_have_their_blank
from bertds.data.word_starts import word_starts

MAX_BYTES = 256 << 20  # 50,000 merges take 4 MiB
_FILE_NAME = "tokenizer.json"
_SLOW_NAMES = (  # of tokenizers that are written in Python
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


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
    _description: Description
    _backend: tokenizers.Tokenizer

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens, {self.fingerprint[:12]})"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `tokenizer.json`, or the one in a directory that `save_pretrained` wrote.

        Special tokens that only a file of settings beside it names count as well.

        Raises:
            ValueError: It is missing, too large, not a tokenizer, or has no mask or pad token.
        """
        if path.is_dir():
            path = _file_in(path)
        if not path.is_file():
            raise ValueError(f"{path} does not exist: expected a tokenizer.json file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{path} has {size:,} bytes, a tokenizer.json at most {MAX_BYTES:,}")
        tokenizer = cls.of(path.read_bytes(), str(path))
        return tokenizer._with_special(declared_beside(path), str(path))

    @classmethod
    def of(cls, content: bytes, path: str) -> Self:
        """Parse the bytes of a `tokenizer.json`; error messages name `path`.

        Raises:
            ValueError: It is not a tokenizer, or has no mask or pad token.
        """
        try:
            description = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON, so it is not a tokenizer.json") from error
        if not isinstance(description, dict) or "model" not in description:
            raise ValueError(f"{path} is JSON but not a tokenizer.json: it has no model")
        try:
            backend = _backend(content)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
        special_ids = _special_ids(backend, description["model"])
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
            _description=description,
            _backend=backend,
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode texts. No id is that of a special token, except for unknown characters.

        A text that spells a special token is encoded from the other tokens. The result is checked:
        if the library still returns a special token, the unknown token takes its place.

        Raises:
            ValueError: A text needs an unknown token, and the tokenizer has none.
        """
        try:
            encodings = self._text_backend.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises nothing narrower
            raise _cannot_encode(error) from error
        sequences = [encoding.ids for encoding in encodings]
        if all(map(self._forbidden_ids.isdisjoint, sequences)):
            return sequences
        return [self._without(self._forbidden_ids, ids) for ids in sequences]

    def encode_marked(self, text: str) -> list[int]:
        """Encode one text in which the mask token is spelled, with the file's post-processor.

        `[MASK]` yields the mask token, and the post-processor adds its tokens around the text. Any
        other special token that the text spells is text, as in `encode_batch`.
        """
        encoding = self._marked_backend.encode(text)
        forbidden = self._forbidden_ids - {self.special_ids["mask"]}
        is_added = encoding.special_tokens_mask  # by the post-processor
        ids: list[int] = []
        for number, added in zip(encoding.ids, is_added, strict=True):
            ids += [number] if added else self._without(forbidden, [number])
        return ids

    def count_spelled(self, texts: list[str]) -> int:
        """Count the texts that spell a special token, such as `[MASK]`."""
        firsts = {name[0] for name in self._special_names}
        candidates = {i for first in firsts for i, text in enumerate(texts) if first in text}
        spelled = re.compile("|".join(map(re.escape, self._special_names)))
        return sum(spelled.search(texts[i]) is not None for i in candidates)

    def decode(self, ids: list[int]) -> str:
        """Decode ids to text, special tokens included."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def tokens(self, ids: list[int]) -> list[str]:
        """Return the vocabulary's spelling of each id; `<id>` for an id without a token."""
        added = self._added_tokens
        names = (added.get(number) or self._backend.id_to_token(number) for number in ids)
        return [f"<{number}>" if name is None else name for number, name in zip(ids, names)]

    def ambiguous_roles(self) -> dict[str, list[int]]:
        """The special tokens that occur several times in the vocabulary, and their ids.

        The unknown token may: its id is the one that the model emits.
        """
        names = self.tokens([*range(self.vocab_size)])
        wanted = {names[self.special_ids[role]] for role in self.special_ids if role != "unk"}
        ids: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            if name in wanted:
                ids.setdefault(name, []).append(number)
        return {name: numbers for name, numbers in ids.items() if len(numbers) > 1}

    def differing_parts(self, other: "Tokenizer") -> list[str]:
        """The parts that decide the ids of a text, and are not those of another tokenizer."""
        ours, theirs = (json.loads(each._backend.to_str()) for each in (self, other))
        return [
            part for part in ("normalizer", "pre_tokenizer", "model") if ours[part] != theirs[part]
        ]

    @property
    def model_type(self) -> str:
        """The kind of the vocabulary: BPE, WordPiece, Unigram or WordLevel."""
        return type(self._backend.model).__name__

    def words(self, text: str) -> list[str]:
        """Normalize a text and split it into words, as the vocabulary spells them."""
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        return [text] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(text)]

    def pieces(self, word: str) -> list[int]:
        """Return the ids of one word, spelled as in `words`.

        Raises:
            ValueError: It needs an unknown token, and the tokenizer has none.
        """
        try:
            return [token.id for token in self._backend.model.tokenize(word)]
        except Exception as error:  # the library raises nothing narrower
            raise _cannot_encode(error) from error

    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Tell for each id whether it begins a word; special tokens count as words.

        Returns:
            (V,) booleans.

        Raises:
            ValueError: The vocabulary does not mark where a word begins.
        """
        starts = word_starts(self._description, self._backend, self.vocab_size)
        starts[list(self.unmaskable_ids)] = True
        return starts

    @cached_property
    def keeps_white_space(self) -> bool:
        """Whether the tokenizer is for text whose white space counts, such as code."""
        return keeps_white_space(self._description)

    def keeping_white_space(self) -> Self:
        """This tokenizer for text whose white space counts.

        Raises:
            ValueError: It does not tell kinds of white space apart.
        """
        if self.keeps_white_space:
            return self
        (mask,) = self.tokens([self.special_ids["mask"]])
        description = keeping_white_space(self._description, mask)
        content = json.dumps(description, ensure_ascii=False, indent=2) + "\n"
        kept = self.of(content.encode(), "the tokenizer for kept white space")
        sequences = kept.encode_batch(["a b", "a  b", "a\tb", "a\nb"])
        has_unknown = any(self.special_ids.get("unk") in ids for ids in sequences)
        if has_unknown or len(set(map(tuple, sequences))) < len(sequences):
            raise ValueError(
                "--keep_white_space needs a tokenizer with tokens for blanks, tabs and line "
                "breaks, such as a byte-level one, and this one does not tell them apart: use "
                "another tokenizer, or leave out the flag"
            )
        return kept

    @cached_property
    def words_are_independent(self) -> bool:
        """Whether a line can be encoded word by word: the ids of its words, concatenated.

        A text that contains `▁` is an exception.
        """
        return words_are_independent(self._description)

    @cached_property
    def words_have_their_blank(self) -> bool:
        """Whether a line can be encoded word by word, each with the white space before it."""
        return words_have_their_blank(self._description)

    def _with_special(self, names: list[str], path: str) -> Self:
        """This tokenizer, with further tokens of its vocabulary declared as special."""
        ids = {name: self._backend.token_to_id(name) for name in names}
        description = self._description
        for name, number in ids.items():
            if number is not None and number not in self.unmaskable_ids:
                description = with_special(description, number, name)
        if description is self._description:
            return self
        return self.of(json.dumps(description, ensure_ascii=False).encode(), path)

    def _without(self, forbidden: frozenset[int], ids: list[int]) -> list[int]:
        """The ids with the unknown token, or nothing, in place of forbidden ones."""
        unknown = [self.special_ids[role] for role in ("unk",) if role in self.special_ids]
        pieces = [unknown if number in forbidden else [number] for number in ids]
        return list(itertools.chain.from_iterable(pieces))

    @cached_property
    def _added_tokens(self) -> dict[int, str]:
        """The added tokens as the file spells them; the library normalizes some of them."""
        added = self._backend.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items()}

    @cached_property
    def _special_names(self) -> list[str]:
        return self.tokens([*self.unmaskable_ids])

    @cached_property
    def _forbidden_ids(self) -> frozenset[int]:
        """Ids that a text must not yield."""
        return frozenset(self.unmaskable_ids) - {self.special_ids.get("unk")}

    @cached_property
    def _text_backend(self) -> tokenizers.Tokenizer:
        """Encodes text that may spell special tokens, without yielding one."""
        backend = _backend(with_unspellable(self._description, self._special_names))
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _marked_backend(self) -> tokenizers.Tokenizer:
        """Encodes text in which only the mask token is special."""
        mask_id = self.special_ids["mask"]
        (mask,) = self.tokens([mask_id])
        others = [name for name in self._special_names if name != mask]
        description = with_special(self._description, mask_id, mask)
        return _backend(with_unspellable(description, others))


def _cannot_encode(error: Exception) -> ValueError:
    return ValueError(
        f"the tokenizer cannot encode the text ({error}): add a token for unknown words to its "
        "vocabulary, named as in its unk_token"
    )


def _backend(content: bytes | Description) -> tokenizers.Tokenizer:
    """The library's tokenizer, without padding, truncation and BPE dropout."""
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False).encode()
    backend = tokenizers.Tokenizer.from_buffer(content)
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None  # BPE dropout gives the same text other ids each time
    backend.no_padding()
    backend.no_truncation()
    return backend


def _file_in(directory: Path) -> Path:
    """The tokenizer.json of a model's or tokenizer's directory."""
    path = directory / _FILE_NAME
    if path.is_file():
        return path
    others = [name for name in _SLOW_NAMES if (directory / name).is_file()]
    found = f", only {' and '.join(others)}" if others else ""
    raise ValueError(
        f"{directory} has no {_FILE_NAME}{found}: save it with transformers, "
        f"AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained(...), which writes one"
    )


def _special_ids(backend: tokenizers.Tokenizer, model: dict[str, Any]) -> dict[str, int]:
    """Find the id of each role: the first of its names in the vocabulary."""
    special_ids: dict[str, int] = {}
    for role, names in ROLES.items():
        ids = [backend.token_to_id(name) for name in names]
        number = next((number for number in ids if number is not None), None)
        if number is not None:
            special_ids[role] = number
    unknown = model.get("unk_token")
    number = model.get("unk_id") if unknown is None else backend.token_to_id(unknown)  # Unigram: id
    if number is not None:
        special_ids["unk"] = number
    return special_ids
