"""Files that are never half-written: the one way in which all of them get their name."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_write(path: Path, *, concurrent_writers: bool = False) -> Iterator[IO[bytes]]:
    """A file open for writing that takes the name `path` only when it is whole and on the disk.

    Args:
        path: The file.
        concurrent_writers: Others may be writing the same content at the same time, on other hosts perhaps:
            each writes a draft of its own, which stays behind if the process is killed.
    """
    mark = f"-{uuid.uuid4().hex}" if concurrent_writers else ""
    temporary = path.with_name(f".tmp-{path.name}{mark}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk needs every byte
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that takes the name `path` only when it is whole and on the disk.

    Raises:
        FileExistsError: There is something of this name already that is no empty directory.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty: remove it or choose another name")
    draft = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            sync(file)
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync(path: Path) -> None:
    """Put a file on the disk, or the names in a directory: a rename is not there before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
