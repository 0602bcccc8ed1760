"""Lays the sequences of a micro-batch end to end, without padding.

Two layouts of the same tokens. For a kernel that takes cumulative lengths they lie end to end, the
total rounded up. For attention by plain matrix products they lie in rows of a few lengths, filled
first-fit decreasing (Johnson, 1973), and a token sees the tokens of its own segment only. Attention
costs a token as much as its row is long, so a row is no longer than its longest sequence needs:
sentences of 30 tokens lie in rows of 64 even where one of 200 is among them. Filler at a row's end
is a segment of its own, so that it attends to itself: an all-false mask row is NaN. Positions
restart in each sequence. The mathematics is that of one padded sequence a row.
"""

import bisect
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

SHORTEST_ROW = 64
"""Tokens; with rows of 32 besides, a step of sentences is slower (`benchmarks/log.md`)."""


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
    rows: tuple[tuple[int, int], ...]
    """(how many, of what length), the longest first; none: for a kernel with cumulative lengths."""
    num_tokens: int
    """Real tokens, without filler."""
    max_length: int
    """Longest segment."""


def pack(sequences: Sequences, *, row_length: int, pad_id: int, multiple: int = 128) -> Pack:
    """Lay sequences out.

    Args:
        sequences: What to lay out; none at all gives a pack of filler.
        row_length: Tokens of the longest row, at least the longest sequence; 0 lays all end to end.
        pad_id: The filler's id.
        multiple: T' is rounded up to it where row_length is 0.
    """
    lengths = sequences.lengths
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    if row_length == 0:
        row_ends = np.array([-(-max(1, total) // multiple) * multiple])
        return _place(sequences, ends - lengths, np.array([total]), row_ends, (), pad_id)
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
    sequences: Sequences,
    starts: Int64s,
    fill_starts: Int64s,
    row_ends: Int64s,
    rows: tuple[tuple[int, int], ...],
    pad_id: int,
) -> Pack:
    """Lay sequences at their starts; the filler of a row goes from `fill_starts` to its end."""
    lengths, size = sequences.lengths, int(row_ends[-1])
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
