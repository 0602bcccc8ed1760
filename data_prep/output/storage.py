"""Where shard sets are written: a local directory, or a URL of an object store.

Files for a URL are first written to a temporary directory of the local machine and uploaded when
complete, the index of a set last. A set with an index is therefore complete, as on a disk.
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


class OutputPath(Protocol):
    """A path in an output: a `Path`, or a remote path with two of its methods."""

    def exists(self) -> bool:
        """Whether the file or directory exists."""

    def read_bytes(self) -> bytes:
        """Read the file.

        Raises:
            FileNotFoundError: The file does not exist.
        """


class Output(Protocol):
    """A directory or URL to write to. Its `str` is the user's name for it. It can be pickled."""

    def joinpath(self, name: str) -> OutputPath:
        """The path of a file or directory in it."""

    def size(self, name: str) -> int:
        """Size of a file in bytes, -1 if it does not exist."""

    def open_directory(self, name: str) -> AbstractContextManager[Path]:
        """A local directory whose new files end up in the output's directory `name`."""

    def remove_partial(self, name: str) -> None:
        """Remove the incomplete files that killed processes left in the directory `name`."""


@dataclass(frozen=True, slots=True)
class LocalOutput:
    """A directory of this machine, or of a file system that all workers share."""

    path: Path
    name: str
    """The user's name for it."""

    def __str__(self) -> str:
        return self.name

    def joinpath(self, name: str) -> Path:
        """The path of a file or directory in it."""
        return self.path / name

    def size(self, name: str) -> int:
        """Size of a file in bytes, -1 if it does not exist."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else -1

    @contextlib.contextmanager
    def open_directory(self, name: str) -> Iterator[Path]:
        """The directory itself; writers must create files atomically."""
        directory = self.path / name
        directory.mkdir(parents=True, exist_ok=True)
        yield directory

    def remove_partial(self, name: str) -> None:
        """Remove the incomplete files that killed processes left in the directory `name`."""
        for temporary in (self.path / name).glob(".tmp-*"):
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """A URL that fsspec can write to."""

    url: str

    def __str__(self) -> str:
        return self.url

    def joinpath(self, name: str) -> "RemotePath":
        """The path of a file or directory below the URL."""
        return RemotePath(f"{self.url}/{name}")

    def size(self, name: str) -> int:
        """Size of a file in bytes, -1 if it does not exist.

        Raises:
            RemoteError: The server cannot be reached.
        """
        return self.joinpath(name).size()

    @contextlib.contextmanager
    def open_directory(self, name: str) -> Iterator[Path]:
        """A temporary directory; its files are uploaded when the context ends, an index last.

        Raises:
            RemoteError: The server rejects a file.
        """
        with tempfile.TemporaryDirectory(prefix="data_prep-") as directory:
            yield Path(directory)
            files = sorted(Path(directory).iterdir(), key=lambda path: path.name == INDEX_NAME)
            for path in files:
                _upload(path, "/".join([self.url, *([name] if name else []), path.name]))

    def remove_partial(self, name: str) -> None:
        """Do nothing: uploads are atomic, so there are no incomplete files behind a URL."""


@dataclass(frozen=True, slots=True)
class RemotePath:
    """The URL of a file or directory."""

    url: str

    def __str__(self) -> str:
        return self.url

    def exists(self) -> bool:
        """Whether the file or directory exists.

        Raises:
            RemoteError: The server cannot be reached.
        """
        system, path = file_system(self.url)
        system.invalidate_cache()  # other processes write there too
        return bool(retried(self.url, lambda: system.exists(path)))

    def read_bytes(self) -> bytes:
        """Read the file.

        Raises:
            FileNotFoundError: The file does not exist.
            RemoteError: The file cannot be read.
        """
        system, path = file_system(self.url)
        try:
            return bytes(retried(self.url, lambda: system.cat_file(path)))
        except RemoteFileNotFoundError as error:
            raise FileNotFoundError(str(error)) from error

    def size(self) -> int:
        """Size of the file in bytes, -1 if it does not exist.

        Raises:
            RemoteError: The server cannot be reached.
        """
        system, path = file_system(self.url)
        system.invalidate_cache()
        try:
            return int(retried(self.url, lambda: system.info(path))["size"])
        except RemoteFileNotFoundError:
            return -1


def parse_output(out: str | Path) -> Output:
    """The output that `--out` names.

    Raises:
        ValueError: The URL cannot be written to.
    """
    text = str(out)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if not is_url(text):
        # Absolute: the working directory of cluster workers may differ.
        return LocalOutput(Path(text).expanduser().absolute(), text)
    if text.startswith(("http://", "https://")):
        raise ValueError(
            f"--out is {text}, which is read-only: expected a directory, s3:// or gs://"
        )
    file_system(text)  # rejects unknown schemes
    return RemoteOutput(text.rstrip("/"))


def _upload(path: Path, url: str) -> None:
    system, remote_path = file_system(url)
    retried(url, lambda: system.put_file(str(path), remote_path))
