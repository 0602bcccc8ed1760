"""TODO."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.packing import MaskedSequences, first_fit_decreasing, pack, row_sizes
from tests.helpers.packs import Packed, sequences_of

PAD = 0
ROW = 32
lengths_lists = st.lists(st.integers(1, ROW), max_size=60)


def make(lengths, seed=0) -> tuple[MaskedSequences, list[Packed]]:
    """Sequences of these lengths with distinct tokens, some of them masked, and what they hold."""
    generator = np.random.default_rng(seed)
    lengths = np.asarray(lengths, np.int64)
    tokens = 10 + np.arange(lengths.sum())
    masked = np.flatnonzero(generator.random(tokens.size) < 0.3)
    inputs = tokens.astype(np.uint16)
    inputs[masked] = 4
    sequences = MaskedSequences.masked_at(
        masked, tokens=tokens.astype(np.uint16), inputs=inputs, lengths=lengths
    )
    expected, start = [], 0
    for length in lengths.tolist():
        here = masked[(masked >= start) & (masked < start + length)] - start
        part = slice(start, start + length)
        expected.append(
            Packed(tuple(tokens[part].tolist()), tuple(inputs[part].tolist()), tuple(here.tolist()))
        )
        start += length
    return sequences, expected


@given(lengths_lists)
def test_both_layouts_hold_every_sequence_once(lengths):
    sequences, expected = make(lengths)
    rows = pack(sequences, row_length=ROW, pad_id=PAD)
    flat = pack(sequences, row_length=0, pad_id=PAD, multiple=8)
    assert sorted(sequences_of(rows, PAD)) == sorted(expected)
    assert sequences_of(flat, PAD) == expected
    for one in rows, flat:
        assert one.inputs.dtype == one.positions.dtype == one.labels.dtype == np.int64
        assert one.segments.dtype == one.cumulative.dtype == np.int32
        assert one.num_tokens == sum(lengths)
    assert rows.inputs.size % ROW == 0
    assert flat.inputs.size == max(1, math.ceil(sum(lengths) / 8)) * 8


@given(lengths_lists)
def test_filler_is_one_segment_at_the_end_of_a_row(lengths):
    one = pack(make(lengths)[0], row_length=ROW, pad_id=PAD)
    is_filler = (one.inputs == PAD).reshape(-1, ROW)
    assert (np.diff(is_filler.astype(int), axis=1) >= 0).all()
    for row, filler in zip(one.segments.reshape(-1, ROW), is_filler, strict=True):
        assert len(set(row[filler].tolist())) <= 1
        assert not set(row[filler].tolist()) & set(row[~filler].tolist())


def test_nothing_gives_a_row_of_filler():
    for row_length, size in ((ROW, ROW), (0, 128)):
        one = pack(make([])[0], row_length=row_length, pad_id=7)
        assert one.inputs.tolist() == [7] * size
        assert one.num_tokens == one.masked.size == one.labels.size == 0
        assert one.cumulative.tolist() == [0, size]


def naive_first_fit(lengths, capacity):
    """Johnson's rule, item by item."""
    room: list[int] = []
    found = {}
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        fitting = [number for number, free in enumerate(room) if free >= lengths[item]]
        if not fitting:
            room.append(capacity)
        number = fitting[0] if fitting else len(room) - 1
        found[item] = (number, capacity - room[number])
        room[number] -= lengths[item]
    return found, len(room)


@given(lengths_lists)
def test_bins_are_those_of_first_fit_decreasing(lengths):
    bins, offsets, sizes = first_fit_decreasing(np.array(lengths, np.int64), [ROW])
    found, wanted_count = naive_first_fit(lengths, ROW)
    assert sizes.tolist() == [ROW] * max(1, wanted_count)
    assert {
        i: (int(b), int(o)) for i, (b, o) in enumerate(zip(bins, offsets, strict=True))
    } == found
    used = np.bincount(bins, weights=lengths, minlength=1) if lengths else np.zeros(1)
    assert used.max() <= ROW


@given(st.lists(st.integers(1, ROW), min_size=1, max_size=300))
def test_few_bins_are_wasted(lengths):
    _, _, sizes = first_fit_decreasing(np.array(lengths, np.int64), [ROW])
    count = sizes.size
    least = max(math.ceil(sum(lengths) / ROW), sum(length > ROW // 2 for length in lengths))
    assert count <= 2 * math.ceil(sum(lengths) / ROW)
    assert count <= 1.5 * least + 1


@given(st.lists(st.integers(1, 200), max_size=60))
def test_rows_of_several_lengths_hold_every_sequence_once(lengths):
    sequences, expected = make(lengths)
    one = pack(sequences, row_length=200, pad_id=PAD)
    assert sorted(sequences_of(one, PAD)) == sorted(expected)
    assert {length for _, length in one.rows} <= {64, 128, 200}
    assert sorted(one.rows, key=lambda row: -row[1]) == list(one.rows)


def test_a_row_is_no_longer_than_its_longest_sequence_needs():
    one = pack(make([200, 100, 60, 60, 40, 28, 24])[0], row_length=200, pad_id=PAD)
    assert one.rows == ((1, 200), (1, 128), (3, 64))
    assert row_sizes(200) == [64, 128, 200]
    assert row_sizes(64) == [64]
    assert row_sizes(48) == [48]


@pytest.mark.parametrize("mean", [10, 28, 60])
def test_sentences_fill_the_rows(mean):
    lengths = np.random.default_rng(mean).geometric(1 / mean, 256).clip(1, 256)
    one = pack(make(lengths)[0], row_length=256, pad_id=PAD)
    assert one.num_tokens / one.inputs.size > 0.94
