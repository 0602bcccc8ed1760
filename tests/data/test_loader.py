"""TODO."""

import itertools
import multiprocessing
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.config.schema import DataConfig, MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader, default_lanes, shared_lanes
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.prefetch import prefetch
from bertds.data.shards.reader import ShardSet
from bertds.data.validation import valid_packs
from bertds.data.vocabulary import Vocabulary
from tests.helpers.packs import sequences_of

BATCH = 24
SETS = ({"name": "ko"}, {"name": "en", "fraction": 0.7})


def masked_sets(root, sets=SETS, masking=None) -> list[MaskedDataset]:
    masking = masking or MaskingConfig()
    parts = [
        DatasetSubset.open(root, one["name"], one.get("fraction", 1.0), one.get("weight", 1))
        for one in sets
    ]
    masker = Vocabulary.of(parts).masker(masking)
    return [MaskedDataset(part, masker, masking) for part in parts]


def loader_of(
    root,
    *,
    rank=0,
    world_size=1,
    accumulation=1,
    sets=SETS,
    masking=None,
    batch_size=BATCH,
    seed=3,
    row_length=64,
    **data,
) -> TrainLoader:
    share = RankBatchSpec(
        rank=rank,
        world_size=world_size,
        micro_batch_size=batch_size // world_size // accumulation,
        row_length=row_length,
        pad_id=0,
    )
    config = DataConfig.model_validate({"train": list(sets), "seq_len": 64, **data})
    masked = masked_sets(root, sets, masking)
    return TrainLoader(masked, config, share, batch_size=batch_size, seed=seed)


def content(packs) -> Counter:
    """Tokens, masked inputs and masked places of every sequence in packs."""
    return Counter(one for pack in packs for one in sequences_of(pack, 0))


def flat(lists) -> list:
    """All items of lists of lists."""
    return list(itertools.chain.from_iterable(lists))


def all_tokens(root, sets=SETS) -> Counter:
    """Tokens of every sequence that is in use, as often as it occurs in an epoch."""
    found: Counter = Counter()
    for one in masked_sets(root, sets):
        part = one.subset
        blocks = [one.read(block, 0) for block in range(part.block_of(part.num_sequences - 1) + 1)]
        rows = [tuple(row.tolist()) for b in blocks for row in np.split(b.tokens, b.ends[1:-1])]
        for row in rows[: part.num_sequences]:
            found[row] += part.weight
    return found


