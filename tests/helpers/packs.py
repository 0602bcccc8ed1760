"""The content of a packed batch, without its layout."""

import itertools
from typing import NamedTuple

import numpy as np

from bertds.data.packing import PackedBatch


class Packed(NamedTuple):
    """One sequence of a pack."""

    tokens: tuple[int, ...]
    inputs: tuple[int, ...]
    masked: tuple[int, ...]


def sequences_of(pack: PackedBatch, pad_id: int) -> list[Packed]:
    """The sequences of a pack in the order in which they lie; its layout is checked on the way."""
    size = pack.inputs.size
    assert pack.cumulative[0] == 0
    assert pack.cumulative[-1] == size == pack.positions.size == pack.segments.size
    assert (np.diff(pack.masked) != 0).all()
    labels = dict(zip(pack.masked.tolist(), pack.labels.tolist(), strict=True))
    row_lengths = [length for count, length in pack.rows for _ in range(count)]
    row_of = np.repeat(np.arange(len(row_lengths)), row_lengths)
    assert row_of.size == (size if pack.rows else 0)
    found = []
    for number, (start, stop) in enumerate(itertools.pairwise(pack.cumulative.tolist())):
        assert 0 < stop - start <= pack.max_length
        assert (pack.segments[start:stop] == number).all()
        if pack.rows:
            assert row_of[start] == row_of[stop - 1]
        inputs = pack.inputs[start:stop].tolist()
        if set(inputs) == {pad_id}:
            assert not set(labels) & set(range(start, stop))
            assert (pack.positions[start:stop] == 0).all()
            continue
        assert np.array_equal(pack.positions[start:stop], np.arange(stop - start))
        masked = tuple(place - start for place in range(start, stop) if place in labels)
        tokens = [labels.get(start + place, token) for place, token in enumerate(inputs)]
        found.append(Packed(tuple(tokens), tuple(inputs), masked))
    assert sum(len(one.tokens) for one in found) == pack.num_tokens
    assert sum(len(one.masked) for one in found) == pack.masked.size == pack.labels.size
    return found
