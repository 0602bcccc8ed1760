"""What the names of shard sets are relative to: a directory, or a URL behind a cache."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bertds.config.schema import DataConfig
from bertds.data.shards.cache import Cache
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.remote_storage import CachedSet
from bertds.data.shards.storage import ShardDirectory, ShardFiles
from bertds.io.remote import is_url

logger = logging.getLogger("bertds")


@dataclass(frozen=True, slots=True)
class DataRoot:
    """`--data`, and the cache for what of it is behind URLs."""

    place: str
    cache: Cache

    @classmethod
    def of(cls, place: str | Path, data: DataConfig) -> "DataRoot":
        """The root of a case: `place` is what `--data` says."""
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bertds"
        directory = Path(data.cache_dir or default).expanduser()
        return cls(str(place), Cache(directory, int(data.cache_gb * 1e9)))

    def where(self, name: str) -> str:
        """A set's path or URL; a name that is a URL itself stands alone."""
        if is_url(name):
            return name
        if is_url(self.place):
            return f"{self.place.rstrip('/')}/{name}"
        return str(Path(self.place) / name)

    def files(self, name: str) -> ShardFiles:
        """The files of a set; of one behind a URL the index and its like are fetched.

        Raises:
            RemoteError: They cannot be.
            ShardError: There is no finished set behind the URL.
            ValueError: The URL's scheme is not read, or the cache is too small for a shard.
        """
        where = self.where(name)
        return CachedSet.fetch(where, self.cache) if is_url(where) else ShardDirectory(Path(where))


def warn_of_small_cache(sets: Iterable[ShardSet]) -> None:
    """Say it if a cache holds less than its sets: blocks are read in an order that mixes all."""
    wanted: dict[Cache, dict[str, int]] = {}
    for files, shards in ((one.files, one.index.shards) for one in sets):
        if isinstance(files, CachedSet):
            held = wanted.setdefault(files.cache, {})
            held.update({shard.sha256: shard.bytes for shard in shards})
    for cache, sizes in wanted.items():
        if sum(sizes.values()) > cache.max_bytes:
            logger.warning(
                "data.cache_gb is %g, the sets have %.1f GB: shards will be fetched again and "
                "again, since every step reads from all of them; set data.cache_gb to that, or "
                "put the shards on a file system",
                cache.max_bytes / 1e9,
                sum(sizes.values()) / 1e9,
            )
