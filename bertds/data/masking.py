"""Which tokens of a sequence are predicted, and what stands in their place.

A mask is a function of (masking seed, pass, shard set, ordinal of the sequence in its set) and of
nothing else: not of the batch, the rank, the worker, the mix of sets, the fraction or the run's
seed. `pass` is the epoch for dynamic masking, 0 for ever for static masking, epoch mod k for k
copies. Of the n maskable tokens of a sequence max(1, floor(ratio n + 1/2)) are chosen without
replacement; 80 % of them become `[MASK]`, 10 % another id drawn uniformly, 10 % stay (Devlin et
al., BERT, 2019, section 3.1). Special ids and `[UNK]` are neither masked nor drawn.

Cost: a hash for each token that is chosen, not for each token there is; about 80 million tokens a
second on one core (whole words: a sort of all words, 15 million).
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bertds.data.rng import Uint64s, derive_key, splitmix64

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]


# The streams of one sequence's key: which tokens, what becomes of them, which random id.
_CHOICE, _FATE, _RANDOM_ID = (np.uint64(derive_key(stream)) for stream in range(3))
_CHUNK_TOKENS = 1 << 16  # masked at once: what stays in a core's cache
_WORD_BITS = 17  # of the number of a word, or of a sequence, in a chunk
_HALF = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """How tokens are masked. Two equal rules give equal masks."""

    seed: int
    ratio: float
    mask_share: float
    random_share: float
    unit: Literal["token", "word"]


def sequence_keys(seed: int, set_key: int, pass_number: int, ordinals: Ints) -> Uint64s:
    """The mask key of each sequence.

    Args:
        seed: The masking seed.
        set_key: Identity of the shard set (`Index.set_key`).
        pass_number: Epoch or copy.
        ordinals: (S,) position of each sequence in its whole set.
    """
    return splitmix64(derive_key(seed, set_key, pass_number), ordinals)


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
        """Prepare the tables.

        Args:
            rule: What to mask.
            vocab_size: V.
            mask_id: The id of `[MASK]`.
            unmaskable_ids: Ids that are neither masked nor drawn.
            word_starts: (V,) True where a token begins a word; needed by unit `word`.

        Raises:
            ValueError: The unit is `word` and the vocabulary's word starts are not known.
        """
        if rule.unit == "word" and word_starts is None:
            raise ValueError(
                "masking.unit is 'word', but this tokenizer does not mark where a word starts: "
                "use 'token' or a tokenizer with a Metaspace, byte-level or WordPiece model"
            )
        self.rule = rule
        self._mask_id = mask_id
        self._maskable: Bools = np.ones(vocab_size, dtype=bool)
        self._maskable[list(unmaskable_ids)] = False
        self.drawable = np.flatnonzero(self._maskable)
        """The ids that a random token is one of."""
        self._word_starts = word_starts if rule.unit == "word" else None

    def mask(
        self, tokens: Ints, lengths: Ints, keys: Uint64s
    ) -> tuple[npt.NDArray[np.integer], Int64s]:
        """Mask sequences that lie end to end.

        Args:
            tokens: (T,) ids.
            lengths: (S,) tokens of each sequence, at most 65,536; their sum is T.
            keys: (S,) from `sequence_keys`.

        Returns:
            (T,) the ids with masks applied, same dtype, and (M,) the flat positions of the tokens
            to predict, ascending.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        inputs = tokens.copy()
        positions = [np.empty(0, dtype=np.int64)]
        for first, stop in itertools.pairwise(_cuts(ends)):
            start = int(ends[first - 1]) if first else 0
            part = inputs[start : ends[stop - 1]]
            chosen = self._mask_part(part, ends[first:stop] - start, keys[first:stop])
            positions.append(chosen + start)
        return inputs, np.concatenate(positions)

    def _mask_part(self, inputs: Ints, ends: Int64s, keys: Uint64s) -> Int64s:
        """Mask in place; the positions of the tokens to predict."""
        starts = np.concatenate([[0], ends[:-1]])
        choose = self._tokens if self._word_starts is None else self._words
        chosen = choose(inputs, starts, ends, keys ^ _CHOICE)
        counts = np.diff(np.searchsorted(chosen, ends), prepend=0)
        self._replace(inputs, chosen, np.repeat(keys, counts), chosen - np.repeat(starts, counts))
        return chosen

    def _budget(self, counts: Int64s) -> Int64s:
        """How many of so many maskable tokens are predicted."""
        rounded = np.floor(self.rule.ratio * counts + 0.5).astype(np.int64)
        budget: Int64s = np.maximum(rounded, np.minimum(counts, 1))
        return budget

    def _tokens(self, tokens: Ints, starts: Int64s, ends: Int64s, keys: Uint64s) -> Int64s:
        """Tokens drawn one by one; a draw of one that is taken is void and repeated."""
        candidates = np.flatnonzero(self._maskable[tokens])
        bounds = np.searchsorted(candidates, np.append(starts, ends[-1:]))
        first, counts = bounds[:-1], np.diff(bounds)
        budget = self._budget(counts)
        sequence = np.repeat(np.arange(keys.size), budget)
        draw = np.arange(sequence.size) - np.repeat(np.cumsum(budget) - budget, budget)
        taken = np.zeros(candidates.size, dtype=bool)
        last_draw = np.empty(candidates.size, dtype=np.int32)
        while sequence.size:
            hashes = splitmix64(keys[sequence], draw)
            place = first[sequence] + _below(hashes, counts[sequence])
            numbers = np.arange(place.size, dtype=np.int32)
            last_draw[place] = numbers  # of several equal ones the last counts
            is_void = taken[place] | (last_draw[place] != numbers)
            taken[place] = True
            sequence, draw = sequence[is_void], draw[is_void] + (1 << 32)
        chosen: Int64s = candidates[np.flatnonzero(taken)]
        return chosen

    def _words(self, tokens: Ints, starts: Int64s, ends: Int64s, keys: Uint64s) -> Int64s:
        """Whole words in hash order, until the next would lead further from the budget."""
        head, size = self._word_spans(tokens, starts)
        sequence = np.searchsorted(ends, head, side="right")
        counts = np.bincount(sequence, weights=size, minlength=ends.size).astype(np.int64)
        hashes = splitmix64(keys[sequence], head - starts[sequence])
        order = _order_within(sequence, hashes)
        sizes = size[order]
        before = np.cumsum(sizes) - sizes
        # `order` groups by sequence as `sequence` does, so what is before one's first word goes.
        before -= before[np.searchsorted(sequence, sequence)]
        # A tie is broken by a bit of the hash, which keeps the ratio.
        doubled = 2 * before + sizes + (hashes[order] & np.uint64(1)).astype(np.int64)
        taken = np.sort(order[(before == 0) | (doubled <= 2 * self._budget(counts)[sequence])])
        return _ranges(head[taken], size[taken])

    def _word_spans(self, tokens: Ints, starts: Int64s) -> tuple[Int64s, Int64s]:
        """First token and length of each run of maskable tokens that is a word.

        A sequence's first token and one after a special token begin a word as well.
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
        """80/10/10 of the chosen tokens, in place."""
        fate = (splitmix64(keys ^ _FATE, position) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        rule = self.rule
        inputs[chosen[fate < rule.mask_share]] = self._mask_id
        random = np.flatnonzero(
            (fate >= rule.mask_share) & (fate < rule.mask_share + rule.random_share)
        )
        hashes = splitmix64(keys[random] ^ _RANDOM_ID, position[random])
        drawn = _below(hashes, np.array([self.drawable.size]))
        inputs[chosen[random]] = self.drawable[drawn]


def _below(hashes: Uint64s, bounds: Int64s) -> Int64s:
    """Integers from 0 to the bound, uniform to within 2**-32 of it."""
    return ((hashes >> _HALF) * bounds.astype(np.uint64) >> _HALF).astype(np.int64)


def _order_within(groups: Int64s, hashes: Uint64s) -> Int64s:
    """Numbers of the items by (group, hash, number); one sort of integers, no argsort."""
    assert groups.size <= 1 << _WORD_BITS
    keys = groups.astype(np.uint64) << np.uint64(64 - _WORD_BITS)
    keys |= hashes >> np.uint64(2 * _WORD_BITS) << np.uint64(_WORD_BITS)
    keys |= np.arange(groups.size, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << _WORD_BITS) - 1)).astype(np.int64)


def _ranges(starts: Int64s, sizes: Int64s) -> Int64s:
    """All of range(start, start + size), one after the other."""
    ends = np.cumsum(sizes)
    shifts: Int64s = np.repeat(starts - (ends - sizes), sizes)
    return shifts + np.arange(shifts.size)


def _cuts(ends: Int64s) -> list[int]:
    """Where to cut sequences that end there into chunks; at most twice `_CHUNK_TOKENS` each."""
    total = int(ends[-1]) if ends.size else 0
    marks = np.arange(_CHUNK_TOKENS, total, _CHUNK_TOKENS)
    inner = np.unique(np.searchsorted(ends, marks, side="right"))
    return [0, *inner[(inner > 0) & (inner < ends.size)].tolist(), ends.size] if total else [0]
