"""A bounded cache of remote shards on a local disk, shared by all processes of the machine.

    CACHE/shards/SHA256.tar         a complete shard
    CACHE/shards/SHA256.BYTES.part  a shard that is being fetched
    CACHE/locks/                    one lock for each shard that is fetched, one for evicting

A shard is identified by its SHA-256. So a set that was made again never reads an old copy, and sets
share equal shards. A shard gets its name after it was fetched, synced and verified. One process
fetches it; the others wait. When the cache exceeds its bound, the least recently used shard is
evicted, but never one that is being read or fetched: the reader holds a kernel lock (`flock`),
which ends with its process. The directory must be on a local disk.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertds.data.shards.format import Shard
from bertds.errors import RemoteError
from bertds.io.atomic import sync
from bertds.io.remote import download_checked

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory with at most `max_bytes` bytes of shards."""

    directory: Path
    max_bytes: int

    def read(self, url: str, shard: Shard, start: int, size: int) -> bytes:
        """Read `size` bytes of a shard, which is fetched first if the cache does not hold it.

        Args:
            url: URL of the shard.
            shard: Its entry in the index.
            start: The first byte.
            size: Number of bytes.

        Raises:
            RemoteError: It cannot be fetched.
            OSError: The disk of the cache fails.
        """
        descriptor = self._open(url, shard)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # protects the shard from being evicted
            with contextlib.suppress(PermissionError):  # another user's copy
                os.utime(descriptor)
            return os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a named lock, exclusively on this machine, inside the context."""
        locks = self.directory / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def _shards(self) -> Path:
        return self.directory / "shards"

    def _open(self, url: str, shard: Shard) -> int:
        """Open a complete shard; the descriptor stays valid if the file is evicted."""
        path = self._shards / f"{shard.sha256}.tar"
        with contextlib.suppress(FileNotFoundError):
            return _open_readonly(path)
        with self.locked(_lock_name(path)):
            with contextlib.suppress(FileNotFoundError):
                return _open_readonly(path)  # another process has fetched it
            return self._fetch(url, shard, path)

    def _fetch(self, url: str, shard: Shard, path: Path) -> int:
        """Fetch a shard and open it."""
        part = self._reserve(shard)
        try:
            download_checked(url, part, shard.bytes, shard.sha256)
            descriptor = _open_readonly(part)
            os.fsync(descriptor)
            with self.locked("room"):  # while sizes are summed, the shard must keep its name
                part.rename(path)
            sync(path.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RemoteError(
                    f"the disk of {self.directory} is full before data.cache_gb is: free some "
                    "space, lower data.cache_gb, or set data.cache_dir to another disk"
                ) from error
            raise
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return descriptor

    def _reserve(self, shard: Shard) -> Path:
        """Wait until there is room for a shard, then create the .part file that reserves it."""
        self._shards.mkdir(parents=True, exist_ok=True)
        part = self._shards / f"{shard.sha256}.{shard.bytes}.part"
        part.unlink(missing_ok=True)  # left by a killed process: its lock is held here now
        while True:
            with self.locked("room"):
                if self._make_room(shard.bytes):
                    part.touch()
                    return part
            time.sleep(_POLL_S)  # all other shards are being read or fetched

    def _make_room(self, size: int) -> bool:
        """Evict the least recently used shards; whether `size` more bytes fit then."""
        held, shards = 0, []
        for path in self._shards.iterdir():
            if path.suffix == ".part":
                lock = self.directory / "locks" / _lock_name(path)
                is_abandoned = _remove_unless_locked(path, os.open(lock, os.O_RDWR | os.O_CREAT))
                held += 0 if is_abandoned else int(path.suffixes[0][1:])
                continue
            state = path.stat()
            held += state.st_size
            shards.append((state.st_mtime_ns, path, state.st_size))
        for _, path, freed in sorted(shards):
            if held + size <= self.max_bytes:
                break
            held -= freed if _remove_unless_locked(path, _open_readonly(path)) else 0
        return held + size <= self.max_bytes


def _open_readonly(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock_name(path: Path) -> str:
    """Return one of 256 lock names; shards that share a lock are fetched one after the other."""
    return path.name[:2]


def _remove_unless_locked(path: Path, lock: int) -> bool:
    """Remove a file unless a process holds its lock, whose descriptor is closed; whether removed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
