"""A shard set behind a URL: small files are fetched when it is opened, a shard at its first read.

    CACHE/sets/HASH/   index.json  blocks.npy  tokenizer.json      HASH is the hash of the index

Each process that opens the set fetches the index. The other small files are fetched once per
machine and verified by their hashes in the index. So the set at the URL may be replaced by another
one, and a mixture of both is never read.
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
    """The files of a remote set; see `ShardFiles`."""

    url: str
    directory: Path
    cache: Cache

    @classmethod
    def fetch(cls, url: str, cache: Cache) -> "CachedSet":
        """Fetch the index, the block table and the tokenizer of a set.

        Raises:
            RemoteError: A file cannot be read.
            ShardError: The URL does not hold a finished set, or the set is damaged.
            ValueError: The scheme is not supported, or the cache is smaller than a shard.
        """
        url = url.rstrip("/")
        try:
            with _draft(cache.directory / "sets") as draft:
                download(f"{url}/{INDEX_NAME}", draft, MAX_INDEX_BYTES)
                content = draft.read_bytes()
            index = parse_index(content, f"{url}/{INDEX_NAME}")
            largest = max(shard.bytes for shard in index.shards)
            if largest > cache.max_bytes:
                raise ValueError(
                    f"data.cache_gb is {cache.max_bytes / 1e9:g}, but {url} has a shard of "
                    f"{largest / 1e9:g} GB: set it to at least that, better to the size of all sets"
                )
            directory = cache.directory / "sets" / hashlib.sha256(content).hexdigest()[:32]
            with cache.locked("sets"):
                _fetch_small_files(url, index, content, directory)
        except (RemoteFileNotFoundError, RemoteChecksumError) as error:
            raise ShardError(f"{error}: {url} is not a finished shard set, or damaged") from error
        return cls(url, directory, cache)

    def __str__(self) -> str:
        return self.url

    def check(self, shard: Shard) -> None:
        """Do nothing: a request for each of thousands of shards would delay every start."""

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """Read `size` bytes of a shard, which is fetched first if the cache does not hold it.

        Raises:
            AbsentShardError: It is missing, or is not the one that the index names.
            RemoteError: It cannot be read.
            OSError: The disk of the cache fails.
        """
        try:
            return self.cache.read(f"{self.url}/{shard.name}", shard, start, size)
        except RemoteFileNotFoundError as error:
            raise AbsentShardError("it is missing") from error
        except RemoteChecksumError as error:
            raise AbsentShardError("it is not the shard that the index names") from error


def _fetch_small_files(url: str, index: Index, content: bytes, directory: Path) -> None:
    """Fetch the tokenizer and the block table unless they are here; the index is written last."""
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
    """Yield the path of a temporary file; it is removed at the end unless it was renamed."""
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".tmp-{uuid.uuid4().hex}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
