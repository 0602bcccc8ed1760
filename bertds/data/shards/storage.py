"""Storage of shard files: the interface that reading needs, and a local directory."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from bertds.data.shards.format import Shard

_MAX_OPEN_FILES = 64


class AbsentShardError(ValueError):
    """A whole shard is missing, or is not the one that the index names."""


class ShardFiles(Protocol):
    """The files of one shard set; its `str` is the path or URL that the user gave."""

    @property
    def directory(self) -> Path:
        """A local directory with the index, the block table and the tokenizer."""

    def check(self, shard: Shard) -> None:
        """Check that a shard exists, as far as possible without reading it.

        Raises:
            AbsentShardError: It is missing or of the wrong size.
        """

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """Read `size` bytes of a shard; fewer at the end of the file.

        Raises:
            AbsentShardError: The whole shard is missing or not the one in the index.
            OSError: It cannot be read.
        """


class ShardDirectory:
    """Shards in a directory of this machine, on a local or shared file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.directory)

    def check(self, shard: Shard) -> None:
        """Check that a shard exists and has its size.

        Raises:
            AbsentShardError: It is missing or of the wrong size.
        """
        path = self.directory / shard.name
        if not path.is_file():
            raise AbsentShardError("it is missing")
        if path.stat().st_size != shard.bytes:
            raise AbsentShardError(
                f"it has {path.stat().st_size} bytes, the index expects {shard.bytes}"
            )

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """Read `size` bytes of a shard; fewer at the end of the file.

        The least recently used file is closed when more than `_MAX_OPEN_FILES` are open.

        Raises:
            OSError: It cannot be read.
        """
        with self._lock:
            file = self._files.get(shard.name)
            if file is None:
                file = self._files[shard.name] = _Descriptor(self.directory / shard.name)
            self._files.move_to_end(shard.name)
            if len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)
        return os.pread(file.number, size, start)


class _Descriptor:
    """A file descriptor that is closed when the last thread has dropped its reference."""

    __slots__ = ("number",)

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
