"""Atomic writes on a full disk: nothing is left behind, and the error names the file."""

import errno
import os
import resource
from pathlib import Path

import pytest

from bertds.io.atomic import atomic_directory, atomic_write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path, number: int) -> None:
    full = OSError(number, os.strerror(number))  # as write() raises it, without a name
    for write in (atomic_write, atomic_directory):
        with pytest.raises(OSError, match=os.strerror(number)) as raised, write(tmp_path / "out"):
            raise full
        assert raised.value.filename == str(tmp_path / "out")
        full.filename = None
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_unchanged(tmp_path: Path) -> None:
    """Such as one of a file that is read while the other is written."""
    with pytest.raises(OSError, match="Input/output") as raised, atomic_write(tmp_path / "out"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert raised.value.filename is None
    with pytest.raises(FileNotFoundError) as missing, atomic_write(tmp_path / "out"):
        (tmp_path / "gone").read_bytes()
    assert missing.value.filename == str(tmp_path / "gone")


@pytest.mark.parametrize("concurrent_writers", [False, True])
def test_a_real_error_of_writing_names_the_file_and_leaves_nothing(
    tmp_path: Path, concurrent_writers: bool
) -> None:
    path = tmp_path / "a.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with (
            pytest.raises(OSError, match="File too large") as caught,
            atomic_write(path, concurrent_writers=concurrent_writers) as file,
        ):
            file.write(bytes(30_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert list(tmp_path.iterdir()) == []
