"""Lays the sequences of a micro-batch out without padding, and names the containers of a batch.

    Block (shards.format) -> MaskedSequences -> PackedBatch -> DeviceBatch (model.batch)

There are two layouts of the same tokens. For a kernel with cumulative lengths the sequences are
concatenated and the total is rounded up. For attention by plain matrix products they are placed in
rows of a few lengths, first-fit decreasing (Johnson, 1973), and a token attends to its own segment
only. The cost of attention grows with the length of the row, so a row is no longer than its longest
sequence needs: sentences of 30 tokens are placed in rows of 64 even if the batch has one of 200.
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
    """S masked sequences of T tokens in all, concatenated."""

    tokens: Ints
    """(T,) the original ids."""
    inputs: Ints
    """(T,) ids with masks applied."""
    is_masked: npt.NDArray[np.bool_]
    """(T,) whether the token is to be predicted."""
    lengths: Int64s
    """(S,) tokens of each sequence."""
    ends: Int64s
    """(S + 1,) the start of each sequence, and T."""

    @classmethod
    def of(
        cls, tokens: Ints, inputs: Ints, is_masked: npt.NDArray[np.bool_], lengths: Ints
    ) -> Self:
        """Sequences of these lengths."""
        ends = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths, out=ends[1:])
        return cls(tokens, inputs, is_masked, lengths.astype(np.int64), ends)

    @classmethod
    def masked_at(cls, positions: Ints, *, tokens: Ints, inputs: Ints, lengths: Ints) -> Self:
        """Sequences to be predicted at these flat positions."""
        is_masked = np.zeros(tokens.size, dtype=bool)
        is_masked[positions] = True
        return cls.of(tokens, inputs, is_masked, lengths)

    @classmethod
    def concatenate(cls, parts: "list[MaskedSequences]") -> Self:
        """All sequences of several parts."""
        return cls.of(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.is_masked for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def cut(self, start: int, stop: int) -> "MaskedSequences":
        """Sequences start to stop - 1, as views."""
        a, b = int(self.ends[start]), int(self.ends[stop])
        return MaskedSequences(
            self.tokens[a:b],
            self.inputs[a:b],
            self.is_masked[a:b],
            self.lengths[start:stop],
            self.ends[start : stop + 1] - a,
        )

    def pick(self, sequences: Int64s) -> "MaskedSequences":
        """The sequences with these indices, in this order."""
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
    """A micro-batch as the model takes it: T' tokens, filler included."""

    inputs: Int64s
    """(T',) ids with masks applied; filler is the pad id."""
    positions: Int64s
    """(T',) position of each token in its sequence."""
    segments: Int32s
    """(T',) number of the sequence, or filler, that a token belongs to."""
    cumulative: Int32s
    """(segments + 1,) where each segment starts, and T' at the end."""
    masked: Int64s
    """(M,) flat positions of the tokens to predict."""
    labels: Int64s
    """(M,) the ids that stood there."""
    rows: tuple[tuple[int, int], ...]
    """(how many, of what length), the longest first; none: for a kernel with cumulative lengths."""
    num_tokens: int
    """Real tokens, without filler."""
    max_length: int
    """Longest segment."""


@dataclass(frozen=True, slots=True)
class RankBatchSpec:
    """The part of a batch that this rank computes, and its layout."""

    rank: int
    world_size: int
    micro_batch_size: int
    """Sequences of one micro-step."""
    row_length: int
    """Tokens of the longest row of a packed batch; 0 for the layout with cumulative lengths."""
    pad_id: int

    def pack(self, sequences: MaskedSequences) -> PackedBatch:
        """Pack one micro-batch."""
        return pack(sequences, row_length=self.row_length, pad_id=self.pad_id)


