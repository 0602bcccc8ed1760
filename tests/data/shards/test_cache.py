"""A cache shared by processes: one fetch per shard, the bound holds, no lock is left behind."""

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from bertds.data.data_root import DataRoot
from bertds.data.shards.cache import Cache
from bertds.data.shards.reader import ShardSet
from tests.helpers import gloo
from tests.helpers.http_server import serving

SCRIPT = Path(__file__).resolve().parents[2] / "helpers" / "workers" / "shard_cache.py"
WORKERS = 3


@pytest.fixture
def server(data_root):
    with serving(data_root) as started:
        yield started


@pytest.fixture
def sizes(data_root):
    """The bytes of the four shards."""
    sets = [ShardSet.open(data_root / name) for name in ("ko", "en")]
    return [shard.bytes for shards in sets for shard in shards.index.shards]


def readers(server, data_root, tmp_path, max_bytes, reads):
    """Start processes that read random blocks through one cache."""
    arguments = (server.url, data_root, tmp_path / "cache", max_bytes, reads)
    return gloo.Workers(SCRIPT, WORKERS, *arguments, scratch=tmp_path)


def held_by(cache_dir):
    """Sum the bytes of all shards, complete or not; a file may vanish meanwhile."""
    held = 0
    for path in (cache_dir / "shards").glob("*"):
        try:
            held += path.stat().st_size
        except FileNotFoundError:
            continue
    return held


def test_each_shard_is_fetched_once(server, data_root, tmp_path, sizes):
    for name in ("ko", "en"):
        server.faults[f"{name}/shard-000000.tar"] = ["slow"]
    with readers(server, data_root, tmp_path, sum(sizes), 60) as workers:
        results = workers.results()
    assert [result["wrong"] for result in results if "wrong" in result] == [0] * WORKERS
    shards = {path: count for path, count in server.requests.items() if path.endswith(".tar")}
    assert list(shards.values()) == [1, 1, 1, 1]
    assert not list((tmp_path / "cache" / "shards").glob("*.part"))


def test_the_bound_holds_while_all_fetch_and_evict(server, data_root, tmp_path, sizes):
    bound = 2 * max(sizes)
    most = 0
    with readers(server, data_root, tmp_path, bound, 40) as workers:
        while any(process.poll() is None for process in workers.processes):
            most = max(most, held_by(tmp_path / "cache"))
            time.sleep(0.002)
        results = workers.results()
    assert [result["wrong"] for result in results if "wrong" in result] == [0] * WORKERS
    assert 0 < most <= bound
    assert sum(count for path, count in server.requests.items() if path.endswith(".tar")) > 8


def test_a_killed_reader_blocks_no_other(server, data_root, tmp_path, sizes):
    for name in ("ko", "en"):
        for number in (0, 1):
            server.faults[f"{name}/shard-{number:06d}.tar"] = ["stall"]
    with readers(server, data_root, tmp_path, max(sizes), 5) as workers:
        deadline = time.monotonic() + 100
        while not list((tmp_path / "cache").glob("shards/*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in workers.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert list((tmp_path / "cache").glob("shards/*.part"))
    server.faults.clear()
    root = DataRoot(server.url, Cache(tmp_path / "cache", max(sizes)))
    for name in ("ko", "en"):
        shards = ShardSet.open(root.files(name))
        for block in range(0, shards.num_blocks, 5):
            shards.read_block(block)
    assert not list((tmp_path / "cache").glob("shards/*.part"))
    assert held_by(tmp_path / "cache") <= max(sizes)


def test_a_shard_that_is_being_read_is_not_evicted(server, tmp_path, sizes):
    root = DataRoot(server.url, Cache(tmp_path / "cache", sum(sizes) - min(sizes)))
    ko, en = (ShardSet.open(root.files(name)) for name in ("ko", "en"))
    for shards, block in ((ko, 0), (ko, ko.num_blocks - 1), (en, 0)):
        shards.read_block(block)
    oldest, second = (tmp_path / f"cache/shards/{shard.sha256}.tar" for shard in ko.index.shards)
    descriptor = os.open(oldest, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    en.read_block(en.num_blocks - 1)
    assert oldest.exists()
    assert not second.exists()
    os.close(descriptor)
