"""Packs the sequences of a micro-batch without padding, and defines the containers of a batch.

    Block (shards.format) -> MaskedSequences -> PackedBatch -> DeviceBatch (model.batch)

There are two layouts of the same tokens:

- Varlen, for an attention kernel that takes cumulative lengths. Sequences are concatenated, and the
  total is rounded up.
- Rows, for attention by matrix products. Sequences are placed in rows of a few lengths, first-fit
  decreasing (Johnson, 1973), and a token attends to its own segment only. The cost of attention
  grows with the row length, so a row is no longer than its longest sequence needs: sentences of 30
  tokens are placed in rows of 64 even if the batch has one of 200.

The padding at the end of a row is a segment of its own and attends to itself, because softmax over
an all-false mask row is NaN. Positions restart in each sequence. The result equals that of one
padded sequence per row.
"""

import bisect
import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
SHORTEST_ROW = 64
"""Tokens. Rows of 32 make a step of sentences slower (`benchmarks/results/optimization_log.md`)."""


@dataclass(frozen=True, slots=True)
class MaskedSequences:
    """S masked sequences with T tokens in total, concatenated."""

    tokens: Ints
    """(T,) original ids."""
    inputs: Ints
    """(T,) ids with masks applied."""
    is_masked: npt.NDArray[np.bool_]
    """(T,) whether the model predicts this token."""
    lengths: Int64s
    """(S,) tokens of each sequence."""
    ends: Int64s
    """(S + 1,) start of each sequence, and T."""

    @classmethod
    def of(
        cls, tokens: Ints, inputs: Ints, is_masked: npt.NDArray[np.bool_], lengths: Ints
    ) -> Self:
        """Build from (T,) arrays and the (S,) lengths."""
        ends = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        return cls(tokens, inputs, is_masked, lengths.astype(np.int64), ends)

    @classmethod
    def masked_at(cls, positions: Ints, *, tokens: Ints, inputs: Ints, lengths: Ints) -> Self:
        """Build from the (M,) flat positions of the tokens to predict."""
        is_masked = np.zeros(tokens.size, dtype=bool)
        is_masked[positions] = True
        return cls.of(tokens, inputs, is_masked, lengths)

    @classmethod
    def concatenate(cls, parts: "list[MaskedSequences]") -> Self:
        """Join several batches of sequences."""
        return cls.of(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.is_masked for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def cut(self, start: int, stop: int) -> "MaskedSequences":
        """Return sequences start to stop - 1, as views."""
        first, end = int(self.ends[start]), int(self.ends[stop])
        return MaskedSequences(
            self.tokens[first:end],
            self.inputs[first:end],
            self.is_masked[first:end],
            self.lengths[start:stop],
            self.ends[start : stop + 1] - first,
        )

    def pick(self, sequences: Int64s) -> "MaskedSequences":
        """Return the sequences with these indices, in this order."""
        lengths = self.lengths[sequences]
        shifts = self.ends[sequences] - (np.cumsum(lengths) - lengths)
        gather = np.repeat(shifts, lengths)
        gather += np.arange(gather.size)
        return MaskedSequences.of(
            self.tokens.take(gather),
            self.inputs.take(gather),
            self.is_masked.take(gather),
            lengths,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """A packed micro-batch: T' tokens including padding, M of them to be predicted."""

    inputs: Int64s
    """(T',) ids with masks applied; padding has the pad id."""
    positions: Int64s
    """(T',) position of each token in its sequence."""
    segments: Int32s
    """(T',) index of the sequence, or of the padding, that a token belongs to."""
    cumulative: Int32s
    """(segments + 1,) start of each segment, and T'."""
    masked: Int64s
    """(M,) flat positions of the tokens to predict."""
    labels: Int64s
    """(M,) original ids at these positions."""
    rows: tuple[tuple[int, int], ...]
    """(number of rows, their length), longest first; empty for the varlen layout."""
    num_tokens: int
    """Tokens without padding."""
    num_maskable: int
    """Tokens that masking chooses from."""
    max_length: int
    """Tokens of the longest segment."""


@dataclass(frozen=True, slots=True)
class RankBatchSpec:
    """The part of a batch that a rank computes, and its layout."""

    rank: int
    world_size: int
    micro_batch_size: int
    """Sequences of one micro-batch."""
    row_length: int
    """Tokens of the longest row of a packed batch; 0 for the varlen layout."""
    pad_id: int
    unmaskable_ids: tuple[int, ...] = ()
    """Ids that masking never chooses."""

    def pack(self, sequences: MaskedSequences) -> PackedBatch:
        """Pack one micro-batch."""
        return pack(
            sequences,
            row_length=self.row_length,
            pad_id=self.pad_id,
            unmaskable_ids=self.unmaskable_ids,
        )


def pack(
    sequences: MaskedSequences,
    *,
    row_length: int,
    pad_id: int,
    unmaskable_ids: tuple[int, ...] = (),
    multiple: int = 128,
) -> PackedBatch:
    """Pack sequences into one flat batch.

    Args:
        sequences: S sequences; without any, the result is all padding.
        row_length: Tokens of the longest row, at least the longest sequence; 0 for varlen.
        pad_id: Id of padding tokens.
        unmaskable_ids: Ids that masking never chooses, to count the others.
        multiple: The varlen layout rounds T' up to a multiple of this.
    """
    lengths, sources, num_tokens = sequences.lengths, sequences.ends[:-1], sequences.inputs.size
    rows: tuple[tuple[int, int], ...] = ()
    if row_length == 0:
        starts = sources
        row_ends = np.array([-(-max(1, num_tokens) // multiple) * multiple])
        padding_starts = np.array([num_tokens])
    else:
        row, offset, capacities = first_fit_decreasing(lengths, row_sizes(row_length))
        row_ends = np.cumsum(capacities)
        row_starts = row_ends - capacities
        starts = row_starts[row] + offset
        used = np.bincount(row, weights=lengths, minlength=capacities.size).astype(np.int64)
        padding_starts = row_starts + used
        groups = itertools.groupby(capacities.tolist())
        rows = tuple((len(list(equal)), length) for length, equal in groups)

    # A segment is a sequence, or the padding of a row that has any.
    size = int(row_ends[-1])
    segment_starts = np.sort(np.concatenate([starts, padding_starts[padding_starts < row_ends]]))
    cumulative = np.append(segment_starts, size).astype(np.int32)
    segment_lengths = np.diff(cumulative)

    source = np.arange(num_tokens)
    destination = source + np.repeat(starts - sources, lengths)
    inputs = np.full(size, pad_id, dtype=np.int64)
    inputs[destination] = sequences.inputs
    # Padding has position 0: a table of positions may be shorter than the padding.
    positions = np.zeros(size, dtype=np.int64)
    positions[destination] = source - np.repeat(sources, lengths)
    masked = np.flatnonzero(sequences.is_masked)
    num_unmaskable = int(np.count_nonzero(np.isin(sequences.tokens, unmaskable_ids)))
    return PackedBatch(
        inputs=inputs,
        positions=positions,
        segments=np.repeat(np.arange(segment_starts.size, dtype=np.int32), segment_lengths),
        cumulative=cumulative,
        masked=destination[masked],
        labels=sequences.tokens[masked].astype(np.int64),
        rows=rows,
        num_tokens=num_tokens,
        num_maskable=num_tokens - num_unmaskable,
        max_length=int(segment_lengths.max()),
    )


def row_sizes(longest: int) -> list[int]:
    """List the allowed row lengths, ascending: powers of two from 64, and the longest."""
    sizes = [longest]
    power = SHORTEST_ROW
    while power < longest:
        sizes.insert(-1, power)
        power *= 2
    return sizes


def first_fit_decreasing(lengths: Int64s, sizes: list[int]) -> tuple[Int64s, Int64s, Int64s]:
    """Pack items into bins, longest item first, each into the first bin with room.

    Args:
        lengths: (S,) sizes of the items, none above the largest bin size.
        sizes: Allowed bin sizes, ascending; a new bin has the smallest that holds its item.

    Returns:
        (S,) bin of each item, (S,) its offset in the bin, and the sizes of the bins, descending; at
        least one bin. With one bin size, their number is at most 11/9 of the optimum plus one
        (Johnson, 1973).
    """
    bins, offsets = np.empty((2, lengths.size), dtype=np.int64)
    items = lengths.tolist()
    capacities: list[int] = []
    room: list[int] = []
    size = chosen = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        # Bins that were too full for an item are too full for the next one of equal size.
        size, chosen = items[item], chosen if items[item] == size else 0
        while chosen < len(room) and room[chosen] < size:
            chosen += 1
        if chosen == len(room):
            capacities.append(sizes[bisect.bisect_left(sizes, size)])
            room.append(capacities[chosen])
        bins[item], offsets[item] = chosen, capacities[chosen] - room[chosen]
        room[chosen] -= size
    return bins, offsets, np.array(capacities or sizes[:1], dtype=np.int64)
