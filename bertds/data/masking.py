"""Masking: which tokens of a sequence are predicted, and what replaces them.

A mask is a function of (masking seed, dataset epoch, shard set, index of the sequence in its set)
only: not of the batch, the rank, the mix of datasets, the fraction or the run's seed. With dynamic
masking, the dataset epoch counts the epochs over the dataset. With k static copies it is that count
modulo k.

Of the n maskable tokens of a sequence, max(1, floor(ratio n + 1/2)) are chosen without replacement.
Of these, 80 % become `[MASK]`, 10 % a random id, and 10 % keep theirs (Devlin et al., BERT, 2019,
section 3.1). Special ids and `[UNK]` are neither masked nor drawn.

With unit `word`, whole words are chosen in random order, as long as that leads nearer to this
number. In version 1 the first word is always taken whole, even if it is most of the sequence. In
version 2 a word of more tokens than the number is first cut into equal parts that are not larger.
Both versions give the same masks where no word is that long.

Cost: one hash for each chosen token, about 80 million tokens/s on one core. Whole-word masking sorts
all words: 15 million tokens/s.
"""

import itertools
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from bertds.config.schema import MaskingConfig
from bertds.data.rng import Uint64s, derive_key, splitmix64
from bertds.data.shards.format import StoredMasking

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]


# The random streams of one sequence: which tokens are chosen, what becomes of them, random ids.
_CHOICE, _REPLACEMENT, _RANDOM_ID = (np.uint64(derive_key(stream)) for stream in range(3))
_CHUNK_TOKENS = 1 << 16  # masked at once: fits the cache of a core
_INDEX_BITS = 17  # for the index of a word, or of a sequence, in a chunk
_HALF = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """How tokens are masked. Equal rules give equal masks."""

    seed: int
    ratio: float
    mask_share: float
    random_share: float
    unit: Literal["token", "word"]
    version: Literal[1, 2] = 1
    """2 cuts long words; without effect for unit `token`."""

    @classmethod
    def of(cls, masking: MaskingConfig | StoredMasking) -> Self:
        """The rule of a case, or of pre-masked shards."""
        return cls(**{field.name: getattr(masking, field.name) for field in fields(cls)})


def sequence_keys(seed: int, set_key: int, dataset_epoch: int, indices: Ints) -> Uint64s:
    """Derive the (S,) mask keys of sequences.

    Args:
        seed: The masking seed.
        set_key: Key of the shard set (`Index.set_key`).
        dataset_epoch: Epoch over the dataset, or static copy.
        indices: (S,) index of each sequence in the whole set.
    """
    return splitmix64(derive_key(seed, set_key, dataset_epoch), indices)


