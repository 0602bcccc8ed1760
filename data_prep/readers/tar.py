"""Text in tars as webdataset writes them: each `.txt`, or the field of each `.json`, is a document.

    000012.txt  000012.json  000012.jpg  000013.json     two documents: 000012.txt, 000013.json

Members in a row with one name up to its first dot are a sample; a `.json` beside a `.txt` is taken
for its description. Nothing is unpacked: members are read in order from a stream, a `.txt` of any
size in pieces. Names that lead out of a directory, links, devices and sparse files have no place in
a corpus and are refused, and no header makes us hold more than a megabyte.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from data_prep.readers.jsonl import MAX_JSON_BYTES, text_of_json
from data_prep.readers.streams import Reader, as_line

_MAX_HEADER_BYTES = 1 << 20  # long names and the like
_BLOCK = 512
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A plain file in a tar. Its bytes come next in the stream."""

    name: str
    size: int

    @property
    def sample(self) -> str:
        """What the members of a sample share."""
        directory, _, name = self.name.rpartition("/")
        return f"{directory}/{name.partition('.')[0]}"

    @property
    def ending(self) -> str:
        """`txt` of `a.en.txt`; nothing for hidden files, which some systems put beside others."""
        name = self.name.rpartition("/")[2]
        return "" if name.startswith(".") else name.rpartition(".")[2].lower()


def tar_lines(reader: Reader, column: str) -> Iterator[bytes]:
    """The documents of a tar in its order, each as the pieces of a line.

    What is no JSON with a text is an empty line.

    Raises:
        ValueError: The tar is damaged or has what no corpus has, or has members but no text.
    """
    counts: Counter[str] = Counter()
    for _, sample in groupby(_members(reader), lambda member: member.sample):
        yield from _sample_lines(reader, sample, column, counts)
    if counts["members"] and not counts["texts"]:
        raise ValueError(
            f"{reader.name} has no text in its {counts['members']:,} members: a .txt is wanted, or "
            f"a .json with a text under {column!r}; --column names another"
        )


def _sample_lines(
    reader: Reader, sample: Iterator[Member], column: str, counts: Counter[str]
) -> Iterator[bytes]:
    """The `.txt` as they come; if there is none, the `.json`, which may have come before one."""
    has_text = False
    in_json: list[str | None] = []
    for member in sample:
        counts["members"] += 1
        if member.ending == "txt":
            has_text = True
            counts["texts"] += 1
            yield from as_line(reader.pieces(member.size))
        elif member.ending == "json" and not has_text:
            in_json.append(_json_text(reader, member, column))
    for text in [] if has_text else in_json:
        counts["texts"] += text is not None
        yield from as_line(iter([(text or "").encode()]))


def _json_text(reader: Reader, member: Member, column: str) -> str | None:
    if member.size > MAX_JSON_BYTES:
        raise ValueError(
            f"{reader.name}: the member {member.name!r} has {member.size:,} bytes, at most "
            f"{MAX_JSON_BYTES:,} are read as JSON: give such text as .txt"
        )
    return text_of_json(reader.read(member.size).decode("utf-8-sig", "replace"), column)


def _members(reader: Reader) -> Iterator[Member]:
    """The plain files; who takes one may read its bytes, or leave them."""
    said: dict[str, str] = {}  # by headers before a header
    is_ended = True
    while block := reader.read_some(_BLOCK):
        is_ended = block == bytes(_BLOCK)
        if is_ended:
            continue  # one tar may follow another in the file
        header = _header(reader, block)
        end = reader.position + header.size
        if header.type in (_LONG_NAME, *_PAX):
            said |= _said(reader, header)
        elif header.type not in (tarfile.XGLTYPE, _LONG_LINK):
            member = _checked(reader, header, said)
            end = reader.position + member.size
            said = {}
            if header.type != tarfile.DIRTYPE:
                yield member
        reader.skip(end - reader.position)
        reader.skip(-reader.position % _BLOCK)
    if not is_ended:
        raise reader.damaged("the end of the tar is missing")


def _header(reader: Reader, block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise reader.damaged(f"no tar header where one is due: {error}") from error
    if header.size < 0:
        raise reader.damaged("a member of a negative size")
    return header


def _said(reader: Reader, header: tarfile.TarInfo) -> dict[str, str]:
    """What a header says of the next one: `path`, `size` and more."""
    if header.size > _MAX_HEADER_BYTES:
        raise reader.damaged(f"a header of {header.size:,} bytes")
    content = reader.read(header.size)
    if header.type == _LONG_NAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    said = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not _is_number(length.decode("latin1")) or not 2 < int(length) <= len(content):
            raise reader.damaged("a pax header that cannot be read")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.decode("utf-8", "surrogateescape").rstrip("\n").partition("=")
        said[key] = value
    return said


def _checked(reader: Reader, header: tarfile.TarInfo, said: dict[str, str]) -> Member:
    name = said.get("path", header.name)
    size = said.get("size", str(header.size))
    is_sparse = any(key.startswith("GNU.sparse") for key in said)
    if header.type not in (*_FILES, tarfile.DIRTYPE) or is_sparse:
        kind = "link" if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE) else "special file"
        raise ValueError(
            f"{reader.name}: the member {name!r} is a {kind}, only plain files are read: write the "
            "tar without it"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(
            f"{reader.name}: the member {name!r} leads out of its directory, which no corpus needs: "
            "write the tar with names below one"
        )
    if not _is_number(size):
        raise reader.damaged(f"the member {name!r} has the size {size!r}")
    return Member(name=name, size=0 if header.type == tarfile.DIRTYPE else int(size))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
