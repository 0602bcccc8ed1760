"""First bytes that tell what a file is, whatever its name."""

from typing import Literal

from data_prep.readers.streams import Compression

BinaryKind = Literal["tar", "arrow", "parquet"]
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
_ARROW_STREAM = b"\xff\xff\xff\xff"  # then the size of the schema, which is below 2^24
_COMPRESSIONS: dict[bytes, Compression] = {b"\x1f\x8b\x08": "gz", b"\x28\xb5\x2f\xfd": "zst"}
_KINDS: dict[bytes, BinaryKind] = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_EXTRACT = "extract the text from it"
_DECOMPRESS = "decompress it, or use .gz or .zst"
_CONVERT = "convert it to .parquet or JSON lines"
_UNREADABLE: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive, as .zip, .xlsx and .docx files are", _EXTRACT),
    b"PK\x05\x06": ("an empty zip archive", "name the files with the text"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _EXTRACT),
    b"Rar!\x1a\x07": ("a RAR archive", _EXTRACT),
    b"\xfd7zXZ\x00": ("compressed with xz", _DECOMPRESS),
    b"BZh": ("compressed with bzip2", _DECOMPRESS),
    b"\x04\x22\x4d\x18": ("compressed with lz4", _DECOMPRESS),
    b"LZIP": ("compressed with lzip", _DECOMPRESS),
    b"\x1f\x9d": ("compressed with compress", _DECOMPRESS),
    b"SQLite format 3\x00": ("an SQLite database", _EXTRACT),
    b"%PDF-": ("a PDF document", _EXTRACT),
    b"{\\rtf": ("an RTF document", _EXTRACT),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office or HWP document", _EXTRACT),
    b"FEA1": ("a Feather file of version 1", _CONVERT),
    b"ORC": ("an ORC table", _CONVERT),
    b"Obj\x01": ("an Avro file", _CONVERT),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _CONVERT),
    b"\x93NUMPY": ("a NumPy array", _CONVERT),
    b"\x80\x02": ("a Python pickle", _CONVERT),
    b"\x80\x03": ("a Python pickle", _CONVERT),
    b"\x80\x04\x95": ("a Python pickle", _CONVERT),
    b"\x80\x05\x95": ("a Python pickle", _CONVERT),
    b"\x89PNG\r\n\x1a\n": ("a PNG image", "name files with text"),
    b"\xff\xd8\xff": ("a JPEG image", "name files with text"),
    b"GIF8": ("a GIF image", "name files with text"),
    b"\x7fELF": ("a program", "name files with text"),
    b"version https://git-lfs.github.com/spec/": (
        "a pointer of Git LFS, not the file itself",
        "run git lfs pull in its repository",
    ),
}


def compression_of(head: bytes) -> Compression:
    """The compression that the first bytes of a file tell."""
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), "none")


def binary_kind_of(head: bytes) -> BinaryKind | None:
    """The binary format that can be read, by the first bytes of the content."""
    if head.startswith(_TAR_MAGIC, _TAR_OFFSET):
        return "tar"
    if head.startswith(_ARROW_STREAM) and len(head) > 8 and head[7] == 0:
        return "arrow"
    return next((kind for magic, kind in _KINDS.items() if _begins_with(head, magic)), None)


def explain_unreadable(head: bytes) -> str:
    """What a file is that cannot be read, and what to do; empty for other files."""
    for magic, (name, remedy) in _UNREADABLE.items():
        if _begins_with(head, magic):
            return f"{name}: {remedy}"
    return ""


def _begins_with(head: bytes, magic: bytes) -> bool:
    """Whether a file begins with a signature, and not with a word of text that is spelled alike."""
    return head.startswith(magic) and not (magic.isalnum() and _is_text_after(head, len(magic)))


def _is_text_after(head: bytes, position: int) -> bool:
    """Whether text goes on after letters that are also a signature, as in `ORC is a word`."""
    rest = head[position : position + 64]
    return bool(rest) and all(byte >= 32 or byte in b"\t\r\n" for byte in rest)
