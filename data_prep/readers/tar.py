"""Reads text from webdataset tars: each `.txt`, or the text field of each `.json`, is a document.

    000012.txt  000012.json  000012.jpg  000013.json     two documents: 000012.txt, 000013.json

Adjacent members with the same name up to the first dot form a sample. In a sample with a `.txt`,
the `.json` is metadata and is not read. Nothing is extracted to disk. Members are read in order
from a stream, a `.txt` of any size in pieces, and headers take at most 1 MiB of memory. Links,
devices, sparse files and names that point outside the directory are rejected.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from data_prep.readers.counts import NO_TEXT
from data_prep.readers.encodings import UTF8, to_utf8
from data_prep.readers.jsonl import MAX_JSON_BYTES, parse_text_field
from data_prep.readers.streams import Reader, as_line

_MAX_HEADER_BYTES = 1 << 20  # of long names and pax headers
_BLOCK = 512
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A regular file in a tar, whose content comes next in the stream."""

    name: str
    size: int

    @property
    def sample(self) -> str:
        """The name that all members of a sample share."""
        directory, _, name = self.name.rpartition("/")
        return f"{directory}/{name.partition('.')[0]}"

    @property
    def extension(self) -> str:
        """`txt` for `a.en.txt`; empty for hidden files, which some systems add."""
        name = self.name.rpartition("/")[2]
        return "" if name.startswith(".") else name.rpartition(".")[2].lower()


def tar_lines(
    reader: Reader, column: str, counts: Counter[str], encoding: str = UTF8
) -> Iterator[bytes]:
    """The documents of a tar in its order, one line each, in pieces, in UTF-8.

    A `.json` that is not an object with a text is an empty line, and is counted in `counts`.

    Raises:
        ValueError: The tar is damaged, has a rejected member, or has members but no text.
    """
    seen: Counter[str] = Counter()
    for _, sample in groupby(_members(reader), lambda member: member.sample):
        yield from _sample_lines(reader, sample, column, encoding, seen)
    num_members, num_texts = seen.pop("members", 0), seen.pop("texts", 0)
    counts.update(seen)
    if num_members and not num_texts:
        raise ValueError(
            f"{reader.name} has no text in its {num_members:,} members: expected a .txt, or "
            f"a .json with a text in the field {column!r}; --column names another field"
        )


def _sample_lines(
    reader: Reader, sample: Iterator[Member], column: str, encoding: str, counts: Counter[str]
) -> Iterator[bytes]:
    """The `.txt` members as they come, or the `.json` members of a sample without `.txt`."""
    has_txt = False
    json_texts: list[str | None] = []  # kept until the end of the sample: a .txt may follow
    for member in sample:
        counts["members"] += 1
        if member.extension == "txt":
            has_txt = True
            counts["texts"] += 1
            yield from as_line(to_utf8(reader.pieces(member.size), encoding, counts))
        elif member.extension == "json" and not has_txt:
            if member.size > MAX_JSON_BYTES:
                raise ValueError(
                    f"{reader.name}: the member {member.name!r} has {member.size:,} bytes, the "
                    f"maximum for JSON is {MAX_JSON_BYTES:,}: store such text as .txt"
                )
            content = reader.read(member.size).decode("utf-8-sig", "replace")
            json_texts.append(parse_text_field(content, column))
    for text in [] if has_txt else json_texts:
        counts["texts" if text is not None else NO_TEXT] += 1
        yield from as_line(iter([(text or "").encode()]))


def _members(reader: Reader) -> Iterator[Member]:
    """The regular files of a tar; the caller may read the content of each, or leave it."""
    overrides: dict[str, str] = {}  # from extended headers, for the next header
    is_ended = True
    while block := reader.read_up_to(_BLOCK):
        is_ended = block == bytes(_BLOCK)
        if is_ended:
            continue  # another tar may follow in the same file
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise reader.damaged(f"expected a tar header: {error}") from error
        if header.size < 0:
            raise reader.damaged("a member has a negative size")
        end = reader.position + header.size
        if header.type in (_LONG_NAME, *_PAX):
            overrides |= _read_extended_header(reader, header)
        elif header.type not in (tarfile.XGLTYPE, _LONG_LINK):
            member = _check_member(reader, header, overrides)
            end = reader.position + member.size
            overrides = {}
            if header.type != tarfile.DIRTYPE:
                yield member
        reader.skip(end - reader.position)
        reader.skip(-reader.position % _BLOCK)
    if not is_ended:
        raise reader.damaged("the end of the tar is missing")


def _read_extended_header(reader: Reader, header: tarfile.TarInfo) -> dict[str, str]:
    """The fields that a GNU long name or pax header sets for the next header, such as `path`."""
    if header.size > _MAX_HEADER_BYTES:
        raise reader.damaged(f"a header of {header.size:,} bytes")
    content = reader.read(header.size)
    if header.type == _LONG_NAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    fields = {}
    while content.strip(b"\0"):  # records "LENGTH KEY=VALUE\n"
        length, _, _ = content.partition(b" ")
        if not _is_number(length.decode("latin1")) or not 2 < int(length) <= len(content):
            raise reader.damaged("an invalid pax header")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.decode("utf-8", "surrogateescape").rstrip("\n").partition("=")
        fields[key] = value
    return fields


def _check_member(reader: Reader, header: tarfile.TarInfo, overrides: dict[str, str]) -> Member:
    """The member that a header and its overrides describe, if it is a regular file or directory."""
    name = overrides.get("path", header.name)
    size = overrides.get("size", str(header.size))
    is_sparse = any(key.startswith("GNU.sparse") for key in overrides)
    if header.type not in (*_FILES, tarfile.DIRTYPE) or is_sparse:
        kind = "link" if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "special file"
        raise ValueError(
            f"{reader.name}: the member {name!r} is a {kind}, expected regular files: write the "
            "tar without it"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(
            f"{reader.name}: the member {name!r} points outside the directory: write the tar with "
            "relative names without .."
        )
    if not _is_number(size):
        raise reader.damaged(f"the member {name!r} has the size {size!r}")
    return Member(name=name, size=0 if header.type == tarfile.DIRTYPE else int(size))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
