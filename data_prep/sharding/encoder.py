"""Lines to ids, each distinct word only once.

Where a tokenizer cuts at blanks, a line's ids are its words' ids end to end, and text repeats its
words: a table of the words seen so far saves encoding them again. Shards of English are made about
1.9 times as fast as the library alone encodes the lines, of Korean, with its many forms of a word,
1.2 times. Other tokenizers get whole lines. The ids are the library's in all cases.
"""

import itertools

import numpy as np

from bertds.data.shards.format import Ids, id_dtype
from bertds.data.tokenizer import Tokenizer
from data_prep.sharding.rows import Int64s, take_ragged

WORD_MARK = "▁"
_BATCH_CHARACTERS = 1 << 20  # given to the library at once: its answers take 100 bytes a token
_JOINED = 32  # new words in a line of their own


# What is remembered before the table is begun anew: some 200 MiB.
_MAX_CHARACTERS = 32 << 20
_MAX_WORDS = 1 << 20


class LineEncoder:
    """Encodes batches of clean lines; keeps what it learns of words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = id_dtype(tokenizer.vocab_size)
        self._by_word = tokenizer.words_are_independent
        names = tokenizer.tokens(list(range(tokenizer.vocab_size)))
        self._begins_word = np.array([name.startswith(WORD_MARK) for name in names])
        self._forget()

    def encode(self, lines: list[str]) -> tuple[Ids, Int64s]:
        """Ids of the lines end to end, shape [T], and the number of each line, shape [S]."""
        units: list[str] = []
        ends: list[int] = []
        for line in lines:
            if self._by_word and WORD_MARK not in line:
                units += line.split(" ")
            else:
                units.append(line)
            ends.append(len(units))
        self._learn(units)
        codes = np.fromiter(map(self._codes.__getitem__, units), np.int64, len(units))
        lengths = self._lengths[codes]
        tokens = take_ragged(self._ids, self._starts[codes], lengths)
        token_ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[ends]
        if self._characters > _MAX_CHARACTERS or len(self._codes) > _MAX_WORDS:
            self._forget()
        return tokens, np.diff(token_ends, prepend=0)

    def _forget(self) -> None:
        self._characters = 0
        self._codes: dict[str, int] = {}
        self._ids: Ids = np.zeros(0, dtype=self.dtype)
        self._lengths: Int64s = np.zeros(0, dtype=np.int64)
        self._starts: Int64s = np.zeros(0, dtype=np.int64)

    def _learn(self, units: list[str]) -> None:
        """Encode the units that are new."""
        new = [unit for unit in dict.fromkeys(units) if unit not in self._codes]
        words = [unit for unit in new if self._by_word and WORD_MARK not in unit]
        others = [unit for unit in new if not self._by_word or WORD_MARK in unit]
        for part, (ids, lengths) in (
            (words, self._encode_words(words)),
            (others, self._encode_each(others)),
        ):
            self._codes.update(zip(part, itertools.count(len(self._codes)), strict=False))
            self._ids = np.concatenate([self._ids, ids])
            self._lengths = np.concatenate([self._lengths, lengths])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._characters += sum(map(len, new))

    def _encode_words(self, words: list[str]) -> tuple[Ids, Int64s]:
        """Ids of words, given to the library many at a time: half the cost of one by one."""
        sizes = [len(words[at : at + _JOINED]) for at in range(0, len(words), _JOINED)]
        lines = [" ".join(words[at : at + _JOINED]) for at in range(0, len(words), _JOINED)]
        ids, lengths = self._encode_each(lines)
        begins = self._begins_word[ids]
        starts = np.cumsum(lengths) - lengths
        if not lines or not begins[starts].all():
            return self._encode_each(words)
        if np.add.reduceat(begins, starts, dtype=np.int64).tolist() != sizes:
            return self._encode_each(words)  # a word whose first token does not say so
        return ids, np.diff(np.flatnonzero(begins), append=len(ids))

    def _encode_each(self, texts: list[str]) -> tuple[Ids, Int64s]:
        ids: list[Ids] = [np.zeros(0, dtype=self.dtype)]
        lengths: list[int] = []
        for batch in _batches(texts):
            encoded = self.tokenizer.encode_batch(batch)
            lengths += map(len, encoded)
            ids.append(np.fromiter(itertools.chain.from_iterable(encoded), dtype=self.dtype))
        return np.concatenate(ids), np.array(lengths, dtype=np.int64)


def _batches(texts: list[str]) -> list[list[str]]:
    """Runs of texts with about `_BATCH_CHARACTERS` characters."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64) // _BATCH_CHARACTERS
    cuts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(texts)]
    return [texts[a:b] for a, b in itertools.pairwise(cuts) if a < b]
