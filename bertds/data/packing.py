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
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    if row_length == 0:
        size = -(-max(1, total) // multiple) * multiple
        return _place(sequences, ends - lengths, np.array([total]), size, row_length, pad_id)
    row, column, num_rows = first_fit_decreasing(lengths, row_length)
    row_starts = np.arange(max(1, num_rows)) * row_length
    fill_starts = row_starts + np.bincount(row, weights=lengths, minlength=row_starts.size)
    size = row_starts.size * row_length
    return _place(
        sequences, row * row_length + column, fill_starts.astype(np.int64), size, row_length, pad_id
    )


def _place(
    sequences: Sequences,
    starts: Int64s,
    fill_starts: Int64s,
    size: int,
    row_length: int,
    pad_id: int,
) -> Pack:
    """Lay sequences at their starts; the filler of a row goes from `fill_starts` to its end."""
    lengths = sequences.lengths
    row_ends = np.arange(1, fill_starts.size + 1) * (row_length or size)
    filled = np.sort(np.concatenate([starts, fill_starts[fill_starts < row_ends]]))
    cumulative = np.append(filled, size).astype(np.int32)
    before = np.cumsum(lengths) - lengths
    token = np.arange(sequences.inputs.size)
    destination = token + np.repeat(starts - before, lengths)
    inputs = np.full(size, pad_id, dtype=np.int64)
    inputs[destination] = sequences.inputs
    # Filler has position 0: a table of positions may be shorter than the filler is.
    positions = np.zeros(size, dtype=np.int64)
    positions[destination] = token - np.repeat(before, lengths)
    segment_lengths = np.diff(cumulative)
    return Pack(
        inputs=inputs,
        positions=positions,
        segments=np.repeat(np.arange(filled.size, dtype=np.int32), segment_lengths),
        cumulative=cumulative,
        masked=destination[sequences.masked],
        labels=sequences.labels.astype(np.int64),
        row_length=row_length,
        num_tokens=sequences.inputs.size,
        max_length=int(segment_lengths.max()),
    )


def first_fit_decreasing(lengths: Int64s, capacity: int) -> tuple[Int64s, Int64s, int]:
    """Bins for items, the longest first, each in the first bin that has room.

    Args:
        lengths: (S,) sizes, none above the capacity.
        capacity: Size of a bin.

    Returns:
        (S,) bin of each item, (S,) its offset in the bin, and the number of bins; at most
        11/9 of the least possible, plus one (Johnson, 1973).
    """
    bins, offsets = np.empty((2, lengths.size), dtype=np.int64)
    sizes = lengths.tolist()
    room: list[int] = []
    size = chosen = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        # A bin without room for an item has none for the next of equal size.
        size, chosen = sizes[item], chosen if sizes[item] == size else 0
        while chosen < len(room) and room[chosen] < size:
            chosen += 1
        if chosen == len(room):
            assert size <= capacity
            room.append(capacity)
        bins[item], offsets[item] = chosen, capacity - room[chosen]
        room[chosen] -= size
    return bins, offsets, len(room)