def pack(
    sequences: MaskedSequences, *, row_length: int, pad_id: int, multiple: int = 128
) -> PackedBatch:
    """Lay sequences out.

    Args:
        sequences: What to lay out; none at all gives a pack of filler.
        row_length: Tokens of the longest row, at least the longest sequence; 0 lays all end to end.
        pad_id: The filler's id.
        multiple: T' is rounded up to it where row_length is 0.
    """
    lengths, ends = sequences.lengths, sequences.ends
    if row_length == 0:
        total = int(ends[-1])
        row_ends = np.array([-(-max(1, total) // multiple) * multiple])
        return _place(sequences, ends[:-1], np.array([total]), row_ends, (), pad_id)
    row, column, capacities = first_fit_decreasing(lengths, row_sizes(row_length))
    row_ends = np.cumsum(capacities)
    row_starts = row_ends - capacities
    used = np.bincount(row, weights=lengths, minlength=capacities.size).astype(np.int64)
    rows = tuple((len(list(same)), size) for size, same in itertools.groupby(capacities.tolist()))
    return _place(sequences, row_starts[row] + column, row_starts + used, row_ends, rows, pad_id)


def row_sizes(longest: int) -> list[int]:
    """Lengths that a row may have, ascending: powers of two, and the longest."""
    sizes = [longest]
    power = SHORTEST_ROW
    while power < longest:
        sizes.insert(-1, power)
        power *= 2
    return sizes


def _place(
    sequences: MaskedSequences,
    starts: Int64s,
    fill_starts: Int64s,
    row_ends: Int64s,
    rows: tuple[tuple[int, int], ...],
    pad_id: int,
) -> PackedBatch:
    """Lay sequences at their starts; the filler of a row goes from `fill_starts` to its end."""
    lengths, size = sequences.lengths, int(row_ends[-1])
    filled = np.sort(np.concatenate([starts, fill_starts[fill_starts < row_ends]]))
    cumulative = np.append(filled, size).astype(np.int32)
    before = sequences.ends[:-1]
    token = np.arange(sequences.inputs.size)
    destination = token + np.repeat(starts - before, lengths)
    masked = np.flatnonzero(sequences.is_masked)
    inputs = np.full(size, pad_id, dtype=np.int64)
    inputs[destination] = sequences.inputs
    # Filler has position 0: a table of positions may be shorter than the filler is.
    positions = np.zeros(size, dtype=np.int64)
    positions[destination] = token - np.repeat(before, lengths)
    segment_lengths = np.diff(cumulative)
    return PackedBatch(
        inputs=inputs,
        positions=positions,
        segments=np.repeat(np.arange(filled.size, dtype=np.int32), segment_lengths),
        cumulative=cumulative,
        masked=destination[masked],
        labels=sequences.tokens[masked].astype(np.int64),
        rows=rows,
        num_tokens=sequences.inputs.size,
        max_length=int(segment_lengths.max()),
    )


def first_fit_decreasing(lengths: Int64s, sizes: list[int]) -> tuple[Int64s, Int64s, Int64s]:
    """Bins for items, the longest first, each in the first bin that has room.

    Args:
        lengths: (S,) sizes of items, none above the largest of a bin.
        sizes: Sizes that a bin may have, ascending; a new one has the least that takes its item.

    Returns:
        (S,) bin of each item, (S,) its offset in the bin, and the bins' sizes, descending: at least
        one. With one size they are at most 11/9 of the least possible, plus one (Johnson, 1973).
    """
    bins, offsets = np.empty((2, lengths.size), dtype=np.int64)
    items = lengths.tolist()
    capacities: list[int] = []
    room: list[int] = []
    size = chosen = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        # A bin without room for an item has none for the next of equal size.
        size, chosen = items[item], chosen if items[item] == size else 0
        while chosen < len(room) and room[chosen] < size:
            chosen += 1
        if chosen == len(room):
            capacities.append(sizes[bisect.bisect_left(sizes, size)])
            room.append(capacities[chosen])
        bins[item], offsets[item] = chosen, capacities[chosen] - room[chosen]
        room[chosen] -= size
    return bins, offsets, np.array(capacities or sizes[:1], dtype=np.int64)
