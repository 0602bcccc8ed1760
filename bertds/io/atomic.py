"""Atomic writes: a file or directory gets its name only when it is complete and on disk."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bertds.errors import NO_ROOM


@contextlib.contextmanager
def room_errors_named(path: Path) -> Iterator[None]:
    """Give the error of a full disk, which has no file name, the name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_write(path: Path, *, concurrent_writers: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that gets the name `path` when the context ends without an error.

    Args:
        path: The file.
        concurrent_writers: Whether others, perhaps on other hosts, may write the same content at
            the same time. Then each writes a temporary file with a unique name, which stays behind
            if the process is killed.

    Raises:
        OSError: The file cannot be written, for example since the disk is full; it names `path`.
    """
    suffix = f"-{uuid.uuid4().hex}" if concurrent_writers else ""
    temporary = path.with_name(f".tmp-{path.name}{suffix}")
    try:
        with room_errors_named(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk needs the space
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Create a directory that gets the name `path` when the context ends without an error.

    Raises:
        FileExistsError: `path` exists and is not an empty directory.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty: remove it or choose another name")
    draft = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    try:
        with room_errors_named(path):
            draft.mkdir(parents=True)
            yield draft
            for file in draft.iterdir():
                sync(file)
            sync(draft)
            draft.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file to disk, or the names in a directory; a rename is durable only after that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
