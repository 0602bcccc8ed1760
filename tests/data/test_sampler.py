"""The data order: a permutation in each epoch, computed at any position, well shuffled."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data import sampler as sampler_module
from bertds.data.sampler import ShuffledSampler

Slot = tuple[int, int]


def batch_of(order: ShuffledSampler, epoch: int, step: int) -> list[Slot]:
    """List (block, row) of every slot of a batch."""
    slots = []
    for lane in range(order.lanes):
        for position in range(step * order.per_lane, (step + 1) * order.per_lane):
            window = order.window_at(epoch, lane, position)
            index = position - window.start
            slots.append((int(window.blocks[window.owners[index]]), int(window.rows[index])))
    return slots


def epoch_of(order: ShuffledSampler, epoch: int) -> list[list[Slot]]:
    """List all batches, reading the windows of each lane in order."""
    lanes = []
    for lane in range(order.lanes):
        slots: list[Slot] = []
        while len(slots) < order.steps_per_epoch * order.per_lane:
            window = order.window_at(epoch, lane, len(slots))
            assert window.start == len(slots)
            blocks = window.blocks[window.owners].tolist()
            slots += zip(blocks, window.rows.tolist(), strict=True)
        lanes.append(slots)
    size = order.per_lane
    return [
        [slot for lane in lanes for slot in lane[step * size : (step + 1) * size]]
        for step in range(order.steps_per_epoch)
    ]


@st.composite
def samplers(draw) -> ShuffledSampler:
    lanes = draw(st.integers(1, 8))
    batch_size = lanes * draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=60))
    sizes[0] += max(0, batch_size - sum(sizes))
    cut = draw(st.integers(0, len(sizes)))
    return ShuffledSampler(
        [np.array(sizes[:cut], np.uint32), np.array(sizes[cut:], np.int64)],
        batch_size=batch_size,
        lanes=lanes,
        window=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 2**63)),
    )


def all_slots(order: ShuffledSampler) -> set[Slot]:
    sizes = order._counts.between(0, order._counts.size)
    return {(block, row) for block, size in enumerate(sizes.tolist()) for row in range(size)}


def check_conservation(order: ShuffledSampler) -> None:
    batches = epoch_of(order, epoch=3)
    assert [len(batch) for batch in batches] == [order.batch_size] * order.steps_per_epoch
    counts = Counter(slot for batch in batches for slot in batch)
    assert set(counts) <= all_slots(order)
    assert set(counts.values()) == {1}
    dropped = order.num_sequences - len(counts)
    assert dropped == order.num_sequences % order.batch_size < order.batch_size


@given(samplers())
def test_an_epoch_has_every_sequence_once_but_for_less_than_a_batch(order):
    check_conservation(order)


@given(samplers())
def test_so_has_an_epoch_of_units_of_several_blocks(order):
    sizes = order._counts.between(0, order._counts.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "_MAX_UNITS", 7)
        grouped = ShuffledSampler(
            [sizes], batch_size=order.batch_size, lanes=order.lanes, window=5, seed=order._seed
        )
    check_conservation(grouped)


@given(samplers(), st.integers(0, 5), st.data())
def test_a_batch_at_any_position_equals_the_one_read_in_order(order, epoch, data):
    step = data.draw(st.integers(0, order.steps_per_epoch - 1))
    assert batch_of(order, epoch, step) == epoch_of(order, epoch)[step]


def make(sizes, *, batch_size=32, lanes=8, window=4, seed=1) -> ShuffledSampler:
    return ShuffledSampler(
        [np.asarray(sizes, np.uint32)], batch_size=batch_size, lanes=lanes, window=window, seed=seed
    )


def uneven(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 40, count)


def test_order_and_dropped_sequences_differ_between_epochs_and_seeds():
    sizes = uneven(101)
    sizes[0] += 31 - sizes.sum() % 32  # leaves 31 over
    first, other_seed = make(sizes), make(sizes, seed=2)
    epochs = [epoch_of(first, epoch) for epoch in range(4)] + [epoch_of(other_seed, 0)]
    for first_epoch in range(5):
        for second_epoch in range(first_epoch):
            pairs = zip(epochs[first_epoch], epochs[second_epoch], strict=True)
            shared = sum(len(set(a) & set(b)) for a, b in pairs)
            assert shared < 0.05 * first.num_sequences
    dropped = [all_slots(first) - {s for batch in epoch for s in batch} for epoch in epochs]
    assert [len(d) for d in dropped] == [31] * 5
    assert len(set.union(*dropped)) > 100  # of 155


def test_every_sequence_is_dropped_equally_often():
    order = make([50, 50], batch_size=64, lanes=4)
    counts = Counter()
    epochs = 400
    for epoch in range(epochs):
        counts.update(slot for batch in epoch_of(order, epoch) for slot in batch)
    kept = np.array([counts[slot] for slot in all_slots(order)]) / epochs
    assert abs(kept.mean() - 0.64) < 1e-9
    assert np.abs(kept - 0.64).max() < 6 * np.sqrt(0.64 * 0.36 / epochs)


def test_a_window_has_few_blocks():
    order = make(uneven(400), window=4)
    for lane in range(order.lanes):
        position, length = 0, order.steps_per_epoch * order.per_lane
        while position < length:
            window = order.window_at(0, lane, position)
            assert 1 <= window.blocks.size <= 4
            position = window.stop
        assert position == length


def test_the_lanes_read_at_different_steps():
    order = make(uneven(800), window=8)
    ends = [order.window_at(0, lane, 0).stop // order.per_lane for lane in range(order.lanes)]
    assert len(set(ends)) == order.lanes


def test_two_languages_stay_mixed_in_every_batch():
    # The list of blocks has one corpus after the other; 2 sequences in 3 are of the first.
    order = make(np.full(1200, 30), batch_size=256, lanes=64, window=16)
    shares = [
        np.mean([block < 800 for block, _ in batch])
        for epoch in range(2)
        for batch in epoch_of(order, epoch)
    ]
    assert abs(np.mean(shares) - 2 / 3) < 0.01
    assert min(shares) > 0.45 and max(shares) < 0.87  # +- 7 standard deviations of 256 draws


def test_neighbours_in_a_block_are_rarely_in_the_same_batch():
    order = make(np.full(640, 30), batch_size=64, lanes=16, window=8)
    pairs = 0
    for batch in epoch_of(order, 0):
        slots = set(batch)
        pairs += sum((block, row + 1) in slots for block, row in batch)
    assert pairs < 0.02 * order.num_sequences


def test_fewer_sequences_than_a_batch_are_rejected():
    with pytest.raises(ValueError, match="31 sequences, fewer than one batch of 32"):
        make([10, 21])


def test_golden_order():
    order = make([5, 9, 2, 7, 7, 1], batch_size=8, lanes=2, window=2, seed=42)
    assert epoch_of(order, 1) == [
        [(3, 0), (3, 6), (3, 2), (3, 1), (1, 0), (1, 8), (2, 0), (2, 1)],
        [(3, 3), (3, 4), (3, 5), (1, 5), (1, 6), (1, 3), (1, 1), (4, 3)],
        [(1, 4), (5, 0), (1, 7), (1, 2), (4, 2), (4, 4), (4, 6), (4, 5)],
    ]


def test_a_billion_sequences_take_less_than_a_second_and_100_megabytes():
    sizes = np.full(30_000_000, 33, np.uint32)
    sizes[::3] += 1
    tracemalloc.start()
    began = time.process_time()
    order = make(sizes, batch_size=4096, lanes=64, window=16)
    ready = time.process_time()
    assert order.num_sequences == 1_000_000_000
    window = order.window_at(7, 63, order.steps_per_epoch * order.per_lane - 1)
    first = time.process_time()
    order.window_at(7, 5, 12_345_678)
    later = time.process_time()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert window.owners.size == window.rows.size > 0
    assert later - first < 0.1
    assert first - began < 1, (ready - began, first - ready)  # 0.1 s on an idle core
    assert peak < 100e6
