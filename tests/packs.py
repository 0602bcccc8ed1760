"""What a pack holds, told without its layout."""

import itertools
from typing import NamedTuple

import numpy as np

from bertds.data.packing import Pack


class Packed(NamedTuple):
    """One sequence of a pack."""

    tokens: tuple[int, ...]
    inputs: tuple[int, ...]
    masked: tuple[int, ...]


def sequences_of(pack: Pack, pad_id: int) -> list[Packed]:
    """The sequences of a pack in the order in which they lie; its layout is checked on the way."""
    size = pack.inputs.size
    assert pack.cumulative[0] == 0
    assert pack.cumulative[-1] == size == pack.positions.size == pack.segments.size
    assert (np.diff(pack.masked) != 0).all()
    labels = dict(zip(pack.masked.tolist(), pack.labels.tolist(), strict=True))
    found = []
    for number, (start, stop) in enumerate(itertools.pairwise(pack.cumulative.tolist())):
        assert 0 < stop - start <= pack.max_length
        assert (pack.segments[start:stop] == number).all()
        if pack.row_length:
            assert start // pack.row_length == (stop - 1) // pack.row_length
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
