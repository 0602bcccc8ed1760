"""Tells the user of a full disk what to do."""

import contextlib
from collections.abc import Iterator

from bertds.errors import NO_ROOM


@contextlib.contextmanager
def explain_full_disk(remedy: str) -> Iterator[None]:
    """Add what to do to the error of a full disk, which already names the file.

    Raises:
        OSError: A file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        message = f"{error.strerror}: {remedy}"
        raise OSError(error.errno, message, error.filename) from error
