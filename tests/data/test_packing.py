"""Packing: both layouts hold every sequence once, and rows hold little padding."""

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


def make(lengths) -> tuple[MaskedSequences, list[Packed]]:
    """Make sequences of these lengths, with distinct tokens and some masked, in both forms."""
    generator = np.random.default_rng(0)
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
        stop = start + length
        positions = masked[(masked >= start) & (masked < stop)] - start
        arrays = tokens[start:stop], inputs[start:stop], positions
        expected.append(Packed(*(tuple(array.tolist()) for array in arrays)))
        start = stop
    return sequences, expected


@given(lengths_lists)
def test_both_layouts_hold_every_sequence_once(lengths):
    sequences, expected = make(lengths)
    rows = pack(sequences, row_length=ROW, pad_id=PAD)
    flat = pack(sequences, row_length=0, pad_id=PAD, multiple=8)
    assert sorted(sequences_of(rows, PAD)) == sorted(expected)
    assert sequences_of(flat, PAD) == expected
    for batch in rows, flat:
        assert batch.inputs.dtype == batch.positions.dtype == batch.labels.dtype == np.int64
        assert batch.segments.dtype == batch.cumulative.dtype == np.int32
        assert batch.num_tokens == sum(lengths)
    assert rows.inputs.size % ROW == 0
    assert flat.inputs.size == max(1, math.ceil(sum(lengths) / 8)) * 8


@given(lengths_lists)
def test_padding_is_one_segment_at_the_end_of_a_row(lengths):
    batch = pack(make(lengths)[0], row_length=ROW, pad_id=PAD)
    is_padding = (batch.inputs == PAD).reshape(-1, ROW)
    assert (np.diff(is_padding.astype(int), axis=1) >= 0).all()
    for segments, padding in zip(batch.segments.reshape(-1, ROW), is_padding, strict=True):
        assert len(set(segments[padding].tolist())) <= 1
        assert not set(segments[padding].tolist()) & set(segments[~padding].tolist())


def test_without_sequences_all_is_padding():
    for row_length, size in ((ROW, ROW), (0, 128)):
        batch = pack(make([])[0], row_length=row_length, pad_id=7)
        assert batch.inputs.tolist() == [7] * size
        assert batch.num_tokens == batch.masked.size == batch.labels.size == 0
        assert batch.cumulative.tolist() == [0, size]


def naive_first_fit(lengths, capacity):
    """Apply Johnson's rule item by item; returns (bin, offset) of each item, number of bins."""
    room: list[int] = []
    placed = {}
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        fitting = [number for number, free in enumerate(room) if free >= lengths[item]]
        if not fitting:
            room.append(capacity)
        number = fitting[0] if fitting else len(room) - 1
        placed[item] = (number, capacity - room[number])
        room[number] -= lengths[item]
    return placed, len(room)


@given(lengths_lists)
def test_bins_are_those_of_first_fit_decreasing(lengths):
    bins, offsets, sizes = first_fit_decreasing(np.array(lengths, np.int64), [ROW])
    expected, count = naive_first_fit(lengths, ROW)
    assert sizes.tolist() == [ROW] * max(1, count)
    assert dict(enumerate(zip(bins.tolist(), offsets.tolist(), strict=True))) == expected
    used = np.bincount(bins, weights=lengths, minlength=1) if lengths else np.zeros(1)
    assert used.max() <= ROW


@given(st.lists(st.integers(1, ROW), min_size=1, max_size=300))
def test_the_number_of_bins_is_near_the_optimum(lengths):
    _, _, sizes = first_fit_decreasing(np.array(lengths, np.int64), [ROW])
    count = sizes.size
    least = max(math.ceil(sum(lengths) / ROW), sum(length > ROW // 2 for length in lengths))
    assert count <= 2 * math.ceil(sum(lengths) / ROW)
    assert count <= 1.5 * least + 1


@given(st.lists(st.integers(1, 200), max_size=60))
def test_rows_of_several_lengths_hold_every_sequence_once(lengths):
    sequences, expected = make(lengths)
    batch = pack(sequences, row_length=200, pad_id=PAD)
    assert sorted(sequences_of(batch, PAD)) == sorted(expected)
    assert {length for _, length in batch.rows} <= {64, 128, 200}
    assert sorted(batch.rows, key=lambda row: -row[1]) == list(batch.rows)


def test_a_row_is_no_longer_than_its_longest_sequence_needs():
    batch = pack(make([200, 100, 60, 60, 40, 28, 24])[0], row_length=200, pad_id=PAD)
    assert batch.rows == ((1, 200), (1, 128), (3, 64))
    assert row_sizes(200) == [64, 128, 200]
    assert row_sizes(64) == [64]
    assert row_sizes(48) == [48]


@pytest.mark.parametrize("mean", [10, 28, 60])
def test_sentences_leave_little_padding(mean):
    lengths = np.random.default_rng(mean).geometric(1 / mean, 256).clip(1, 256)
    batch = pack(make(lengths)[0], row_length=256, pad_id=PAD)
    assert batch.num_tokens / batch.inputs.size > 0.94
