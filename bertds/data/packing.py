"""Lays the sequences of a micro-batch end to end, without padding.

Two layouts of the same tokens. For a kernel that takes cumulative lengths they lie end to end, the
total rounded up. For plain scaled-dot-product attention they lie in rows of equal length, filled
first-fit decreasing (Johnson, 1973), and a token sees the tokens of its own segment only. Filler
at a row's end is a segment of its own, so that it attends to itself: an all-false mask row is NaN.
Positions restart in each sequence. The mathematics is that of one padded sequence a row.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Masked sequences end to end: S sequences, T tokens, M of them to predict."""

    inputs: Ints
    """(T,) ids with masks applied."""
    lengths: Int64s
    """(S,) tokens of each sequence."""
    masked: Int64s
    """(M,) flat positions of the tokens to predict, ascending."""
    labels: Ints
    """(M,) the ids that stood there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
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
    row_length: int
    """Tokens of a row; T' is a multiple. 0: one row, for a kernel with cumulative lengths."""
    num_tokens: int
    """Real tokens, without filler."""
    max_length: int
    """Longest segment."""


def pack(sequences: Sequences, *, row_length: int, pad_id: int, multiple: int = 128) -> Pack:
    """Lay sequences out.

    Args:
        sequences: What to lay out; none at all gives a pack of filler.
        row_length: Tokens of a row, at least the longest sequence; 0 lays all end to end.
        pad_id: The filler's id.
        multiple: T' is rounded up to it where row_length is 0.
    """
    lengths = sequences.lengths
    total = int(lengths.sum())
    if row_length:
        row, column, num_rows = first_fit_decreasing(lengths, row_length)
        starts, size = row * row_length + column, max(1, num_rows) * row_length
        fills = np.full(max(1, num_rows), row_length)
        np.subtract.at(fills, row, lengths)
        fill_starts = np.arange(1, fills.size + 1) * row_length - fills
    else:
        starts, size = np.cumsum(lengths) - lengths, -(-max(1, total) // multiple) * multiple
        fills, fill_starts = np.array([size - total]), np.array([total])
    return _place(sequences, starts, fills, fill_starts, size, row_length, pad_id)


def _place(
    sequences: Sequences,
    starts: Int64s,
    fills: Int64s,
    fill_starts: Int64s,
    size: int,
    row_length: int,
    pad_id: int,
) -> Pack:
    all_starts = np.concatenate([starts, fill_starts[fills > 0]])
    all_lengths = np.concatenate([sequences.lengths, fills[fills > 0]])
    by_place = np.argsort(all_starts, kind="stable")
    ordered = all_lengths[by_place]
    segments = np.repeat(np.arange(ordered.size), ordered)
    cumulative = np.concatenate([[0], np.cumsum(ordered)])
    inputs = np.full(size, pad_id, dtype=np.int64)
    destination = _ranges(starts, sequences.lengths)
    inputs[destination] = sequences.inputs
    return Pack(
        inputs=inputs,
        positions=np.arange(size) - cumulative[segments],
        segments=segments.astype(np.int32),
        cumulative=cumulative.astype(np.int32),
        masked=destination[sequences.masked],
        labels=sequences.labels.astype(np.int64),
        row_length=row_length,
        num_tokens=int(sequences.lengths.sum()),
        max_length=int(ordered.max()),
    )


def _ranges(starts: Int64s, lengths: Int64s) -> Int64s:
    """All of range(start, start + length), one after the other."""
    ends = np.cumsum(lengths)
    shifts: Int64s = np.repeat(starts - (ends - lengths), lengths)
    return shifts + np.arange(shifts.size)


def first_fit_decreasing(lengths: Int64s, capacity: int) -> tuple[Int64s, Int64s, int]:
    """Bins for items, the longest first, each in the first bin that has room.

    Args:
        lengths: (S,) sizes, none above the capacity.
        capacity: Size of a bin.

    Returns:
        (S,) bin of each item, (S,) its offset in the bin, and the number of bins; at most
        11/9 of the least possible, plus one (Johnson, 1973).
    """
    bins = np.empty(lengths.size, dtype=np.int64)
    offsets = np.empty(lengths.size, dtype=np.int64)
    room = np.full(lengths.size, capacity, dtype=np.int64)
    count = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = lengths[item]
        chosen = int(np.argmax(room[: count + 1] >= length))
        assert room[chosen] >= length
        bins[item], offsets[item] = chosen, capacity - room[chosen]
        room[chosen] -= length
        count = max(count, chosen + 1)
    return bins, offsets, count
