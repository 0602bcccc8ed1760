"""Finds the sources of raw text that the command line names, and identifies each by its content.

    names -> files -> one `Source` per file: kind, compression, size, SHA-256

Names are files, globs, URLs, standard input, and directories of Hugging Face datasets and MDS. The
name of a file is not part of its identity. File names, their order and the machine therefore do
not change the outputs.
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

from bertds.io.atomic import atomic_write
from bertds.io.remote import RemoteFile, file_system, is_url, retried
from data_prep.readers.arrow import check_column, check_end_of_stream
from data_prep.readers.encodings import UTF8, parse_encoding
from data_prep.readers.file_format import Kind, detect_format
from data_prep.readers.hf_dataset import hf_files
from data_prep.readers.jsonl import DEFAULT_COLUMN
from data_prep.readers.mds import MdsShard, check_mds_file, mds_files
from data_prep.readers.splits import warn_of_splits
from data_prep.readers.streams import Compression


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The inputs that the command line names; all of them are read.

    Attributes:
        input: `F[,F...]`: paths, URLs and globs of both; `-` is standard input.
        from_hf: `D[,D...]`: directories of Hugging Face datasets.
        from_mds: `D[,D...]`: directories of MosaicML Streaming (MDS).
        column: Name of the text field, in formats with fields.
        encoding: Encoding of the text of `input`, where its format leaves it open.
    """

    input: str = ""
    from_hf: str = ""
    from_mds: str = ""
    column: str = DEFAULT_COLUMN
    encoding: str = UTF8

    def __post_init__(self) -> None:
        # Python keeps bytes of the command line that are no text as surrogates.
        if any("\ud800" <= character <= "\udfff" for character in self.column):
            raise ValueError(
                f"--column is {self.column!r}, which is not valid text: type the name in the "
                "encoding of the terminal, or rename the field"
            )

    def __str__(self) -> str:
        flags = (("input", self.input), ("from_hf", self.from_hf), ("from_mds", self.from_mds))
        return " ".join(f"--{flag}={spec}" for flag, spec in flags if spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of text; `path` is a string if it is a URL."""

    path: Path | str
    kind: Kind
    compression: Compression
    size: int  # bytes of the file, compressed or not
    sha256: str
    column: str = DEFAULT_COLUMN
    shard: MdsShard | None = None  # set if the kind is `mds`
    encoding: str = UTF8
    note: str = ""  # what the user should know of how it is read

    @property
    def identity(self) -> tuple[str, int, str]:
        """What the text depends on: the content and how it is read, but not the name."""
        read_as = f"{self.kind} {self.compression}"
        if self.shard is not None:
            read_as += f" {self.shard.layout}"
        elif self.kind != "lines" and self.column != DEFAULT_COLUMN:
            read_as += f" {self.column}"
        if self.encoding != UTF8:
            read_as += f" {self.encoding}"
        return self.sha256, self.size, read_as

    @property
    def line_kind(self) -> Literal["lines", "jsonl"]:
        """What a line of its chunks is; the texts of containers are extracted already."""
        return "jsonl" if self.kind in ("jsonl", "json") else "lines"


MapFunction = Callable[
    [Callable[[Path | str | MdsShard], Source], Iterable[Path | str | MdsShard]], Iterable[Source]
]


@contextlib.contextmanager
def open_sources(
    inputs: Inputs | str, spool_dir: Path, map_function: MapFunction = map
) -> Iterator[list[Source]]:
    """Find the sources that the inputs name, in an order that does not depend on their names.

    Args:
        inputs: The inputs; a string stands for `--input`.
        spool_dir: An existing directory. Standard input is copied to a file there until the
            context ends.
        map_function: `map`, or a parallel version of it, to hash all files.

    Raises:
        ValueError: No input is given, a path does not exist, a glob matches nothing, all files are
            empty, or a dataset is damaged or lacks the column.
        RemoteError: A remote file cannot be read.
    """
    inputs = Inputs(input=inputs) if isinstance(inputs, str) else inputs
    if not str(inputs):
        raise ValueError("no input is given: set --input, --from_hf or --from_mds")
    spool = spool_dir / f".tmp-standard-input-{uuid.uuid4().hex}"
    try:
        files: list[Path | str | MdsShard] = [*_find_inputs(inputs.input, spool)]
        files += hf_files(inputs.from_hf)
        files += mds_files(inputs.from_mds, inputs.column)
        encoding = parse_encoding(inputs.encoding)
        describe = functools.partial(describe_source, column=inputs.column, encoding=encoding)
        sources = list(map_function(describe, list(dict.fromkeys(files))))
        if not any(source.size for source in sources):
            raise ValueError(f"{inputs} is empty: expected some text")
        _print_notes(sources)
        yield sorted(sources, key=lambda source: source.identity)
    finally:
        spool.unlink(missing_ok=True)


def _print_notes(sources: list[Source]) -> None:
    """Print what the user should know, once for all files that it is true of."""
    paths: dict[str, list[str]] = {}
    for source in sources:
        paths.setdefault(source.note, []).append(str(source.path))
    for note, (first, *others) in paths.items():
        if note:
            more = f" and {len(others):,} more files" if others else ""
            print(f"{first}{more}: {note}", file=sys.stderr)


def _find_inputs(spec: str, spool: Path) -> list[Path | str]:
    """The files of `F[,F...]`, the value of --input."""
    # A path may contain commas itself. Path.exists raises if the list is too long for a path.
    is_path = bool(spec) and os.path.exists(spec)  # noqa: PTH110
    names = [spec] if is_path else [name for name in spec.split(",") if name]
    return [file for name in names for file in _expand(name, spool)]


def _expand(name: str, spool: Path) -> list[Path | str]:
    """The files of a path, URL, glob or standard input."""
    if is_url(name):
        return _expand_url(name)
    if name == "-":
        with atomic_write(spool) as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [spool]
    path = Path(name).expanduser().absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ValueError(f"--input names the directory {name}, expected a file or a glob")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise ValueError(
            f"--input names {name}, which does not exist: expected a file, a glob or - for "
            "standard input"
        )
    warn_of_splits(name, files)
    return [*files]


def _expand_url(name: str) -> list[Path | str]:
    """The files of a URL or a glob of URLs."""
    system, path = file_system(name)
    if not glob.has_magic(path):
        return [name]
    matches = retried(name, lambda: system.glob(path))
    if not matches:
        raise ValueError(f"--input names {name}, which matches nothing: expected a file or a glob")
    warn_of_splits(name, [PurePosixPath(match) for match in matches])
    return [system.unstrip_protocol(match) for match in sorted(matches)]


def describe_source(
    file: Path | str | MdsShard, column: str = DEFAULT_COLUMN, encoding: str = UTF8
) -> Source:
    """Find a file's kind by its name and content, hash its content and check its format.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no text column of this name, or differs from its name or index.
        RemoteError: It is remote and cannot be read.
    """
    if isinstance(file, MdsShard):
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            check_mds_file(file, stream, size)
        return Source(
            path=file.path,
            kind="mds",
            compression=file.compression,
            size=size,
            sha256=digest,
            column=column,
            shard=file,
        )
    with open_binary(file) as stream:
        form = detect_format(file, stream, column, encoding)
        if form.kind == "arrow" or form.kind == "parquet":
            check_column(file, stream, form.kind, column)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
        if form.kind == "arrow":
            check_end_of_stream(file, stream, size)
    return Source(
        path=file,
        kind=form.kind,
        compression=form.compression,
        size=size,
        sha256=digest,
        column=column,
        encoding=form.encoding,
        note=form.note,
    )


def open_binary(path: Path | str, piece_bytes: int = 4 << 20) -> io.BufferedReader:
    """Open a local file, or a remote one that is read in pieces of at least `piece_bytes`.

    Raises:
        OSError: The file cannot be read.
        ValueError: The scheme of the URL is not supported.
    """
    if isinstance(path, str):
        return RemoteFile.buffered(path, piece_bytes)
    return path.open("rb")
