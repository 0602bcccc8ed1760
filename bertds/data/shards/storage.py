"""Where the files of a shard set are: what reading needs of that place, and a local directory."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from bertds.data.shards.format import Shard

_MAX_OPEN_FILES = 64


class AbsentShardError(ValueError):
    """A whole shard is missing or not the one that the index names, not only a block of it."""


class ShardFiles(Protocol):
    """A place with the files of one set; `str` of it is what its user calls it."""

    @property
    def directory(self) -> Path:
        """A directory of this machine with the index, the block table and the tokenizer."""

    def check(self, shard: Shard) -> None:
        """See that a shard is there, as far as that can be told without reading it.

        Raises:
            AbsentShardError: It is missing or of another size.
        """

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """So many bytes of a shard; fewer where the file ends.

        Raises:
            AbsentShardError: The whole shard is at fault.
            OSError: It cannot be read.
        """


class ShardDirectory:
    """Shards on a disk of this machine, or on a file system that it shares."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.directory)

    def check(self, shard: Shard) -> None:
        """See that a shard is there and has its size.

        Raises:
            AbsentShardError: It is not, or has not.
        """
        path = self.directory / shard.name
        if not path.is_file():
            raise AbsentShardError("it is missing")
        if path.stat().st_size != shard.bytes:
            raise AbsentShardError(
                f"it has {path.stat().st_size} bytes, the index says {shard.bytes}"
            )

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """So many bytes of a shard; fewer where the file ends.

        Raises:
            OSError: It cannot be read.
        """
        file = self._open(shard.name)
        return os.pread(file.number, size, start)

    def _open(self, name: str) -> "_Descriptor":
        """The open shard; the least recently used one beyond `_MAX_OPEN_FILES` is closed."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _Descriptor(self.directory / name)
            self._files.move_to_end(name)
            if len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)
            return file


class _Descriptor:
    """A file open for `pread`, closed when its last user lets it go."""

    __slots__ = ("number",)

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
