"""A shard set behind a URL: its small files are fetched at once, a shard when it is first read.

    CACHE/sets/HASH/   index.json  blocks.npy  tokenizer.json      HASH is of the index

The index is fetched anew by each process that opens the set, the rest once a machine, by the hashes
that the index gives. What lies at the URL may so be replaced by another set, and never half of it.
"""

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertds.data.shards.cache import Cache
from bertds.data.shards.format import (
    BLOCKS_NAME,
    INDEX_NAME,
    MAX_INDEX_BYTES,
    NPY_HEADER_BYTES,
    TOKENIZER_NAME,
    Index,
    Shard,
    parse_index,
)
from bertds.data.shards.storage import AbsentShardError
from bertds.data.tokenizer import MAX_BYTES
from bertds.errors import RemoteChecksumError, RemoteFileNotFoundError, ShardError
from bertds.io.atomic import atomic_write, sync
from bertds.io.remote import download, download_checked


@dataclass(frozen=True, slots=True)
class CachedSet:
    """The files of a set behind a URL; see `ShardFiles`."""

    url: str
    directory: Path
    cache: Cache

    @classmethod
    def fetch(cls, url: str, cache: Cache) -> "CachedSet":
        """Fetch a set's index, block table and tokenizer.

        Raises:
            RemoteError: One cannot be read.
            ShardError: There is no finished set, or it is damaged.
            ValueError: The scheme is not read, or the cache holds less than the largest shard.
        """
        url = url.rstrip("/")
        try:
            content = _index_content(url, cache)
            index = parse_index(content, f"{url}/{INDEX_NAME}")
            _check_bound(url, index, cache)
            directory = cache.directory / "sets" / hashlib.sha256(content).hexdigest()[:32]
            with cache.locked("sets"):
                _complete(url, index, content, directory)
        except (RemoteFileNotFoundError, RemoteChecksumError) as error:
            raise ShardError(f"{error}: {url} is no finished shard set, or damaged") from error
        return cls(url, directory, cache)

    def __str__(self) -> str:
        return self.url

    def check(self, shard: Shard) -> None:
        """Nothing yet: a question for each of thousands of shards would hold up every start."""

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """So many bytes of a shard, which is fetched first if need be.

        Raises:
            AbsentShardError: It is missing, or not the one that the index names.
            RemoteError: It cannot be reached.
            OSError: The cache's disk is at fault.
        """
        try:
            return self.cache.read(f"{self.url}/{shard.name}", shard, start, size)
        except RemoteFileNotFoundError as error:
            raise AbsentShardError("it is missing") from error
        except RemoteChecksumError as error:
            raise AbsentShardError("it is not the shard that the index names") from error


def _index_content(url: str, cache: Cache) -> bytes:
    with _draft(cache.directory / "sets") as draft:
        download(f"{url}/{INDEX_NAME}", draft, MAX_INDEX_BYTES)
        return draft.read_bytes()


def _check_bound(url: str, index: Index, cache: Cache) -> None:
    largest = max(shard.bytes for shard in index.shards)
    if largest > cache.max_bytes:
        raise ValueError(
            f"data.cache_gb is {cache.max_bytes / 1e9:g}, but {url} has a shard of "
            f"{largest / 1e9:g} GB: set it to that at least, to the size of all sets at best"
        )


def _complete(url: str, index: Index, content: bytes, directory: Path) -> None:
    """Fetch what is missing of a set's small files; the index is written last."""
    if (directory / INDEX_NAME).is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    num_blocks = sum(shard.blocks for shard in index.shards)
    for name, max_bytes, sha256 in (
        (TOKENIZER_NAME, MAX_BYTES, index.tokenizer),
        (BLOCKS_NAME, NPY_HEADER_BYTES + 8 * num_blocks, index.blocks_sha256),
    ):
        with _draft(directory) as draft:
            download_checked(f"{url}/{name}", draft, max_bytes, sha256)
            sync(draft)
            draft.rename(directory / name)
    with atomic_write(directory / INDEX_NAME) as file:
        file.write(content)


@contextlib.contextmanager
def _draft(directory: Path) -> Iterator[Path]:
    """The name of a file to write, which is gone afterwards unless it got another one."""
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".tmp-{uuid.uuid4().hex}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
