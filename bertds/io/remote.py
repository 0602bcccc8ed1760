"""Remote files, through fsspec: retries where they may help, then one clear error.

A temporary failure (the server answers 500, a connection breaks or stalls, a file is cut short) is
retried: six attempts over half a minute. A permanent one (no such file, no permission) is reported
at once. Every fsspec back end has its own exceptions, so an unknown one counts as temporary.
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

# Not all schemes of fsspec: chained URLs and generated files are not supported.
SCHEMES = ("file", "memory", "http", "https", "s3", "s3a", "gs", "gcs", "hf", "az", "abfs")
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second attempt, the third, …; each is shortened at random (jitter)."""
STALL_S = 60.0
"""Timeout of an HTTP connection that receives no data."""
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_TEMPORARY_STATUS = (408, 425, 429)  # of the HTTP status codes 400 to 499
Result = TypeVar("Result")


def is_url(text: str) -> bool:
    """Whether a location is a URL, not a local path."""
    return "://" in text


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises:
        ValueError: Its scheme is not supported, or needs a package that is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ValueError(
            f"{url}: {scheme}:// is not supported, expected one of {', '.join(SCHEMES)}"
        )
    try:
        settings: dict[str, Any] = {}
        if scheme in ("http", "https"):  # the only back end without a timeout of its own
            import aiohttp  # an optional dependency

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
            settings = {"client_kwargs": {"timeout": timeout}}
        system, path = fsspec.url_to_fs(url, **settings)
    except ImportError as error:
        raise ValueError(
            f"{url} needs a package that is not installed ({error}): pip install 'bertds[remote]'"
        ) from error
    return system, path


def download(url: str, path: Path, max_bytes: int) -> None:
    """Download a file to `path`, which is incomplete until this returns.

    Raises:
        RemoteError: The file cannot be read, or has more than `max_bytes` bytes.
        OSError: `path` cannot be written.
    """
    system, remote_path = file_system(url)
    retried(url, lambda: _copy(url, system, remote_path, path, max_bytes))


def download_checked(url: str, path: Path, max_bytes: int, sha256: str) -> None:
    """Download a file and verify its SHA-256; a file with another one is downloaded again.

    Raises:
        RemoteError: The file cannot be read; `RemoteChecksumError` if it differs each time.
        OSError: `path` cannot be written.
    """
    system, remote_path = file_system(url)

    def attempt() -> None:
        _copy(url, system, remote_path, path, max_bytes)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise RemoteChecksumError(
                    f"{url} is incomplete or altered: its SHA-256 does not match"
                )

    retried(url, attempt)


def retried(url: str, attempt: Callable[[], Result]) -> Result:
    """Call `attempt`, again after increasing delays where that may help.

    Raises:
        RemoteError: It failed permanently, or each time.
        OSError: The local disk is at fault.
    """
    start = time.monotonic()
    num_attempts = len(WAITS_S) + 1
    for number in range(1, num_attempts + 1):
        try:
            return attempt()
        except Exception as caught:  # noqa: BLE001 - every back end has its own exceptions
            error = _http_cause(caught)
            is_last = number == num_attempts
            if _is_permanent(error) or (is_last and isinstance(error, RemoteError)):
                _raise_permanent(url, error)
            if is_last:
                raise RemoteError(
                    f"{url} could not be read in {num_attempts} tries over "
                    f"{time.monotonic() - start:.0f} s (the last one: {_cause(error)}): check that "
                    "the server is up and reachable, then run the same command again"
                ) from error
            logger.warning("%s: %s; try %d of %d", url, _cause(error), number, num_attempts)
        time.sleep(WAITS_S[number - 1] * random.uniform(0.5, 1.0))
    raise AssertionError  # the last attempt returns or raises


class RemoteFile(io.RawIOBase):
    """A remote file as a stream; after a failed read it continues from the same byte."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._system, self._path = file_system(url)
        self._file: Any = None
        self._position = 0

    @classmethod
    def buffered(cls, url: str, piece_bytes: int = 4 << 20) -> io.BufferedReader:
        """Open the stream with a buffer; each request asks for at least `piece_bytes`."""
        return io.BufferedReader(cls(url), piece_bytes)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next byte.

        Raises:
            RemoteError: The size of the file is needed, and cannot be read.
        """
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += int(retried(self._url, lambda: self._system.size(self._path)))
        self._position = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current position.

        Raises:
            RemoteError: The file cannot be read.
        """
        content = retried(self._url, lambda: self._read(len(buffer)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        """Close the connection."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                # Without a cache: fsspec would read the whole file for a reader that seeks.
                self._file = self._system.open(self._path, "rb", cache_type="none")
            if self._file.tell() != self._position:
                self._file.seek(self._position)
            content: bytes = self._file.read(size)
        except Exception:
            self._file = None  # its state is unknown
            raise
        return content


class _Limit(fsspec.Callback):  # type: ignore[misc]
    """Stops a download that is too large, before it fills the disk."""

    def __init__(self, url: str, max_bytes: int) -> None:
        super().__init__()
        self._url, self._max_bytes = url, max_bytes

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._max_bytes:
            raise RemoteChecksumError(f"{self._url} has more than {self._max_bytes:,} bytes")


def _copy(url: str, system: Any, remote_path: str, path: Path, max_bytes: int) -> None:
    system.get_file(remote_path, str(path), callback=_Limit(url, max_bytes))
    if path.stat().st_size > max_bytes:
        raise RemoteChecksumError(f"{url} has more than {max_bytes:,} bytes")


def _http_cause(error: Exception) -> Exception:
    """Return the cause of an HTTP error: fsspec reports any of them as "not found"."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    is_http = type(cause).__module__.partition(".")[0] == "aiohttp"
    return cause if is_http or isinstance(cause, TimeoutError) else error


def _http_status(error: Exception) -> int:
    """Return the HTTP status of an error; 0 for any other error."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        return True
    status = _http_status(error)
    return 400 <= status < 500 and status not in _TEMPORARY_STATUS


def _raise_permanent(url: str, error: Exception) -> NoReturn:
    if isinstance(error, RemoteError) or getattr(error, "errno", None) in _LOCAL_ERRNOS:
        raise error
    if isinstance(error, FileNotFoundError):
        raise RemoteFileNotFoundError(f"{url} does not exist") from error
    raise RemoteError(
        f"{url} cannot be accessed ({_cause(error)}): check the address and your permissions"
    ) from error


def _cause(error: Exception) -> str:
    """Describe an error in one line."""
    if _http_status(error):
        message = getattr(error, "message", "")
        return f"the server answered {_http_status(error)} {message}".rstrip()
    if isinstance(error, TimeoutError):
        return f"no data was received for {STALL_S:g} s"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
