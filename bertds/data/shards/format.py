"""Shard sets on disk: what their bytes are. One format, one owner: writing and reading it.

    data/50k/en/train/   index.json   blocks.npy   tokenizer.json   shard-000000.tar …

A *sequence* is one row of token ids, a *block* holds many (at most 32,768 tokens), a shard is a
plain tar of blocks that any webdataset program reads. The blocks of a shard lie end to end from
byte 0, each the same members in the same order:

    000000000012.tokens.npy     ids end to end, the index's dtype
    000000000012.lengths.npy    uint16; uint32 where seq_len > 65,535
    000000000012.inputs.K.npy, 000000000012.positions.K.npy      for each pre-masked copy K

`blocks.npy`, uint32 of shape (2, blocks), has each block's sequences and bytes. Nothing is decoded
but `.npy` of the expected type and size: no pickle, no member that the index does not name. A
block that was decoded is a block that holds: its counts, lengths and ids were checked, which
together costs 0.04 ms a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bertds.errors import ShardError

Ids = npt.NDArray[np.unsignedinteger[Any]]
Uint32s = npt.NDArray[np.uint32]
FORMAT: Literal["bertds-shards"] = "bertds-shards"
VERSION: Literal[1] = 1
INDEX_NAME = "index.json"
BLOCKS_NAME = "blocks.npy"
TOKENIZER_NAME = "tokenizer.json"
BLOCK_TOKENS = 32_768  # a block holds at most so many tokens, or one longer sequence
END_OF_TAR = bytes(1024)
MAX_INDEX_BYTES = 256 << 20  # a million shards
MAX_COPIES = 1000
NPY_HEADER_BYTES = 128
_RECORD = 512  # the unit of a tar
_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(gt=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMasking:
    """The masking that pre-masked copies were made with: copy K is pass K of this rule."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    seed: int
    ratio: float
    mask_share: float
    random_share: float
    unit: Literal["token", "word"]
    copies: Annotated[int, Field(gt=0, le=MAX_COPIES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar file."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: Annotated[str, Field(pattern=r"^shard-\d{6,}\.tar$")]
    bytes: _Positive
    sha256: _Sha256
    sequences: _Positive
    tokens: _Positive
    blocks: _Positive
    max_id: _Count
    max_length: _Positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """`index.json`.

    `characters` counts the set's lines after normalisation, `dropped` what was left out of the
    text by reason, `set_key` (16 hex digits) names the set's content and so keys its masks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    format: Literal["bertds-shards"]
    version: Literal[1]
    tokenizer: _Sha256
    vocab_size: _Positive
    special_ids: dict[str, _Count]
    unmaskable_ids: tuple[_Count, ...]
    dtype: Literal["uint16", "uint32"]
    seq_len: _Positive
    special_tokens: bool
    set_key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    masking: StoredMasking | None
    sequences: _Positive
    tokens: _Positive
    characters: _Count
    lines: _Count
    max_length: _Positive
    dropped: dict[str, _Count]
    blocks_sha256: _Sha256
    shards: Annotated[tuple[Shard, ...], Field(min_length=1)]

    @property
    def copies(self) -> int:
        """How many pre-masked copies each block holds."""
        return 0 if self.masking is None else self.masking.copies

    @property
    def bytes_per_token(self) -> float:
        """Bytes on disk for each token, lengths and tar headers included."""
        return sum(shard.bytes for shard in self.shards) / self.tokens


_INDEX_JSON = TypeAdapter(Index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block: T tokens in S sequences, and the pre-masked copies, if there are any.

    Attributes:
        tokens: Ids end to end, shape [T].
        lengths: Tokens in each sequence, shape [S].
        inputs: For each copy the ids with masks, shape [T].
        positions: For each copy the places to predict, ascending, shape [M].
    """

    tokens: Ids
    lengths: Ids
    inputs: tuple[Ids, ...] = ()
    positions: tuple[Uint32s, ...] = ()


def length_dtype(seq_len: int) -> Literal["uint16", "uint32"]:
    """The type of stored lengths."""
    return "uint16" if seq_len <= np.iinfo(np.uint16).max else "uint32"


def id_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The type of stored ids."""
    return "uint16" if vocab_size <= np.iinfo(np.uint16).max + 1 else "uint32"


def encode_index(index: Index) -> bytes:
    """The bytes of `index.json`."""
    return _INDEX_JSON.dump_json(index, indent=1) + b"\n"


def read_index(directory: Path) -> Index:
    """Read and check `index.json` by itself.

    Raises:
        ShardError: It is missing or not such an index.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path} does not exist: {directory} is no finished shard set")
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ShardError(f"{path} has more than {MAX_INDEX_BYTES:,} bytes: it is no shard index")
    return parse_index(path.read_bytes(), str(path))


def parse_index(content: bytes, name: str) -> Index:
    """The index in the bytes of an `index.json`; `name` is what a complaint names.

    Raises:
        ShardError: It is not such an index.
    """
    try:
        return _INDEX_JSON.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        where = f" at {place}" if place else ""
        raise ShardError(
            f"{name} is no index of {FORMAT} version {VERSION}{where}: {first['msg']}"
        ) from error


def member_names(key: int, copies: int) -> list[str]:
    """The tar members of one block, in order; `key` counts blocks over the whole set."""
    parts = ["tokens", "lengths"]
    for copy in range(copies):
        parts += [f"inputs.{copy}", f"positions.{copy}"]
    return [f"{key:012d}.{part}.npy" for part in parts]


def encode_block(key: int, block: Block) -> bytes:
    """The tar members of one block, padding included: the same bytes on every machine."""
    arrays: list[npt.NDArray[Any]] = [block.tokens, block.lengths]
    for inputs, positions in zip(block.inputs, block.positions, strict=True):
        arrays += [inputs, positions]
    parts = []
    for name, array in zip(member_names(key, len(block.inputs)), arrays, strict=True):
        content = encode_npy(array)
        parts += [_tar_header(name, len(content)), content, bytes(-len(content) % _RECORD)]
    return b"".join(parts)


def decode_block(content: bytes, key: int, index: Index) -> Block:
    """The block that `encode_block` made these bytes of; its arrays are views of them.

    Raises:
        ValueError: The bytes are not such a block, or its lengths, ids or positions cannot be.
    """
    members = list(_split_tar(content, member_names(key, index.copies)))
    block = Block(
        tokens=_decode_npy(members[0], index.dtype),
        lengths=_decode_npy(members[1], length_dtype(index.seq_len)),
        inputs=tuple(_decode_npy(member, index.dtype) for member in members[2::2]),
        positions=tuple(_decode_npy(member, "uint32") for member in members[3::2]),
    )
    _check_lengths(block, index.seq_len)
    for ids in (block.tokens, *block.inputs):
        _check_ids(ids, len(block.tokens), index.vocab_size)
    for positions in block.positions:
        _check_positions(positions, len(block.tokens))
    return block


def encode_npy(array: npt.NDArray[Any]) -> bytes:
    """An array as the bytes of a `.npy` file, little-endian, C order, the same for ever."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return npy_header(array.dtype.name, array.shape) + array.tobytes()


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a `.npy` file, version 1.0 (NumPy Enhancement Proposal 1), in 128 bytes.

    Ours, not the library's: that one pads as its version likes, and its reader evaluates Python.
    """
    kind = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    length = NPY_HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()


def _decode_npy(content: memoryview, dtype: str) -> npt.NDArray[Any]:
    """A one-dimensional array of exactly this type and size: a view of `content`."""
    wanted = np.dtype(dtype).newbyteorder("<")
    count, rest = divmod(len(content) - NPY_HEADER_BYTES, wanted.itemsize)
    if count < 0 or rest or content[:NPY_HEADER_BYTES] != npy_header(dtype, (count,)):
        raise ValueError(f"a member is no .npy of {dtype}")
    return np.frombuffer(content, dtype=wanted, offset=NPY_HEADER_BYTES)


def _check_lengths(block: Block, seq_len: int) -> None:
    if len(block.lengths) == 0 or block.lengths.min() == 0:
        raise ValueError("it has a sequence without a token")
    if block.lengths.max() > seq_len:
        raise ValueError(f"it has a sequence of {block.lengths.max()} tokens, seq_len is {seq_len}")
    if block.lengths.sum(dtype=np.int64) != len(block.tokens):
        raise ValueError(f"its lengths do not sum to its {len(block.tokens)} tokens")


def _check_ids(ids: Ids, num_tokens: int, vocab_size: int) -> None:
    if len(ids) != num_tokens:
        raise ValueError(f"a masked copy has {len(ids)} tokens, the block {num_tokens}")
    if ids.max() >= vocab_size:
        place = int(ids.argmax())
        raise ValueError(f"token {place} has id {ids[place]}, the vocabulary only {vocab_size} ids")


def _check_positions(positions: Uint32s, num_tokens: int) -> None:
    ascending = bool((positions[1:] > positions[:-1]).all())
    if not ascending or (len(positions) > 0 and positions[-1] >= num_tokens):
        raise ValueError("the positions of a masked copy do not ascend inside the block")


def _tar_header(name: str, size: int) -> bytes:
    """A USTAR header: a plain file, mode 0444, user and group 0, time 0."""
    owner_size_time = b"0000444\0" + 2 * b"0000000\0" + b"%011o\0%011o\0" % (size, 0)
    head = name.encode("ascii").ljust(100, b"\0") + owner_size_time
    tail = (b"0" + bytes(100) + b"ustar\x0000").ljust(356, b"\0")
    return head + b"%06o\0 " % (sum(head) + 8 * ord(" ") + sum(tail)) + tail


def _split_tar(content: bytes, names: list[str]) -> Iterator[memoryview]:
    """The contents of exactly these members; every header is compared bit for bit."""
    view = memoryview(content)
    offset = 0
    for name in names:
        header = content[offset : offset + _RECORD]
        digits = header[124:135]
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else -1
        end = offset + _RECORD + size
        if size < 0 or header != _tar_header(name, size) or end > len(content):
            raise ValueError(f"the tar header of {name} is damaged")
        yield view[offset + _RECORD : end]
        offset = end + -size % _RECORD
    if offset != len(content):
        raise ValueError("its members do not have the size that blocks.npy says")
