"""Where raw text is: files, globs, URLs and standard input, and corpora of other programs.

A source is known by its content, never by its name, so neither the names of files nor their order
nor the machine they are on changes what is made of them.
"""

import contextlib
import functools
import glob
import hashlib
import io
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from bertds.io.remote import RemoteFile, file_system, is_url, retried
from data_prep.readers.arrow import check_column, check_end
from data_prep.readers.hf_dataset import hf_files
from data_prep.readers.jsonl import COLUMN
from data_prep.readers.mds import MdsShard, check_file, mds_files

Kind = Literal["lines", "jsonl", "tar", "arrow", "parquet", "mds"]
Compression = Literal["none", "gz", "zst"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tar": "tar",
    ".arrow": "arrow",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
_UNREAD = {".xz", ".bz2", ".zip", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What the command line names; all that is named is read.

    Attributes:
        input: `F[,F…]`: paths, URLs and globs of both; `-` is standard input.
        from_hf: `D[,D…]`: directories of Hugging Face datasets.
        from_mds: `D[,D…]`: directories of MosaicML Streaming.
        column: The field of the text, where documents have fields.
    """

    input: str = ""
    from_hf: str = ""
    from_mds: str = ""
    column: str = COLUMN

    def __str__(self) -> str:
        named = (("input", self.input), ("from_hf", self.from_hf), ("from_mds", self.from_mds))
        return " ".join(f"--{flag}={spec}" for flag, spec in named if spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of text; `path` is the URL of one that is behind a URL."""

    path: Path | str
    kind: Kind
    compression: Compression
    size: int  # bytes, compressed or not
    sha256: str
    column: str = COLUMN
    shard: MdsShard | None = None  # of MDS

    @property
    def identity(self) -> tuple[str, int, str]:
        """What the text depends on: not the name."""
        read_as = f"{self.kind} {self.compression}"
        if self.shard is not None:
            read_as += f" {self.shard.layout}"
        elif self.kind != "lines" and self.column != COLUMN:
            read_as += f" {self.column}"
        return self.sha256, self.size, read_as

    @property
    def line_kind(self) -> Literal["lines", "jsonl"]:
        """What a line of its chunks is: those of a container are texts already."""
        return "jsonl" if self.kind == "jsonl" else "lines"


Mapped = Callable[
    [Callable[[Path | str | MdsShard], Source], Iterable[Path | str | MdsShard]], Iterable[Source]
]


@contextlib.contextmanager
def open_sources(
    inputs: Inputs | str, spool_dir: Path, mapped: Mapped = map
) -> Iterator[list[Source]]:
    """The sources that are named, in an order that does not depend on their names.

    Args:
        inputs: What is named; a string is `--input` alone. Standard input is copied to a file in
            `spool_dir` for the time of the context.
        spool_dir: An existing directory.
        mapped: A `map` for the hashing of all files, which reads every byte.

    Raises:
        ValueError: Nothing is named, a path does not exist, a glob finds nothing, all is empty, or
            a corpus is damaged or has no such column.
        RemoteError: A file is behind a URL and cannot be read.
    """
    inputs = Inputs(input=inputs) if isinstance(inputs, str) else inputs
    if not str(inputs):
        raise ValueError("there is no text: name some with --input, --from_hf or --from_mds")
    spool = spool_dir / f".tmp-standard-input-{uuid.uuid4().hex}"
    try:
        paths = [path for word in _words(inputs.input) for path in _expand(word, spool)]
        files: list[Path | str | MdsShard] = [*paths, *hf_files(inputs.from_hf)]
        files += mds_files(inputs.from_mds, inputs.column)
        describe = functools.partial(describe_source, column=inputs.column)
        sources = list(mapped(describe, list(dict.fromkeys(files))))
        if not any(source.size for source in sources):
            raise ValueError(f"{inputs} has no bytes: some text is wanted")
        yield sorted(sources, key=lambda source: source.identity)
    finally:
        spool.unlink(missing_ok=True)


def _words(spec: str) -> list[str]:
    """The parts between commas; a path that exists may hold commas itself."""
    # Not `Path.exists`, which raises where a list is longer than a path may be.
    is_path = bool(spec) and os.path.exists(spec)  # noqa: PTH110
    return [spec] if is_path else [word for word in spec.split(",") if word]


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


def describe_source(file: Path | str | MdsShard, column: str = COLUMN) -> Source:
    """A file's kind by its name, its size and its hash.

    Raises:
        OSError: It cannot be read.
        ValueError: It has no column of text by that name, or is not what its name or index says.
        RemoteError: It is behind a URL and cannot be read.
    """
    if isinstance(file, MdsShard):
        return _mds_source(file, column)
    kind, compression = _form_of(file)
    with open_binary(file) as stream:
        if kind == "arrow" or kind == "parquet":
            check_column(file, stream, kind, column)
            stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
        if kind == "arrow":
            check_end(file, stream, size)
    return Source(
        path=file, kind=kind, compression=compression, size=size, sha256=digest, column=column
    )


def _mds_source(shard: MdsShard, column: str) -> Source:
    with shard.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
        check_file(shard, stream, size)
    return Source(
        path=shard.path,
        kind="mds",
        compression=shard.compression,
        size=size,
        sha256=digest,
        column=column,
        shard=shard,
    )


def _form_of(path: Path | str) -> tuple[Kind, Compression]:
    """What a name says.

    Raises:
        ValueError: That it is what cannot be read so.
    """
    name = str(path).partition("?")[0] if isinstance(path, str) else path  # a signed URL
    endings = [ending.lower() for ending in PurePosixPath(name).suffixes]
    if endings and endings[-1] in _UNREAD:
        raise ValueError(f"{path} is packed as {endings[-1]}: unpack it, .gz and .zst are read")
    compression: Compression = "none"
    if endings and endings[-1] in _COMPRESSIONS:
        compression = _COMPRESSIONS[endings.pop()]
    ending = endings[-1] if endings else ""
    if ending == ".tgz":
        ending, compression = ".tar", "gz"
    kind = _KINDS.get(ending, "lines")
    if kind in ("arrow", "parquet") and compression != "none":
        raise ValueError(f"{path}: an {ending} file is read as it is, not packed: unpack it first")
    if ending == ".mds":
        raise ValueError(
            f"{path} is a shard that its index describes: name the directory of both with --from_mds"
        )
    return kind, compression
