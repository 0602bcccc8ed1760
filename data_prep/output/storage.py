"""Where shard sets are written: a directory, or a URL that takes whole objects.

A file for a URL is made in a temporary directory of the machine that makes it and put when it is
whole, an index after all else, so what has an index is a whole set there as on a disk.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bertds.data.shards.format import INDEX_NAME
from bertds.errors import RemoteFileNotFoundError
from bertds.io.remote import file_system, is_url, retried


class Place(Protocol):
    """A path of an output: a `Path`, or what is needed of one behind a URL."""

    def exists(self) -> bool:
        """Whether something is there."""

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: There is none.
        """


class Output(Protocol):
    """A directory or URL to write to; `str` of it is what its user calls it. It is pickled."""

    def at(self, name: str) -> Place:
        """The place of a file or directory in it."""

    def size(self, name: str) -> int:
        """Bytes of a file; -1 where there is none."""

    def open_directory(self, name: str) -> AbstractContextManager[Path]:
        """A directory whose new files are in the output's directory `name` after the context."""

    def remove_partial(self, name: str) -> None:
        """Remove from the directory `name` what killed processes left half-written."""


@dataclass(frozen=True, slots=True)
class LocalOutput:
    """A directory of this machine, or of a file system that all workers share."""

    path: Path
    name: str
    """What its user calls it."""

    def __str__(self) -> str:
        return self.name

    def at(self, name: str) -> Path:
        """The path of a file or directory in it."""
        return self.path / name

    def size(self, name: str) -> int:
        """Bytes of a file; -1 where there is none."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else -1

    @contextlib.contextmanager
    def open_directory(self, name: str) -> Iterator[Path]:
        """The directory itself: who writes there gives a file its name when it is whole."""
        directory = self.path / name
        directory.mkdir(parents=True, exist_ok=True)
        yield directory

    def remove_partial(self, name: str) -> None:
        """Remove from the directory `name` what killed processes left half-written."""
        for draft in (self.path / name).glob(".tmp-*"):
            draft.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """A URL that fsspec writes to."""

    url: str

    def __str__(self) -> str:
        return self.url

    def at(self, name: str) -> "StoredFile":
        """The place of a file or directory behind the URL."""
        return StoredFile(f"{self.url}/{name}")

    def size(self, name: str) -> int:
        """Bytes of a file; -1 where there is none.

        Raises:
            RemoteError: The server cannot be asked.
        """
        return StoredFile(f"{self.url}/{name}").size()

    @contextlib.contextmanager
    def open_directory(self, name: str) -> Iterator[Path]:
        """A temporary directory whose files are put when the context ends well, an index last.

        Raises:
            RemoteError: The server does not take one.
        """
        with tempfile.TemporaryDirectory(prefix="data_prep-") as directory:
            yield Path(directory)
            files = sorted(Path(directory).iterdir(), key=lambda path: path.name == INDEX_NAME)
            for path in files:
                _put(path, "/".join([self.url, *([name] if name else []), path.name]))

    def remove_partial(self, name: str) -> None:
        """Nothing half-written ever has a name behind a URL."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or directory behind a URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    def exists(self) -> bool:
        """Whether something is there.

        Raises:
            RemoteError: The server cannot be asked.
        """
        system, path = file_system(self.url)
        system.invalidate_cache()  # others write there as well
        return bool(retried(self.url, lambda: system.exists(path)))

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: There is none.
            RemoteError: It cannot be read.
        """
        system, path = file_system(self.url)
        try:
            return bytes(retried(self.url, lambda: system.cat_file(path)))
        except RemoteFileNotFoundError as error:
            raise FileNotFoundError(str(error)) from error

    def size(self) -> int:
        """Bytes of the file; -1 where there is none.

        Raises:
            RemoteError: The server cannot be asked.
        """
        system, path = file_system(self.url)
        system.invalidate_cache()
        try:
            return int(retried(self.url, lambda: system.info(path))["size"])
        except RemoteFileNotFoundError:
            return -1


def output_of(place: str | Path) -> Output:
    """The output that `--out` names.

    Raises:
        ValueError: A URL that is not written to.
    """
    text = str(place)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if not is_url(text):
        # Whole, since workers of a cluster stand elsewhere.
        return LocalOutput(Path(text).expanduser().absolute(), text)
    if text.startswith(("http://", "https://")):
        raise ValueError(
            f"--out is {text}, which can only be read: give a directory, s3:// or gs://"
        )
    file_system(text)
    return RemoteOutput(text.rstrip("/"))


def _put(path: Path, url: str) -> None:
    system, inner = file_system(url)
    retried(url, lambda: system.put_file(str(path), inner))