class Masker:
    """Applies one rule to the sequences of one vocabulary."""

    def __init__(
        self,
        rule: MaskRule,
        *,
        vocab_size: int,
        mask_id: int,
        unmaskable_ids: tuple[int, ...],
        word_starts: Bools | None = None,
    ) -> None:
        """Prepare the lookup tables.

        Args:
            rule: What to mask.
            vocab_size: V.
            mask_id: Id of `[MASK]`.
            unmaskable_ids: Ids that are neither masked nor drawn.
            word_starts: (V,) whether a token begins a word; required for unit `word`.

        Raises:
            ValueError: The unit is `word`, and the word starts are not given.
        """
        if rule.unit == "word" and word_starts is None:
            raise ValueError(
                "masking.unit is 'word', but this tokenizer does not mark where a word starts: "
                "use 'token' or a tokenizer with a Metaspace, byte-level or WordPiece model"
            )
        self.rule = rule
        self.mask_id = mask_id
        self._maskable: Bools = np.ones(vocab_size, dtype=bool)
        self._maskable[list(unmaskable_ids)] = False
        self.drawable = np.flatnonzero(self._maskable)
        """Ids that a random replacement is drawn from."""
        self._word_starts = word_starts if rule.unit == "word" else None

    def count_maskable(self, tokens: Ints) -> int:
        """Count the tokens that may be masked."""
        return int(np.count_nonzero(self._maskable[tokens]))

    def mask(
        self, tokens: Ints, lengths: Ints, keys: Uint64s
    ) -> tuple[npt.NDArray[np.integer], Int64s]:
        """Mask concatenated sequences.

        Args:
            tokens: (T,) ids.
            lengths: (S,) tokens of each sequence, at most 65,536; they sum to T.
            keys: (S,) from `sequence_keys`.

        Returns:
            (T,) ids with masks applied, of the same dtype, and (M,) flat positions of the tokens to
            predict, ascending.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        inputs = tokens.copy()
        positions = [np.empty(0, dtype=np.int64)]
        for first, stop in itertools.pairwise(_chunk_bounds(ends)):
            start = int(ends[first - 1]) if first else 0
            chunk = inputs[start : ends[stop - 1]]
            chosen = self._mask_chunk(chunk, ends[first:stop] - start, keys[first:stop])
            positions.append(chosen + start)
        return inputs, np.concatenate(positions)

    def _mask_chunk(self, inputs: Ints, ends: Int64s, keys: Uint64s) -> Int64s:
        """Mask sequences in place; returns the positions of the tokens to predict."""
        starts = np.concatenate([[0], ends[:-1]])
        choose = self._choose_tokens if self._word_starts is None else self._choose_words
        chosen = choose(inputs, starts, ends, keys ^ _CHOICE)
        counts = np.diff(np.searchsorted(chosen, ends), prepend=0)
        self._replace(inputs, chosen, np.repeat(keys, counts), chosen - np.repeat(starts, counts))
        return chosen

    def _budget(self, counts: Int64s) -> Int64s:
        """Return the number of tokens to predict, given the number of maskable ones."""
        rounded = np.floor(self.rule.ratio * counts + 0.5).astype(np.int64)
        budget: Int64s = np.maximum(rounded, np.minimum(counts, 1))
        return budget

    def _choose_tokens(self, tokens: Ints, starts: Int64s, ends: Int64s, keys: Uint64s) -> Int64s:
        """Draw tokens one by one; a draw that hits a chosen token is repeated."""
        candidates = np.flatnonzero(self._maskable[tokens])
        bounds = np.searchsorted(candidates, np.append(starts, ends[-1:]))
        first, counts = bounds[:-1], np.diff(bounds)
        budget = self._budget(counts)
        sequence = np.repeat(np.arange(keys.size), budget)
        draw = np.arange(sequence.size) - np.repeat(np.cumsum(budget) - budget, budget)
        is_chosen = np.zeros(candidates.size, dtype=bool)
        last_draw = np.empty(candidates.size, dtype=np.int32)
        while sequence.size:
            hashes = splitmix64(keys[sequence], draw)
            drawn = first[sequence] + _below(hashes, counts[sequence])
            numbers = np.arange(drawn.size, dtype=np.int32)
            last_draw[drawn] = numbers  # the last of several equal draws counts
            is_void = is_chosen[drawn] | (last_draw[drawn] != numbers)
            is_chosen[drawn] = True
            sequence, draw = sequence[is_void], draw[is_void] + (1 << 32)
        chosen: Int64s = candidates[np.flatnonzero(is_chosen)]
        return chosen

    def _choose_words(self, tokens: Ints, starts: Int64s, ends: Int64s, keys: Uint64s) -> Int64s:
        """Choose whole words in hash order, until the next would lead away from the budget."""
        head, size = self._word_spans(tokens, starts)
        sequence = np.searchsorted(ends, head, side="right")
        counts = np.bincount(sequence, weights=size, minlength=ends.size).astype(np.int64)
        budget = self._budget(counts)
        if self.rule.version >= 2:
            head, size, word = _cut_spans(head, size, budget[sequence])
            sequence = sequence[word]
        hashes = splitmix64(keys[sequence], head - starts[sequence])
        order = _order_within(sequence, hashes)
        sizes = size[order]
        before = np.cumsum(sizes) - sizes
        # `order` groups by sequence like `sequence` does, so count from its first word.
        before -= before[np.searchsorted(sequence, sequence)]
        # A bit of the hash breaks a tie, which keeps the ratio.
        doubled = 2 * before + sizes + (hashes[order] & np.uint64(1)).astype(np.int64)
        is_chosen = (before == 0) | (doubled <= 2 * budget[sequence])
        chosen = np.sort(order[is_chosen])
        return _ranges(head[chosen], size[chosen])

    def _word_spans(self, tokens: Ints, starts: Int64s) -> tuple[Int64s, Int64s]:
        """Find the first token and the length of each run of maskable tokens that is a word.

        The first token of a sequence, and one after a special token, begins a word as well.
        """
        assert self._word_starts is not None
        is_maskable = self._maskable[tokens]
        begins = self._word_starts[tokens] | ~is_maskable
        begins[1:] |= ~is_maskable[:-1]
        begins[starts] = True
        heads = np.flatnonzero(begins)
        sizes = np.diff(heads, append=tokens.size)
        is_word = is_maskable[heads]
        return heads[is_word], sizes[is_word]

    def _replace(self, inputs: Ints, chosen: Int64s, keys: Uint64s, position: Int64s) -> None:
        """Replace the chosen tokens in place: 80 % by [MASK], 10 % by random ids.

        Args:
            inputs: (T,) ids.
            chosen: (M,) flat positions.
            keys: (M,) key of the sequence of each.
            position: (M,) position of each in its sequence.
        """
        hashes = splitmix64(keys ^ _REPLACEMENT, position)
        uniform = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
        rule = self.rule
        inputs[chosen[uniform < rule.mask_share]] = self.mask_id
        random = np.flatnonzero(
            (uniform >= rule.mask_share) & (uniform < rule.mask_share + rule.random_share)
        )
        hashes = splitmix64(keys[random] ^ _RANDOM_ID, position[random])
        drawn = _below(hashes, np.array([self.drawable.size]))
        inputs[chosen[random]] = self.drawable[drawn]


def _cut_spans(starts: Int64s, sizes: Int64s, most: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Cut each span into the fewest parts of at most `most` tokens, whose sizes differ by one.

    Returns:
        Start and size of each part, and the index of the span that it comes from.
    """
    counts = -(-sizes // most)
    span = np.repeat(np.arange(sizes.size), counts)
    part = np.arange(span.size) - (np.cumsum(counts) - counts)[span]
    begin, end = (number * sizes[span] // counts[span] for number in (part, part + 1))
    return starts[span] + begin, end - begin, span


def _below(hashes: Uint64s, bounds: Int64s) -> Int64s:
    """Map hashes to integers in [0, bound), uniformly: each probability is exact to 2**-32."""
    return ((hashes >> _HALF) * bounds.astype(np.uint64) >> _HALF).astype(np.int64)


def _order_within(groups: Int64s, hashes: Uint64s) -> Int64s:
    """Sort item indices by (group, hash, index), as one sort of integers: faster than argsort."""
    assert groups.size <= 1 << _INDEX_BITS
    keys = groups.astype(np.uint64) << np.uint64(64 - _INDEX_BITS)
    keys |= hashes >> np.uint64(2 * _INDEX_BITS) << np.uint64(_INDEX_BITS)
    keys |= np.arange(groups.size, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << _INDEX_BITS) - 1)).astype(np.int64)


def _ranges(starts: Int64s, sizes: Int64s) -> Int64s:
    """Concatenate range(start, start + size) for each pair."""
    ends = np.cumsum(sizes)
    shifts: Int64s = np.repeat(starts - (ends - sizes), sizes)
    return shifts + np.arange(shifts.size)


def _chunk_bounds(ends: Int64s) -> list[int]:
    """Cut sequences into chunks of about `_CHUNK_TOKENS`, at most one sequence longer.

    Args:
        ends: (S,) flat end of each sequence.

    Returns:
        Index of the first sequence of each chunk, and S.
    """
    total = int(ends[-1]) if ends.size else 0
    marks = np.arange(_CHUNK_TOKENS, total, _CHUNK_TOKENS)
    inner = np.unique(np.searchsorted(ends, marks, side="right"))
    return [0, *inner[(inner > 0) & (inner < ends.size)].tolist(), ends.size] if total else [0]
