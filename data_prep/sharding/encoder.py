"""Encodes lines to token ids, each distinct word only once.

If a tokenizer splits text at spaces, the ids of a line are the concatenated ids of its words. Text
repeats its words, so a table of the words seen so far saves most calls of the library. This makes
sharding about 1.9 times as fast for English and 1.2 times for Korean, which has more word forms.
A word of a byte-level tokenizer has the white space before it. Other tokenizers get whole lines. The ids
always equal those of the library for whole lines.
"""

import itertools
import re

import numpy as np

from bertds.data.shards.format import Ids, id_dtype
from bertds.data.tokenizer import Tokenizer
from bertds.data.word_starts import WORD_MARK
from data_prep.sharding.rows import Int64s, take_ragged

_BLANK_BYTE = "Ġ"  # a blank in byte-level vocabularies
# The library's white space, which has less control characters than Python's.
_SPACE, _NO_SPACE = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
_WORD_AFTER_WHITE_SPACE = re.compile(f"{_SPACE}*{_NO_SPACE}+|{_SPACE}+")
_WORD_AFTER_BLANK = re.compile(f" {_NO_SPACE}+")
_BATCH_CHARACTERS = 1 << 20  # per call of the library, whose results take 100 bytes per token
_WORDS_PER_LINE = 32  # new words that are encoded as one line
# The word table is cleared when it exceeds either limit, at about 200 MiB.
_MAX_CHARACTERS = 32 << 20
_MAX_WORDS = 1 << 20


class LineEncoder:
    """Encodes batches of clean lines and caches the ids of their words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = id_dtype(tokenizer.vocab_size)
        self._by_word = tokenizer.words_are_independent
        self._by_word_with_blank = tokenizer.words_have_their_blank
        self._keeps_white_space = self._by_word_with_blank and tokenizer.keeps_white_space
        names = tokenizer.tokens(list(range(tokenizer.vocab_size)))
        mark = _BLANK_BYTE if self._by_word_with_blank else WORD_MARK
        self._begins_word = np.array([name.startswith(mark) for name in names])
        self._clear()

    def encode(self, lines: list[str]) -> tuple[Ids, Int64s]:
        """Encode lines.

        Returns:
            The concatenated ids, shape [T], and the number of ids of each line, shape [S].
        """
        units: list[str] = []  # words, or whole lines if words cannot be encoded alone
        ends: list[int] = []
        for line in lines:
            if self._by_word and WORD_MARK not in line:
                units += line.split(" ")
            elif self._keeps_white_space:
                units += _WORD_AFTER_WHITE_SPACE.findall(line)
            elif self._by_word_with_blank:
                units += line.replace(" ", "\n ").split("\n")
            else:
                units.append(line)
            ends.append(len(units))
        self._add_units(units)
        entries = np.fromiter(map(self._entries.__getitem__, units), np.int64, len(units))
        lengths = self._lengths[entries]
        tokens = take_ragged(self._ids, self._starts[entries], lengths)
        token_ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[ends]
        if self._characters > _MAX_CHARACTERS or len(self._entries) > _MAX_WORDS:
            self._clear()
        return tokens, np.diff(token_ends, prepend=0)

    def _clear(self) -> None:
        """Empty the table: entry number by unit, and the ids of all entries."""
        self._characters = 0
        self._entries: dict[str, int] = {}
        self._ids: Ids = np.zeros(0, dtype=self.dtype)
        self._lengths: Int64s = np.zeros(0, dtype=np.int64)
        self._starts: Int64s = np.zeros(0, dtype=np.int64)

    def _add_units(self, units: list[str]) -> None:
        """Encode the units that are not in the table yet, and add them."""
        new = [unit for unit in dict.fromkeys(units) if unit not in self._entries]
        words = [unit for unit in new if self._is_word(unit)]
        others = [unit for unit in new if not self._is_word(unit)]
        for part, (ids, lengths) in (
            (words, self._encode_words(words)),
            (others, self._encode_texts(others)),
        ):
            self._entries.update(zip(part, itertools.count(len(self._entries)), strict=False))
            self._ids = np.concatenate([self._ids, ids])
            self._lengths = np.concatenate([self._lengths, lengths])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._characters += sum(map(len, new))

    def _is_word(self, unit: str) -> bool:
        """Whether the first token of a unit tells that a word begins, also inside a line."""
        if self._by_word_with_blank:
            return _WORD_AFTER_BLANK.fullmatch(unit) is not None
        return self._by_word and WORD_MARK not in unit

    def _encode_words(self, words: list[str]) -> tuple[Ids, Int64s]:
        """Encode words as lines of many words, at half the cost of one call per word.

        The tokens with a word mark tell where each word begins. If they do not, as in a vocabulary
        without the mark, the words are encoded one by one.
        """
        batches = [
            words[start : start + _WORDS_PER_LINE]
            for start in range(0, len(words), _WORDS_PER_LINE)
        ]
        separator = "" if self._by_word_with_blank else " "
        ids, lengths = self._encode_texts([separator.join(batch) for batch in batches])
        begins = self._begins_word[ids]
        starts = np.cumsum(lengths) - lengths
        if not batches or not begins[starts].all():
            return self._encode_texts(words)
        words_per_batch = np.add.reduceat(begins, starts, dtype=np.int64).tolist()
        if words_per_batch != [len(batch) for batch in batches]:
            return self._encode_texts(words)
        return ids, np.diff(np.flatnonzero(begins), append=len(ids))

    def _encode_texts(self, texts: list[str]) -> tuple[Ids, Int64s]:
        """Encode each text by itself, with calls of about `_BATCH_CHARACTERS` characters."""
        batch_numbers = (
            np.cumsum([len(text) for text in texts], dtype=np.int64) // _BATCH_CHARACTERS
        )
        cuts = [0, *(np.flatnonzero(np.diff(batch_numbers)) + 1).tolist(), len(texts)]
        ids: list[Ids] = [np.zeros(0, dtype=self.dtype)]
        lengths: list[int] = []
        for start, end in itertools.pairwise(cuts):
            if start < end:
                encoded = self.tokenizer.encode_batch(texts[start:end])
                lengths += map(len, encoded)
                ids.append(np.fromiter(itertools.chain.from_iterable(encoded), dtype=self.dtype))
        return np.concatenate(ids), np.array(lengths, dtype=np.int64)
