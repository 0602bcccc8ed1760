"""What `--data` points to: a local directory, or a URL behind a shard cache."""

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
    """The root that names of shard sets are relative to, and the cache for remote sets."""

    root: str
    """A directory or a URL."""
    cache: Cache

    @classmethod
    def of(cls, root: str | Path, data: DataConfig | None = None) -> "DataRoot":
        """Build from the value of `--data` and the cache settings of a case, if there is one."""
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bertds"
        cache_dir = data.cache_dir if data else None
        cache_gb = data.cache_gb if data else DataConfig.model_fields["cache_gb"].default
        directory = Path(cache_dir or default).expanduser()
        return cls(str(root), Cache(directory, int(cache_gb * 1e9)))

    def where(self, name: str) -> str:
        """Return the path or URL of a shard set; a name that is a URL is returned unchanged."""
        if is_url(name):
            return name
        if is_url(self.root):
            return f"{self.root.rstrip('/')}/{name}"
        return str(Path(self.root) / name)

    def files(self, name: str) -> ShardFiles:
        """Return the files of a shard set; fetches the small files of a remote set.

        Raises:
            RemoteError: A remote file cannot be read.
            ShardError: The URL does not hold a finished shard set.
            ValueError: The URL's scheme is not supported, or the cache is too small for a shard.
        """
        where = self.where(name)
        return CachedSet.fetch(where, self.cache) if is_url(where) else ShardDirectory(Path(where))


def warn_of_small_cache(sets: Iterable[ShardSet]) -> None:
    """Warn if a cache is smaller than its shard sets: the order mixes the blocks of all of them."""
    sizes_of: dict[Cache, dict[str, int]] = {}
    for shards in sets:
        if isinstance(shards.files, CachedSet):
            sizes = sizes_of.setdefault(shards.files.cache, {})
            sizes.update({shard.sha256: shard.bytes for shard in shards.index.shards})
    for cache, sizes in sizes_of.items():
        total = sum(sizes.values())
        if total > cache.max_bytes:
            logger.warning(
                "data.cache_gb is %g, but the shard sets have %.1f GB: every step reads from all of "
                "them, so shards are fetched repeatedly; raise data.cache_gb to that size, or put "
                "the shards on a file system",
                cache.max_bytes / 1e9,
                total / 1e9,
            )
