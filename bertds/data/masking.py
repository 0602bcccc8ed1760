"""Which tokens of a sequence are predicted, and what stands in their place.

A mask is a function of (masking seed, pass, shard set, ordinal of the sequence in its set) and of
nothing else: not of the batch, the rank, the worker, the mix of sets, the fraction or the run's
seed. `pass` is the epoch for dynamic masking, 0 for ever for static masking, epoch mod k for k
copies. Of the n maskable tokens of a sequence max(1, floor(ratio n + 1/2)) are chosen without
replacement; 80 % of them become `[MASK]`, 10 % another id drawn uniformly, 10 % stay (Devlin et
al., BERT, 2019, section 3.1). Special ids and `[UNK]` are neither masked nor drawn.

Cost: a hash and a sort over the tokens, vectorised over any number of sequences.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bertds.data.keyed_hash import Uint64s, hash_array, key_of

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]

# The streams of one sequence's key: which tokens, what becomes of them, which random id.
_CHOICE, _FATE, _RANDOM_ID = 0, 1, 2

# A sort key holds a sequence's number (20 bits), a hash (27) and a position in it (17).
_MAX_SEQUENCES = 1 << 20
_POSITION_BITS = 17
_HASH_BITS = 27


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
    return hash_array(key_of(seed, set_key, pass_number), ordinals)


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
        self._drawable = np.flatnonzero(self._maskable)
        self._word_starts = word_starts

    def mask(
        self, tokens: Ints, lengths: Ints, keys: Uint64s
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
        """Mask sequences that lie end to end.

        Args:
            tokens: (T,) ids.
            lengths: (S,) tokens of each sequence, their sum T.
            keys: (S,) from `sequence_keys`.

        Returns:
            (T,) the ids with masks applied, same dtype, and (M,) the flat positions of the tokens
            to predict, ascending.
        """
        parts = [
            self._mask_part(tokens, lengths, keys, *bounds) for bounds in _chunks(lengths)
        ]  # one part but for more than a million sequences
        inputs = np.concatenate([part[0] for part in parts]) if parts else tokens.copy()
        positions = [part[1] for part in parts]
        return inputs, np.concatenate(positions) if positions else np.empty(0, dtype=np.int64)

    def _mask_part(
        self, tokens: Ints, lengths: Ints, keys: Uint64s, sequences: slice, span: slice
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
        inputs = tokens[span].copy()
        layout = _Layout.of(lengths[sequences])
        token_keys = keys[sequences][layout.sequence]
        chosen = self._choose(inputs, layout, token_keys)
        self._replace(inputs, chosen, token_keys[chosen], layout.position[chosen])
        return inputs, chosen + span.start

    def _choose(
        self, tokens: Ints, layout: "_Layout", token_keys: Uint64s
    ) -> npt.NDArray[np.int64]:
        """Flat positions of the tokens to predict, ascending."""
        candidates = np.flatnonzero(self._maskable[tokens])
        sequence = layout.sequence[candidates]
        counts = np.bincount(sequence, minlength=layout.lengths.size)
        budget = np.maximum(1, np.floor(self.rule.ratio * counts + 0.5).astype(np.int64))
        stream = np.uint64(key_of(_CHOICE))
        if self._word_starts is None or self.rule.unit == "token":
            hashes = hash_array(token_keys[candidates] ^ stream, layout.position[candidates])
            ordered = _sorted_by_hash(sequence, hashes, layout.position[candidates])
            first = np.cumsum(counts) - counts
            rank = np.arange(ordered.size) - first[sequence]
            return np.sort(_flat(ordered[rank < budget[sequence]], layout))
        return self._choose_words(tokens, layout, token_keys ^ stream, candidates, budget)

    def _choose_words(
        self,
        tokens: Ints,
        layout: "_Layout",
        token_keys: Uint64s,
        candidates: npt.NDArray[np.int64],
        budget: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Whole words in hash order, until the next would lead further from the budget."""
        assert self._word_starts is not None
        # A sequence's first token and one after a special token begin a word as well.
        starts = self._word_starts[tokens] | ~self._maskable[tokens] | (layout.position == 0)
        starts[1:] |= ~self._maskable[tokens[:-1]]
        word_of_token = np.cumsum(starts) - 1
        words, word_of_candidate, lengths = np.unique(
            word_of_token[candidates], return_inverse=True, return_counts=True
        )
        head = np.flatnonzero(starts)[words]
        sequence = layout.sequence[head]
        hashes = hash_array(token_keys[head], layout.position[head])
        ordered = _sorted_by_hash(sequence, hashes, layout.position[head])
        rank = np.searchsorted(head, _flat(ordered, layout))
        lengths_in_order = lengths[rank]
        before = np.cumsum(lengths_in_order) - lengths_in_order
        first = np.searchsorted(sequence, sequence)  # `ordered` is grouped by sequence as well
        before -= before[first]
        taken = (before == 0) | (2 * before + lengths_in_order <= 2 * budget[sequence])
        chosen_words = np.zeros(words.size, dtype=bool)
        chosen_words[rank[taken]] = True
        return candidates[chosen_words[word_of_candidate]]

    def _replace(
        self, inputs: Ints, chosen: npt.NDArray[np.int64], keys: Uint64s, position: Ints
    ) -> None:
        """80/10/10 of the chosen tokens, in place."""
        fate = hash_array(keys ^ np.uint64(key_of(_FATE)), position) >> np.uint64(11)
        uniform = fate.astype(np.float64) * 2.0**-53
        masked = uniform < self.rule.mask_share
        random = ~masked & (uniform < self.rule.mask_share + self.rule.random_share)
        inputs[chosen[masked]] = self._mask_id
        draws = hash_array(keys[random] ^ np.uint64(key_of(_RANDOM_ID)), position[random])
        # Multiply and shift: uniform over the ids to within 2**-32.
        drawn = ((draws >> np.uint64(32)) * np.uint64(self._drawable.size)) >> np.uint64(32)
        inputs[chosen[random]] = self._drawable[drawn.astype(np.int64)]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each token of sequences that lie end to end belongs."""

    lengths: npt.NDArray[np.int64]  # (S,)
    starts: npt.NDArray[np.int64]  # (S,)
    sequence: npt.NDArray[np.int64]  # (T,)
    position: npt.NDArray[np.int64]  # (T,) within its sequence

    @classmethod
    def of(cls, lengths: Ints) -> "_Layout":
        counts = lengths.astype(np.int64)
        starts = np.cumsum(counts) - counts
        sequence = np.repeat(np.arange(counts.size), counts)
        return cls(counts, starts, sequence, np.arange(sequence.size) - starts[sequence])


def _sorted_by_hash(sequence: Ints, hashes: Uint64s, position: Ints) -> Uint64s:
    """Sort keys in order of (sequence, hash, position); a sort is far faster than an argsort."""
    keys = sequence.astype(np.uint64) << np.uint64(_HASH_BITS + _POSITION_BITS)
    keys |= (hashes >> np.uint64(64 - _HASH_BITS)) << np.uint64(_POSITION_BITS)
    keys |= position.astype(np.uint64)
    keys.sort()
    return keys


def _flat(sort_keys: Uint64s, layout: _Layout) -> npt.NDArray[np.int64]:
    """The flat positions that sort keys stand for."""
    sequence = (sort_keys >> np.uint64(_HASH_BITS + _POSITION_BITS)).astype(np.int64)
    position = (sort_keys & np.uint64((1 << _POSITION_BITS) - 1)).astype(np.int64)
    return layout.starts[sequence] + position


def _chunks(lengths: Ints) -> list[tuple[slice, slice]]:
    """Sequences, and their tokens, in parts that a sort key can number."""
    if lengths.size and int(lengths.max()) >= 1 << _POSITION_BITS:
        raise ValueError(
            f"a sequence has {int(lengths.max())} tokens, a mask can be made for fewer than "
            f"{1 << _POSITION_BITS}: use a smaller seq_len"
        )
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    cuts = [*range(0, lengths.size, _MAX_SEQUENCES), lengths.size]
    return [(slice(a, b), slice(int(ends[a]), int(ends[b]))) for a, b in itertools.pairwise(cuts)]
