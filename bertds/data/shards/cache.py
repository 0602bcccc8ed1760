"""Shards of other machines on a disk of this one: bounded, shared by its processes, checked.

    CACHE/shards/SHA256.tar         a whole shard
    CACHE/shards/SHA256.BYTES.part  one that is being fetched
    CACHE/locks/                    who fetches what, and who makes room

A shard is known by its SHA-256, so a set that was made again never meets an old copy, and sets that
share a shard share its copy. It gets its name when it is whole, on the disk and has that hash. Of
several processes that want it one fetches, the others wait. Beyond the bound the least recently
read one goes, but none that is being read or fetched: its reader holds the kernel's lock (`flock`),
which ends with the reader, however that ends. The directory must be on a disk of this machine.
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
    """A directory with at most so many bytes of shards."""

    directory: Path
    max_bytes: int

    def read(self, url: str, shard: Shard, start: int, size: int) -> bytes:
        """So many bytes of a shard, which is fetched first if it is not here.

        Args:
            url: Where the shard is.
            shard: Its entry in the index.
            start: The first byte.
            size: How many.

        Raises:
            RemoteError: It cannot be fetched.
            OSError: The cache's disk is at fault.
        """
        descriptor = self._open(url, shard)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # in use: it stays
            with contextlib.suppress(PermissionError):  # a copy of another user
                os.utime(descriptor)
            return os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Be the only one on this machine to hold a name, for the time of the context."""
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
        """A descriptor of the whole shard; it stays good if the file is removed."""
        path = self._shards / f"{shard.sha256}.tar"
        with contextlib.suppress(FileNotFoundError):
            return _opened(path)
        with self.locked(_lock_name(path)):
            with contextlib.suppress(FileNotFoundError):
                return _opened(path)  # another process was faster
            return self._fetch(url, shard, path)

    def _fetch(self, url: str, shard: Shard, path: Path) -> int:
        part = self._reserve(shard)
        try:
            download_checked(url, part, shard.bytes, shard.sha256)
            descriptor = _opened(part)
            os.fsync(descriptor)
            with self.locked("room"):  # no count of what is here may miss it under both names
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
        """An empty file that stands for the shard's bytes, once there is room for them."""
        self._shards.mkdir(parents=True, exist_ok=True)
        part = self._shards / f"{shard.sha256}.{shard.bytes}.part"
        part.unlink(missing_ok=True)  # of a process that was killed: its lock is ours now
        while True:
            with self.locked("room"):
                if self._make_room(shard.bytes):
                    part.touch()
                    return part
            time.sleep(_POLL_S)  # all the rest is being read or fetched

    def _make_room(self, size: int) -> bool:
        """Remove the least recently read shards; whether so many bytes may be added."""
        held, shards = 0, []
        for path in self._shards.iterdir():
            if path.suffix == ".part":
                held += 0 if self._removed_if_abandoned(path) else int(path.suffixes[0][1:])
                continue
            state = path.stat()
            held += state.st_size
            shards.append((state.st_mtime_ns, path, state.st_size))
        for _, path, freed in sorted(shards):
            if held + size <= self.max_bytes:
                break
            held -= freed if _removed_if_unused(path) else 0
        return held + size <= self.max_bytes

    def _removed_if_abandoned(self, part: Path) -> bool:
        """Whether nobody fetches it any more; then it is gone."""
        descriptor = os.open(self.directory / "locks" / _lock_name(part), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock_name(path: Path) -> str:
    """256 locks for all shards: two that share one are fetched one after the other."""
    return path.name[:2]


def _removed_if_unused(path: Path) -> bool:
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
