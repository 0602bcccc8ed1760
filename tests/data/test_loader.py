"""The batches of a rank: equal for any number of ranks, at any position, and complete."""

import multiprocessing
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.config.batch_plan import Level
from bertds.data.loader import TrainLoader, default_lanes, shared_lanes
from bertds.data.shards.reader import ShardSet
from tests.helpers.packs import BATCH, SETS, all_tokens, content, flat, loader_of


def epoch_batches(loader: TrainLoader, epoch: int) -> list[list]:
    steps = loader.sampler.steps_per_epoch
    return list(loader.batches(epoch * steps, (epoch + 1) * steps))


@pytest.mark.parametrize(
    ("world_size", "accumulation", "data"),
    [
        (2, 1, {}),
        (2, 3, {"lanes": 3, "window": 2}),
        (4, 1, {"lanes": 24}),
        (4, 3, {"lanes": 1}),
        (8, 1, {"lanes": 3, "window": 2}),
        (8, 3, {}),
    ],
)
def test_a_batch_is_the_same_for_any_world_size(data_root, world_size, accumulation, data):
    single = loader_of(data_root, **data)
    ranks = [
        loader_of(data_root, rank=rank, world_size=world_size, accumulation=accumulation, **data)
        for rank in range(world_size)
    ]
    for number in (*range(7), *range(40, 44)):
        parts = [loader.batch(number) for loader in ranks]
        assert {len(part) for part in parts} == {accumulation}
        assert content(flat(parts)) == content(single.batch(number))


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_resume_reads_only_the_blocks_of_its_windows(data_root, monkeypatch, lanes):
    """The blocks of the epoch before its position are not read."""
    read_block, read = ShardSet.read_block, []

    def counting(shards, number):
        read.append(number)
        return read_block(shards, number)

    monkeypatch.setattr(ShardSet, "read_block", counting)
    steps = loader_of(data_root, lanes=lanes, window=2).sampler.steps_per_epoch
    for step in range(steps):
        read.clear()
        loader_of(data_root, lanes=lanes, window=2).batch(step)
        per_lane = BATCH // lanes
        # A batch may span windows. A window holds two blocks, each of at least 3 sequences.
        windows = 1 + -(-per_lane // 3)
        assert 0 < len(read) <= lanes * 2 * min(windows, 1 + per_lane)
    whole_epoch = loader_of(data_root, lanes=lanes, window=2)
    read.clear()
    list(whole_epoch.batches(0, steps))
    assert len(read) > 2 * lanes * 2


@settings(max_examples=20)
@given(
    world_size=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    micro=st.integers(1, 3),
    lanes=st.integers(1, 30),
    window=st.integers(1, 5),
    row_length=st.sampled_from([0, 64]),
    fraction=st.sampled_from([0.13, 0.31, 1.0]),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_complete_for_any_split(
    data_root, world_size, accumulation, micro, lanes, window, row_length, fraction, epoch
):
    """Every sequence is read once over all ranks, but for less than a batch."""
    batch_size = world_size * accumulation * micro
    lanes = max(number for number in range(1, lanes + 1) if batch_size % number == 0)
    sets = ({"name": "ko", "fraction": fraction}, {"name": "en", "fraction": 0.25})
    options = {"sets": sets, "batch_size": batch_size, "lanes": lanes, "window": window}
    single = [content(packs) for packs in epoch_batches(loader_of(data_root, **options), epoch)]
    options |= {
        "world_size": world_size,
        "accumulation": accumulation,
        "row_length": row_length,
    }
    ranks = [
        epoch_batches(loader_of(data_root, rank=rank, **options), epoch)
        for rank in range(world_size)
    ]
    known = all_tokens(data_root, sets)
    assert {len(batches) for batches in ranks} == {sum(known.values()) // batch_size}
    assert [content(flat(parts)) for parts in zip(*ranks, strict=True)] == single
    seen = Counter(each.tokens for counted in single for each in counted.elements())
    assert not seen - known
    assert sum((known - seen).values()) == sum(known.values()) % batch_size


@settings(max_examples=4)
@given(
    world_size=st.sampled_from([1, 2, 3, 6]),
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    micro=st.integers(1, 7),
    lanes=st.sampled_from([1, 2, 3, 6]),
)
def test_growing_batches_read_every_sequence_once_an_epoch(
    data_root, world_size, counts, micro, lanes
):
    """At any world size and position: the epochs end where the next batch does not fit."""
    warmup = [Level(6 * number, steps) for number, steps in enumerate(counts, 1)]
    options = {"sets": SETS, "batch_size": 30, "warmup": warmup, "lanes": lanes, "window": 2}
    ranks = [
        loader_of(data_root, rank=rank, world_size=world_size, accumulation=micro, **options)
        for rank in range(world_size)
    ]
    plan, known = ranks[0].plan, all_tokens(data_root)
    steps = plan.steps_in_epochs(2)
    batches = [flat(parts) for parts in zip(*(r.batches(0, steps) for r in ranks), strict=True)]
    seen: list[Counter] = [Counter(), Counter()]
    for step, packs in enumerate(batches):
        batch = content(packs)
        assert batch.total() == plan.at(step).size
        seen[plan.at(step).epoch].update(sequence.tokens for sequence in batch.elements())
    for counted in seen:
        assert not counted - known
        assert (known - counted).total() < 30
    for step in (0, steps // 2, steps - 1):
        assert content(batches[step]) == content(loader_of(data_root, **options).batch(step))


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    num_shards=st.integers(1, 7),
    world_size=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    fraction=st.sampled_from([0.5, 0.83, 1.0]),
    data=st.data(),
)
def test_an_epoch_is_complete_for_any_shards(
    write_shards, tmp_path_factory, sizes, num_shards, world_size, accumulation, fraction, data
):
    """The tokens of a sequence encode its index: every index occurs once over all ranks."""
    root = tmp_path_factory.mktemp("shards")
    batch_size = world_size * accumulation
    rows = [
        [5 + number % 300, 5 + number // 300] for number in range(max(sum(sizes), 2 * batch_size))
    ]
    write_shards(root / "set", rows, set_key=1, block_sequences=sizes, num_shards=num_shards)
    lanes = data.draw(st.sampled_from([n for n in range(1, 33) if batch_size % n == 0]))
    options = {"sets": ({"name": "set", "fraction": fraction},), "batch_size": batch_size}
    options |= {"lanes": lanes, "world_size": world_size, "accumulation": accumulation}
    loaders = [loader_of(root, rank=rank, **options) for rank in range(world_size)]
    orders = []
    for epoch in (0, 1):
        batches = [epoch_batches(loader, epoch) for loader in loaders]
        assert len({len(of_rank) for of_rank in batches}) == 1
        steps = [content(flat(parts)) for parts in zip(*batches, strict=True)]
        seen = Counter(each.tokens for step in steps for each in step.elements())
        used = int(fraction * len(rows))
        assert set(seen) <= {tuple(row) for row in rows[:used]}
        assert set(seen.values()) == {1}
        assert len(seen) == used - used % batch_size
        orders.append([{each.tokens for each in step} for step in steps])
    if len(orders[0]) > 3:
        assert orders[0] != orders[1]


def first_batches(root, rank: int, world_size: int) -> list[Counter]:
    """Run in a separate process."""
    loader = loader_of(root, rank=rank, world_size=world_size, accumulation=2)
    return [content(packs) for packs in loader.batches(0, 35)]


@pytest.mark.dist
def test_separate_processes_read_the_same_batches(data_root):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        jobs = [pool.submit(first_batches, data_root, rank, 2) for rank in range(2)]
        ranks = [job.result() for job in jobs]
    single = [content(packs) for packs in loader_of(data_root).batches(0, 35)]
    assert [sum(parts, Counter()) for parts in zip(*ranks, strict=True)] == single


def test_a_batch_at_any_position_equals_the_one_read_in_order(data_root):
    loader = loader_of(data_root, window=2, lanes=4)
    steps = loader.sampler.steps_per_epoch
    in_order = list(loader.batches(0, 2 * steps + 3))
    assert len(in_order) == 2 * steps + 3
    for number in (0, 1, steps - 1, steps, steps + 5, 2 * steps + 2):
        fresh = loader_of(data_root, window=2, lanes=4)
        assert_equal_packs(fresh.batch(number), in_order[number])
        resumed = list(fresh.batches(number, 2 * steps + 3))
        for found, expected in zip(resumed, in_order[number:], strict=True):
            assert_equal_packs(found, expected)


def assert_equal_packs(found, expected):
    for one, other in zip(found, expected, strict=True):
        for name in ("inputs", "positions", "segments", "cumulative", "masked", "labels"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_seed_changes_the_order_and_not_the_masks(data_root):
    loaders = [loader_of(data_root, seed=seed) for seed in (1, 2)]
    steps = loaders[0].sampler.steps_per_epoch
    first, second = (content(loader.batch(0)) for loader in loaders)
    assert first != second
    one, other = (content(flat(loader.batches(0, steps))) for loader in loaders)
    assert (one & other).total() > one.total() - 2 * BATCH


def test_a_set_of_weight_two_is_read_twice_with_different_masks(data_root):
    sets = ({"name": "ko", "weight": 2}, {"name": "en"})
    loader = loader_of(data_root, sets=sets, batch_size=20)
    epoch = content(flat(epoch_batches(loader, 0)))
    tokens = Counter()
    for sequence, count in epoch.items():
        tokens[sequence.tokens] += count
    assert tokens == all_tokens(data_root, sets)
    masks_of: dict = {}
    for sequence in epoch:
        masks_of.setdefault(sequence.tokens, set()).add((sequence.inputs, sequence.masked))
    twice = [masks_of[row] for row, count in tokens.items() if count == 2 and len(row) > 10]
    assert np.mean([len(masks) == 2 for masks in twice]) > 0.95
    next_epoch = content(flat(epoch_batches(loader, 1)))
    assert (epoch & next_epoch).total() < 0.2 * epoch.total()


def test_default_lanes_divide_the_batch():
    assert [default_lanes(size) for size in (256, 192, 64, 100, 1, 67)] == [64, 64, 64, 50, 1, 1]


def test_more_ranks_than_lanes_give_a_warning():
    assert shared_lanes(64, 64) == ""
    assert "about 4 of the 256 ranks" in shared_lanes(256, 64)


def test_a_damaged_shard_is_named(data_root, tmp_path):
    shutil.copytree(data_root / "ko", tmp_path / "ko")
    path = tmp_path / "ko" / "shard-000000.tar"
    damaged = bytearray(path.read_bytes())
    damaged[0:200] = bytes(200)
    path.write_bytes(damaged)
    loader = loader_of(tmp_path, sets=({"name": "ko"},))
    with pytest.raises(ValueError, match="shard-000000.tar: block 0 is damaged"):
        list(loader.batches(0, loader.sampler.steps_per_epoch))
