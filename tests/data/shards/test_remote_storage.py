"""Remote shard sets: the bytes of the local ones despite server faults, or one clear error."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bertds.config.schema import DataConfig
from bertds.data.data_root import DataRoot
from bertds.data.shards.reader import ShardSet
from bertds.errors import RemoteError, ShardError
from bertds.io import remote
from bertds.io.remote import RemoteFile
from tests.helpers.http_server import serving

FAULTS = ["500", "503", "429", "reset", "cut", "short", "flip", "slow"]


@pytest.fixture
def server(data_root):
    with serving(data_root) as started:
        yield started


@pytest.fixture
def root(server, tmp_path):
    """The data root at that server."""
    return root_at(server.url, tmp_path / "cache")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 5)


def root_at(url, cache_dir, cache_gb=1.0):
    block = {"train": [{"name": "ko"}], "cache_dir": str(cache_dir), "cache_gb": cache_gb}
    return DataRoot.of(url, DataConfig.model_validate(block))


def content_of(shards):
    blocks = [shards.read_block(number) for number in range(shards.num_blocks)]
    return [(block.tokens.tolist(), block.lengths.tolist()) for block in blocks]


def cached(root):
    return sorted(path.name for path in (root.cache.directory / "shards").iterdir())


def test_a_remote_set_equals_the_local_one(root, server, data_root):
    shards = ShardSet.open(root.files("ko"))
    assert server.requests.total() == 3  # index, block table, tokenizer
    assert not (root.cache.directory / "shards").exists()
    shards.read_block(0)
    assert len(cached(root)) == 1
    assert content_of(shards) == content_of(ShardSet.open(data_root / "ko"))
    again = ShardSet.open(root.files("ko"))
    assert content_of(again) == content_of(shards)
    assert server.requests == {
        "ko/index.json": 2,
        "ko/blocks.npy": 1,
        "ko/tokenizer.json": 1,
        "ko/shard-000000.tar": 1,
        "ko/shard-000001.tar": 1,
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_transient_faults_are_retried(root, server, data_root, fault):
    for name in ("blocks.npy", "tokenizer.json", "shard-000000.tar", "shard-000001.tar"):
        server.faults[f"ko/{name}"] = [fault, fault]
    if fault != "short" and fault != "flip":  # the index has no known hash
        server.faults["ko/index.json"] = [fault, fault]
    shards = ShardSet.open(root.files("ko"))
    assert content_of(shards) == content_of(ShardSet.open(data_root / "ko"))
    assert cached(root) == sorted(f"{shard.sha256}.tar" for shard in shards.index.shards)


def test_a_stalled_connection_is_retried(root, server, data_root, monkeypatch):
    monkeypatch.setattr(remote, "STALL_S", 0.3)
    server.faults["ko/shard-000000.tar"] = ["stall"]
    server.faults["ko/index.json"] = ["stall"]
    shards = ShardSet.open(root.files("ko"))
    assert content_of(shards) == content_of(ShardSet.open(data_root / "ko"))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("500", RemoteError, r"in 6 tries over \d+ s \(the last one: the server answered 500"),
        ("reset", RemoteError, r"in 6 tries over \d+ s \(the last one: "),
        ("cut", RemoteError, "in 6 tries"),
        ("stall", RemoteError, "no data was received for 0.1 s"),
        ("403", RemoteError, r"cannot be accessed \(the server answered 403"),
        ("404", ShardError, "shard-000000.tar: it is missing; make or copy"),
        ("short", ShardError, "shard-000000.tar: it is not the shard that the index names"),
        ("flip", ShardError, "shard-000000.tar: it is not the shard that the index names"),
    ],
)
def test_a_lasting_fault_is_one_error(root, server, monkeypatch, fault, kind, words):
    if fault == "stall":
        monkeypatch.setattr(remote, "STALL_S", 0.1)
    shards = ShardSet.open(root.files("ko"))
    server.faults["ko/shard-000000.tar"] = [fault] * 10
    with pytest.raises(kind) as raised:
        shards.read_block(0)
    assert re.search(words, str(raised.value))
    assert f"{server.url}/ko" in str(raised.value)
    assert raised.value.code == 3
    assert server.requests["ko/shard-000000.tar"] == (1 if fault in ("403", "404") else 6)
    assert cached(root) == []
    monkeypatch.setattr(remote, "STALL_S", 60.0)
    shards.read_block(shards.num_blocks - 1)  # the other shard is whole


def test_an_unreachable_server_is_an_error(tmp_path):
    with pytest.raises(
        RemoteError, match=r"http://127\.0\.0\.1:9/ko/index\.json could not be read"
    ):
        root_at("http://127.0.0.1:9", tmp_path).files("ko")


def test_a_url_without_a_set_is_an_error(root):
    with pytest.raises(ShardError, match=r"fr/index\.json does not exist: .* is not a finished"):
        root.files("fr")


def test_a_missing_shard_is_substituted(root, server, data_root):
    """A shard that cannot be reached is not: other ranks may reach it."""
    server.faults["ko/shard-000000.tar"] = ["404"]
    shards = ShardSet.open(root.files("ko"), skips_bad=True)
    number, block = shards.read_block_or_substitute(0, shards.num_blocks)
    assert shards.bad_shards == {0}
    assert number == shards.blocks_of(1)[0]
    assert (
        block.tokens.tolist() == ShardSet.open(data_root / "ko").read_block(number).tokens.tolist()
    )
    assert shards.read_block_or_substitute(1, shards.num_blocks)[0] == number
    shards.bad_shards.clear()
    server.faults["ko/shard-000000.tar"] = ["500"] * 10
    with pytest.raises(RemoteError):
        shards.read_block_or_substitute(0, shards.num_blocks)


def test_a_set_that_was_made_again_is_not_read_from_the_cache(tmp_path, data_root):
    shutil.copytree(data_root / "ko", tmp_path / "sets" / "x")
    with serving(tmp_path / "sets") as server:
        root = root_at(server.url, tmp_path / "cache")
        before = content_of(ShardSet.open(root.files("x")))
        shutil.rmtree(tmp_path / "sets" / "x")
        shutil.copytree(data_root / "en", tmp_path / "sets" / "x")
        after = content_of(ShardSet.open(root.files("x")))
    assert before == content_of(ShardSet.open(data_root / "ko"))
    assert after == content_of(ShardSet.open(data_root / "en"))


def test_the_least_recently_used_shard_is_evicted(server, data_root, tmp_path):
    sizes = [
        shard.bytes
        for name in ("ko", "en")
        for shard in ShardSet.open(data_root / name).index.shards
    ]
    bound = sum(sizes) - min(sizes)
    root = root_at(server.url, tmp_path / "cache", bound / 1e9)
    ko, en = (ShardSet.open(root.files(name)) for name in ("ko", "en"))
    for shards, block in ((ko, 0), (ko, -1), (en, 0), (ko, 0)):
        shards.read_block(block % shards.num_blocks)
    assert len(cached(root)) == 3
    en.read_block(en.num_blocks - 1)
    kept = [ko.index.shards[0], *en.index.shards]  # not the second shard of ko
    assert cached(root) == sorted(f"{shard.sha256}.tar" for shard in kept)
    assert content_of(ko) == content_of(ShardSet.open(data_root / "ko"))
    held = sum(path.stat().st_size for path in (root.cache.directory / "shards").iterdir())
    assert held <= bound


def test_a_cache_smaller_than_a_shard_is_rejected(server, tmp_path):
    with pytest.raises(ValueError, match=r"data\.cache_gb is 1e-06, but .*/ko has a shard of"):
        root_at(server.url, tmp_path, 1e-6).files("ko")


def test_an_unsupported_scheme_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"pipe:// is not supported, expected one of file, memory"):
        root_at("pipe://cat", tmp_path).files("ko")
    with pytest.raises(ValueError, match="is not supported"):
        root_at("simplecache::http://127.0.0.1", tmp_path).files("ko")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk_is_not_a_fault_of_the_server(root, server, monkeypatch):
    shards = ShardSet.open(root.files("ko"))
    full = root.cache.directory / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(type(root.cache), "_reserve", lambda *_: full)
    with pytest.raises(RemoteError, match=r"disk of .*cache is full before data\.cache_gb is"):
        shards.read_block(0)
    assert server.requests["ko/shard-000000.tar"] == 1


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_file_systems(scheme, data_root, tmp_path):
    import fsspec

    url = f"file://{data_root}"
    if scheme == "memory":
        url = "memory://sets"
        fsspec.filesystem("memory").put(f"{data_root}/en/", "/sets/en/", recursive=True)
    shards = ShardSet.open(root_at(url, tmp_path / "cache").files("en"))
    assert content_of(shards) == content_of(ShardSet.open(data_root / "en"))


def test_a_broken_stream_resumes_at_its_position(tmp_path):
    content = np.random.default_rng(0).bytes(9_000_000)
    (tmp_path / "text").write_bytes(content)
    with serving(tmp_path) as server:
        server.faults["text"] = ["reset", "", "500", "cut", "", "reset"]
        with RemoteFile.buffered(f"{server.url}/text") as file:
            assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()
            file.seek(5_000_001)
            assert file.read(10) == content[5_000_001:5_000_011]
        server.faults["text"] = ["500"] * 10
        with RemoteFile.buffered(f"{server.url}/text") as file, pytest.raises(RemoteError):
            file.read()
