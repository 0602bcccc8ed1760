"""Files behind URLs, through fsspec: tried again where that may help, then one clear error.

What may pass (a server that answers 500, a connection that breaks or stalls, a file cut short) is
tried six times over half a minute; what will not (no such file, no right to read it) is said at
once. Every back end has errors of its own, so what is no known lasting fault counts as passing.
"""

import errno
import hashlib
import io
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import fsspec

from bertds.errors import RemoteChecksumError, RemoteError, RemoteFileNotFoundError

logger = logging.getLogger("bertds")


# Not all that fsspec has: chained and computed places stay closed.
SCHEMES = ("file", "memory", "http", "https", "s3", "s3a", "gs", "gcs", "hf", "az", "abfs")
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before the second try, the third, …; each is shortened at random, so that ranks spread out."""
STALL_S = 60.0
"""Without a byte for so long, a connection over HTTP is given up."""
_LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_PASSING_STATUS = (408, 425, 429)  # of the answers from 400 to 499
Result = TypeVar("Result")


def is_url(text: str) -> bool:
    """Whether a place is a URL, and not a path of this machine."""
    return "://" in text


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        ValueError: Its scheme is not read, or needs a package that is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"{url}: {scheme}:// is not read, wanted is one of {', '.join(SCHEMES)}")
    try:
        system, path = fsspec.url_to_fs(url, **_settings(scheme))
    except ImportError as error:
        raise ValueError(
            f"{url} needs a package that is not installed ({error}): pip install 'bertds[remote]'"
        ) from error
    return system, path


def download(url: str, path: Path, max_bytes: int) -> None:
    """Copy a file behind a URL to `path`, which is not whole before this returns.

    Raises:
        RemoteError: It cannot be read, or is longer.
        OSError: `path` cannot be written.
    """
    system, inner = file_system(url)
    retried(url, lambda: _copy(url, system, inner, path, max_bytes))


def download_checked(url: str, path: Path, max_bytes: int, sha256: str) -> None:
    """The same for a file whose SHA-256 is known; one that has another is fetched again.

    Raises:
        RemoteError: It cannot be read; `AlteredError` if it has other bytes each time.
        OSError: `path` cannot be written.
    """
    system, inner = file_system(url)

    def attempt() -> None:
        _copy(url, system, inner, path, max_bytes)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise RemoteChecksumError(f"{url} is cut short or altered: its SHA-256 is another")

    retried(url, attempt)


def retried(url: str, attempt: Callable[[], Result]) -> Result:
    """What `attempt` returns, tried again after growing waits where that may help.

    Raises:
        RemoteError: It failed for good, or each time.
        OSError: This machine's disk is at fault.
    """
    began = time.monotonic()
    for number, wait_s in enumerate(WAITS_S, start=1):
        try:
            return attempt()
        except Exception as caught:  # noqa: BLE001 - each back end has errors of its own
            error = _meant(caught)
            if _lasts(error):
                _raise_lasting(url, error)
            logger.warning("%s: %s; try %d of %d", url, _cause(error), number, len(WAITS_S) + 1)
        time.sleep(wait_s * random.uniform(0.5, 1.0))
    try:
        return attempt()
    except Exception as caught:  # noqa: BLE001 - as above
        error = _meant(caught)
        if _lasts(error) or isinstance(error, RemoteError):
            _raise_lasting(url, error)
        raise RemoteError(
            f"{url} could not be read in {len(WAITS_S) + 1} tries over "
            f"{time.monotonic() - began:.0f} s (the last one: {_cause(error)}): see that the server "
            "is up and can be reached from here, then run the same command again"
        ) from error


class RemoteFile(io.RawIOBase):
    """A file behind a URL as a stream; where a read fails it goes on from the same byte."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._system, self._path = file_system(url)
        self._file: Any = None
        self._at = 0

    @classmethod
    def buffered(cls, url: str, piece_bytes: int = 4 << 20) -> io.BufferedReader:
        """The stream, asked for in pieces of so many bytes at least."""
        return io.BufferedReader(cls(url), piece_bytes)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """To any byte."""
        return True

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte.

        Raises:
            RemoteError: The file's size is wanted, and cannot be read.
        """
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            offset += int(retried(self._url, lambda: self._system.size(self._path)))
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from where the stream stands.

        Raises:
            RemoteError: The file cannot be read.
        """
        content = retried(self._url, lambda: self._read(len(buffer)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        """Let the connection go."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                # What is asked for and no more: who jumps would fetch the whole file otherwise.
                self._file = self._system.open(self._path, "rb", cache_type="none")
            if self._file.tell() != self._at:
                self._file.seek(self._at)
            content: bytes = self._file.read(size)
        except Exception:
            self._file = None  # whatever state it is in
            raise
        return content


class _Limit(fsspec.Callback):  # type: ignore[misc]
    """Ends a copy that is longer than it may be, before the disk is full of it."""

    def __init__(self, url: str, max_bytes: int) -> None:
        super().__init__()
        self._url, self._max_bytes = url, max_bytes

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._max_bytes:
            raise RemoteChecksumError(f"{self._url} has more than {self._max_bytes:,} bytes")


def _copy(url: str, system: Any, inner: str, path: Path, max_bytes: int) -> None:
    system.get_file(inner, str(path), callback=_Limit(url, max_bytes))
    if path.stat().st_size > max_bytes:
        raise RemoteChecksumError(f"{url} has more than {max_bytes:,} bytes")


def _settings(scheme: str) -> dict[str, Any]:
    """HTTP alone has no bound of its own on how long a server may be silent."""
    if scheme not in ("http", "https"):
        return {}
    import aiohttp  # an extra; fsspec would say the same of it

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
    return {"client_kwargs": {"timeout": timeout}}


def _status(error: Exception) -> int:
    """The status that a server over HTTP answered with, 0 for any other error."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _meant(error: Exception) -> Exception:
    """The error itself; but over HTTP fsspec says "not found" of all that hid a file's size."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    is_http = type(cause).__module__.partition(".")[0] == "aiohttp"
    return cause if is_http or isinstance(cause, TimeoutError) else error


def _lasts(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    if isinstance(error, OSError) and error.errno in _LOCAL_FAULTS:
        return True
    return 400 <= _status(error) < 500 and _status(error) not in _PASSING_STATUS


def _raise_lasting(url: str, error: Exception) -> NoReturn:
    if isinstance(error, RemoteError) or getattr(error, "errno", None) in _LOCAL_FAULTS:
        raise error
    if isinstance(error, FileNotFoundError):
        raise RemoteFileNotFoundError(f"{url} does not exist") from error
    raise RemoteError(
        f"{url} is not given to us ({_cause(error)}): check the address and your rights there"
    ) from error


def _cause(error: Exception) -> str:
    if _status(error):
        return f"the server answered {_status(error)} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, TimeoutError):
        return f"no byte came for {STALL_S:g} s"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
