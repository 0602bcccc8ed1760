"""Where raw text is: what `--input` names, from files, globs, URLs and standard input.

A source is known by its content, never by its name, so neither the names of files nor their order
nor the machine they are on changes what is made of them.
"""

import contextlib
import glob
import hashlib
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from bertds.data.remote import RemoteFile, file_system, is_url, retried


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of text; `path` is the URL of one that is behind a URL."""

    path: Path | str
    kind: Literal["lines", "jsonl"]
    compression: Literal["none", "gz", "zst"]
    size: int  # bytes, compressed or not
    sha256: str

    @property
    def identity(self) -> tuple[str, int, str]:
        """What the text depends on: not the name."""
        return self.sha256, self.size, f"{self.kind} {self.compression}"


Mapped = Callable[[Callable[[Path | str], Source], Iterable[Path | str]], Iterable[Source]]


@contextlib.contextmanager
def open_sources(spec: str, spool_dir: Path, mapped: Mapped = map) -> Iterator[list[Source]]:
    """The sources that `F[,F…]` names, in an order that does not depend on their names.

    Args:
        spec: Paths, URLs and globs of both, separated by commas; `-` is standard input, which is
            copied to a file in `spool_dir` for the time of the context.
        spool_dir: An existing directory.
        mapped: A `map` for the hashing of all files, which reads every byte.

    Raises:
        ValueError: A path does not exist, a glob finds nothing, or all is empty.
        RemoteError: A file is behind a URL and cannot be read.
    """
    spool = spool_dir / ".tmp-standard-input"
    try:
        paths = [path for word in _words(spec) for path in _expand(word, spool)]
        sources = list(mapped(describe_source, list(dict.fromkeys(paths))))
        if not any(source.size for source in sources):
            raise ValueError(f"--input={spec} has no bytes: some text is wanted")
        yield sorted(sources, key=lambda source: source.identity)
    finally:
        spool.unlink(missing_ok=True)


def _words(spec: str) -> list[str]:
    """The parts between commas; a path that exists may hold commas itself."""
    return [spec] if Path(spec).exists() else [word for word in spec.split(",") if word]


def _expand(word: str, spool: Path) -> list[Path | str]:
    if is_url(word):
        return _expand_url(word)
    if word == "-":
        with spool.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [spool]
    path = Path(word).expanduser().absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ValueError(f"--input names the directory {word}: a file or a glob is wanted")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [each for each in found if each.is_file()]
    if not files:
        raise ValueError(f"--input names {word}, which does not exist: a file, glob or - is wanted")
    return [*files]


def _expand_url(word: str) -> list[Path | str]:
    """The files of a URL or a glob of URLs."""
    system, path = file_system(word)
    if not glob.has_magic(path):
        return [word]
    found = retried(word, lambda: system.glob(path))
    files = [system.unstrip_protocol(each) for each in sorted(found)]
    if not files:
        raise ValueError(
            f"--input names {word}, where nothing is found: a file or a glob is wanted"
        )
    return files


def open_binary(path: Path | str, piece_bytes: int = 4 << 20) -> io.BufferedReader:
    """A source's bytes, from the disk or, in pieces of so many, through fsspec.

    Raises:
        OSError: The file cannot be read.
        ValueError: The URL's scheme is not read.
    """
    if isinstance(path, str):
        return RemoteFile.buffered(path, piece_bytes)
    return path.open("rb")


def describe_source(path: Path | str) -> Source:
    """A file's kind by its name, its size and its hash.

    Raises:
        OSError: It cannot be read.
        RemoteError: It is behind a URL and cannot be read.
    """
    endings = PurePosixPath(path).suffixes
    compression: Literal["none", "gz", "zst"] = "none"
    if endings[-1:] in ([".gz"], [".zst"]):
        compression = cast("Literal['gz', 'zst']", endings.pop()[1:])
    with open_binary(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return Source(
        path=path,
        kind="jsonl" if endings[-1:] == [".jsonl"] else "lines",
        compression=compression,
        size=size,
        sha256=digest,
    )