def epoch_batches(loader: TrainLoader, epoch: int) -> list[list]:
    steps = loader.sampler.steps_per_epoch
    return list(loader.batches(epoch * steps, (epoch + 1) * steps))


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("data", [{}, {"lanes": 3, "window": 2}, {"lanes": 1}, {"lanes": 24}])
def test_a_batch_is_the_same_for_any_number_of_processes(data_root, world_size, accumulation, data):
    alone = loader_of(data_root, **data)
    ranks = [
        loader_of(data_root, rank=rank, world_size=world_size, accumulation=accumulation, **data)
        for rank in range(world_size)
    ]
    numbers = [*range(7), *range(40, 44)]
    for number in numbers:
        parts = [loader.batch(number) for loader in ranks]
        assert {len(part) for part in parts} == {accumulation}
        assert content(flat(parts)) == content(alone.batch(number))


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_resume_reads_the_blocks_of_its_own_windows_only(data_root, monkeypatch, lanes):
    """Wherever in the epoch it is: nothing is read again up to there."""
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
        # A batch may begin in one window and end in another; windows hold two blocks, of 3 at least.
        windows = 1 + -(-per_lane // 3)
        assert 0 < len(read) <= lanes * 2 * min(windows, 1 + per_lane)
    straight = loader_of(data_root, lanes=lanes, window=2)
    read.clear()
    list(straight.batches(0, steps))
    assert len(read) > 2 * lanes * 2


@settings(max_examples=20)
@given(
    world_size=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    micro=st.integers(1, 3),
    lanes=st.integers(1, 30),
    window=st.integers(1, 5),
    fraction=st.sampled_from([0.31, 0.7, 1.0]),
    epoch=st.integers(0, 3),
)
def test_any_split_of_an_epoch_conserves_it(
    data_root, world_size, accumulation, micro, lanes, window, fraction, epoch
):
    batch_size = world_size * accumulation * micro
    lanes = max(number for number in range(1, lanes + 1) if batch_size % number == 0)
    sets = ({"name": "ko", "fraction": fraction}, {"name": "en"})
    options = {"sets": sets, "batch_size": batch_size, "lanes": lanes, "window": window}
    alone = [content(packs) for packs in epoch_batches(loader_of(data_root, **options), epoch)]
    options |= {"world_size": world_size, "accumulation": accumulation}
    ranks = [
        epoch_batches(loader_of(data_root, rank=rank, **options), epoch)
        for rank in range(world_size)
    ]
    known = all_tokens(data_root, sets)
    assert {len(batches) for batches in ranks} == {sum(known.values()) // batch_size}
    assert [content(flat(parts)) for parts in zip(*ranks, strict=True)] == alone
    seen = Counter(one.tokens for counted in alone for one in counted.elements())
    assert not seen - known
    assert sum((known - seen).values()) == sum(known.values()) % batch_size


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    num_shards=st.integers(1, 7),
    world_size=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    fraction=st.sampled_from([0.5, 0.83, 1.0]),
    data=st.data(),
)
def test_any_shards_are_read_once(
    write_shards, tmp_path_factory, sizes, num_shards, world_size, accumulation, fraction, data
):
    """The tokens of a sequence are its number: every number once over all processes."""
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
        seen = Counter(one.tokens for step in steps for one in step.elements())
        used = int(fraction * len(rows))
        assert set(seen) <= {tuple(row) for row in rows[:used]}
        assert set(seen.values()) == {1}
        assert len(seen) == used - used % batch_size
        orders.append([{one.tokens for one in step} for step in steps])
    if len(orders[0]) > 3:
        assert orders[0] != orders[1]


def first_batches(root, rank: int, world_size: int) -> list[Counter]:
    """Run in a process of its own."""
    loader = loader_of(root, rank=rank, world_size=world_size, accumulation=2)
    return [content(packs) for packs in loader.batches(0, 35)]


@pytest.mark.dist
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_give_the_batches_of_one(data_root, world_size):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(world_size, mp_context=spawn) as pool:
        jobs = [pool.submit(first_batches, data_root, n, world_size) for n in range(world_size)]
        ranks = [job.result() for job in jobs]
    alone = [content(packs) for packs in loader_of(data_root).batches(0, 35)]
    assert [sum(parts, Counter()) for parts in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("row_length", [0, 64])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_has_every_sequence_once(data_root, world_size, row_length):
    loaders = [
        loader_of(data_root, rank=rank, world_size=world_size, row_length=row_length, window=3)
        for rank in range(world_size)
    ]
    known = all_tokens(data_root)
    dropped = []
    for epoch in (0, 1):
        batches = [epoch_batches(loader, epoch) for loader in loaders]
        assert {len(of_rank) for of_rank in batches} == {sum(known.values()) // BATCH}
        seen = Counter()
        for of_rank in batches:
            for packs in of_rank:
                assert len(packs) == 1
                counted = content(packs)
                assert sum(counted.values()) == BATCH // world_size
                seen.update(one.tokens for one in counted.elements())
        assert not seen - known
        dropped.append(known - seen)
        assert sum(dropped[-1].values()) == sum(known.values()) % BATCH
    assert dropped[0] != dropped[1]


def test_batches_by_position_equal_those_in_a_row(data_root):
    loader = loader_of(data_root, window=2, lanes=4)
    steps = loader.sampler.steps_per_epoch
    in_a_row = list(loader.batches(0, 2 * steps + 3))
    assert len(in_a_row) == 2 * steps + 3
    for number in (0, 1, steps - 1, steps, steps + 5, 2 * steps + 2):
        fresh = loader_of(data_root, window=2, lanes=4)
        assert_equal_packs(fresh.batch(number), in_a_row[number])
        resumed = list(fresh.batches(number, 2 * steps + 3))
        for one, other in zip(resumed, in_a_row[number:], strict=True):
            assert_equal_packs(one, other)


def assert_equal_packs(ones, others):
    for one, other in zip(ones, others, strict=True):
        for name in ("inputs", "positions", "segments", "cumulative", "masked", "labels"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_layout_changes_nothing_else(data_root):
    flat, rows = (loader_of(data_root, row_length=length) for length in (0, 64))
    for number in (0, 20):
        assert content(flat.batch(number)) == content(rows.batch(number))


def test_seeds_change_the_order_and_not_the_masks(data_root):
    one, other = (loader_of(data_root, seed=seed) for seed in (1, 2))
    steps = one.sampler.steps_per_epoch
    assert content(one.batch(0)) != content(other.batch(0))
    found = [content(flat(loader.batches(0, steps))) for loader in (one, other)]
    assert sum((found[0] & found[1]).values()) > sum(found[0].values()) - 2 * BATCH


def test_masks_differ_between_epochs_unless_they_are_static(data_root):
    def masks_of(masking, epoch):
        loader = loader_of(data_root, masking=masking)
        return content(flat(epoch_batches(loader, epoch)))

    dynamic, static = MaskingConfig(), MaskingConfig(mode="static", copies=2)
    shared = sum((masks_of(dynamic, 0) & masks_of(dynamic, 1)).values())
    assert shared < 0.3 * 680
    shared = sum((masks_of(static, 0) & masks_of(static, 2)).values())
    assert shared > 680 - 2 * BATCH


def test_ten_copies_repeat_after_ten_epochs(data_root):
    masking = MaskingConfig(mode="static", copies=10)
    one = masked_sets(data_root, ({"name": "ko"},), masking)[0]
    passes = [one.read(0, number).inputs.tolist() for number in range(21)]
    assert all(passes[number] == passes[number + 10] for number in range(11))
    assert len({tuple(inputs) for inputs in passes}) == 10


def test_premasked_shards_give_the_batches_of_static_masking(data_root):
    static = MaskingConfig(mode="static", copies=2, seed=5)
    online, stored = (
        loader_of(data_root, sets=({"name": name},), masking=static) for name in ("ko", "ko_masked")
    )
    steps = online.sampler.steps_per_epoch
    for number in (0, steps - 1, steps, 2 * steps):
        assert_equal_packs(online.batch(number), stored.batch(number))


def test_weight_two_is_two_passes_with_other_masks(data_root):
    sets = ({"name": "ko", "weight": 2}, {"name": "en"})
    loader = loader_of(data_root, sets=sets, batch_size=20)
    found = content(flat(epoch_batches(loader, 0)))
    tokens = Counter()
    for one, count in found.items():
        tokens[one.tokens] += count
    assert tokens == all_tokens(data_root, sets)
    masks_of: dict = {}
    for one in found:
        masks_of.setdefault(one.tokens, set()).add((one.inputs, one.masked))
    twice = [masks_of[one] for one, count in tokens.items() if count == 2 and len(one) > 10]
    assert np.mean([len(masks) == 2 for masks in twice]) > 0.95
    again = content(flat(epoch_batches(loader, 1)))
    assert sum((found & again).values()) < 0.4 * sum(found.values())


def test_languages_are_mixed_in_every_batch(data_root):
    korean = set(all_tokens(data_root, ({"name": "ko"},)))
    loader = loader_of(data_root, sets=({"name": "ko"}, {"name": "en"}), batch_size=80)
    for packs in epoch_batches(loader, 0):
        share = np.mean([one.tokens in korean for one in content(packs).elements()])
        assert 0.2 < share < 0.8


def test_lanes_follow_the_batch():
    assert [default_lanes(size) for size in (256, 192, 64, 100, 1, 67)] == [64, 64, 64, 50, 1, 1]


def test_more_processes_than_lanes_are_told_what_they_read():
    assert shared_lanes(64, 64) == ""
    assert "about 4 of the 256 ranks" in shared_lanes(256, 64)


@pytest.mark.parametrize(
    ("world_size", "micro"), [(1, 400), (1, 7), (2, 7), (3, 64), (7, 5), (64, 3)]
)
def test_validation_takes_every_sequence_once(data_root, world_size, micro):
    one = masked_sets(data_root, ({"name": "en", "fraction": 0.7},))[0]
    wanted = content(valid_packs(one, RankBatchSpec(0, 1, 280, 64, 0)))
    assert sum(wanted.values()) == 280
    assert Counter(row.tokens for row in wanted) == all_tokens(
        data_root, ({"name": "en", "fraction": 0.7},)
    )
    packs = [
        list(valid_packs(one, RankBatchSpec(rank, world_size, micro, 64, 0)))
        for rank in range(world_size)
    ]
    assert len({len(of_rank) for of_rank in packs}) == 1
    assert content(flat(packs)) == wanted
    assert max(len(sequences_of(pack, 0)) for pack in flat(packs)) <= micro


def test_validation_with_more_processes_than_sequences(data_root):
    one = masked_sets(data_root, ({"name": "en", "fraction": 0.01},))[0]
    packs = [list(valid_packs(one, RankBatchSpec(rank, 6, 2, 0, 0))) for rank in range(6)]
    assert [len(of_rank) for of_rank in packs] == [1] * 6
    assert sum(content(flat(packs)).values()) == 4


def reading_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def wait_for_no_thread() -> None:
    deadline = time.monotonic() + 5
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading_threads() == 0


def test_read_ahead_gives_all_items_in_order_and_ends():
    assert list(prefetch(iter(range(100)))) == list(range(100))
    wait_for_no_thread()


def test_read_ahead_stays_few_items_ahead():
    made = []
    items = prefetch((made.append(number) or number for number in range(100)), depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    items.close()
    wait_for_no_thread()


def test_read_ahead_hands_errors_over_after_the_items_before():
    def failing():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    wait_for_no_thread()


def test_a_damaged_shard_is_named_by_the_loader(data_root, tmp_path):
    shutil.copytree(data_root / "ko", tmp_path / "ko")
    path = tmp_path / "ko" / "shard-000000.tar"
    damaged = bytearray(path.read_bytes())
    damaged[0:200] = bytes(200)
    path.write_bytes(damaged)
    loader = loader_of(tmp_path, sets=({"name": "ko"},))
    with pytest.raises(ValueError, match="shard-000000.tar: block 0 is damaged"):
        list(loader.batches(0, loader.sampler.steps_per_epoch))
    wait_for_no_thread()
