"""The on-disk format of shard sets: encoding and decoding.

    data/50k/en/train/   index.json   blocks.npy   tokenizer.json   shard-000000.tar …

A *sequence* is one row of token ids. A *block* holds many sequences, at most 32,768 tokens. A
*shard* is a plain tar of blocks that any webdataset program reads. The blocks of a shard are
concatenated from byte 0. Each has the same members in the same order:

    000000000012.tokens.npy     concatenated ids, dtype from the index
    000000000012.lengths.npy    uint16; uint32 if seq_len > 65,535
    000000000012.inputs.K.npy, 000000000012.positions.K.npy      for each pre-masked copy K

`blocks.npy`, uint32 of shape (2, blocks), holds the number of sequences and of bytes of each block.
Decoding accepts only `.npy` of the expected type and size: no pickle, and no member that the index
does not name. Counts, lengths and ids of a block are checked when it is decoded, which takes 0.04
ms.
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
BLOCK_TOKENS = 32_768  # most tokens of a block, unless it holds one longer sequence
END_OF_TAR = bytes(1024)
MAX_INDEX_BYTES = 256 << 20  # a million shards
MAX_COPIES = 1000
NPY_HEADER_BYTES = 128
_RECORD = 512  # tar pads headers and contents to a multiple of this
_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(gt=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMasking:
    """The rule that pre-masked copies were made with: copy K has the masks of dataset epoch K."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    seed: int
    ratio: float
    mask_share: float
    random_share: float
    unit: Literal["token", "word"]
    copies: Annotated[int, Field(gt=0, le=MAX_COPIES)]
    version: Literal[1, 2] = 1


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

    Attributes:
        set_key: 16 hex digits that identify the content of the set; the masks depend on it.
        characters: Characters of the set's lines after normalisation.
        dropped: Number of dropped lines, by reason.
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
        """Number of pre-masked copies in each block."""
        return 0 if self.masking is None else self.masking.copies

    @property
    def bytes_per_token(self) -> float:
        """Bytes on disk per token, lengths and tar headers included."""
        return sum(shard.bytes for shard in self.shards) / self.tokens


_INDEX_JSON = TypeAdapter(Index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block: T tokens in S sequences, and the pre-masked copies.

    Attributes:
        tokens: (T,) concatenated ids.
        lengths: (S,) tokens of each sequence.
        inputs: For each copy, (T,) ids with masks applied.
        positions: For each copy, (M,) flat positions of the tokens to predict, ascending.
    """

    tokens: Ids
    lengths: Ids
    inputs: tuple[Ids, ...] = ()
    positions: tuple[Uint32s, ...] = ()


def length_dtype(seq_len: int) -> Literal["uint16", "uint32"]:
    """Return the dtype of stored lengths."""
    return "uint16" if seq_len <= np.iinfo(np.uint16).max else "uint32"


def id_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """Return the dtype of stored ids."""
    return "uint16" if vocab_size <= np.iinfo(np.uint16).max + 1 else "uint32"


def encode_index(index: Index) -> bytes:
    """Encode an index as the bytes of `index.json`."""
    # Defaults are left out: masking.version 1 is that of indexes which do not have the key.
    return _INDEX_JSON.dump_json(index, indent=1, exclude_defaults=True) + b"\n"


def read_index(directory: Path) -> Index:
    """Read and validate `index.json`; the shards are not looked at.

    Raises:
        ShardError: It is missing or invalid.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        raise ShardError(
            f"{path} does not exist: {directory} is not a finished shard set{_advice(directory)}"
        )
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ShardError(f"{path} has more than {MAX_INDEX_BYTES:,} bytes: it is not a shard index")
    return parse_index(path.read_bytes(), str(path))


def _advice(directory: Path) -> str:
    """Name the shard sets inside a directory, or the command that makes one."""
    inside = sorted(index.parent.name for index in directory.glob(f"*/{INDEX_NAME}"))
    if inside:
        return f", but contains some: name one of them, such as {directory / inside[0]}"
    return "; make one with python -m data_prep shard, or check --data and the name of the set"


def parse_index(content: bytes, name: str) -> Index:
    """Validate the bytes of an `index.json`; error messages name `name`.

    Raises:
        ShardError: It is invalid.
    """
    try:
        return _INDEX_JSON.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f" at {key}" if key else ""
        raise ShardError(
            f"{name} is not an index of {FORMAT} version {VERSION}{where}: {first['msg']}"
        ) from error


def member_names(key: int, copies: int) -> list[str]:
    """List the tar members of a block, in order; `key` is its number in the set."""
    parts = ["tokens", "lengths"]
    for copy in range(copies):
        parts += [f"inputs.{copy}", f"positions.{copy}"]
    return [f"{key:012d}.{part}.npy" for part in parts]


def encode_block(key: int, block: Block) -> bytes:
    """Encode a block as tar members; the bytes are the same on every machine."""
    arrays: list[npt.NDArray[Any]] = [block.tokens, block.lengths]
    for inputs, positions in zip(block.inputs, block.positions, strict=True):
        arrays += [inputs, positions]
    parts = []
    for name, array in zip(member_names(key, len(block.inputs)), arrays, strict=True):
        content = encode_npy(array)
        parts += [_tar_header(name, len(content)), content, bytes(-len(content) % _RECORD)]
    return b"".join(parts)


def decode_block(content: bytes, key: int, index: Index) -> Block:
    """Decode and check the bytes of one block; the arrays are views of the bytes.

    Raises:
        ValueError: The bytes are not a block, or its lengths, ids or positions are impossible.
    """
    members = list(_split_tar(content, member_names(key, index.copies)))
    block = Block(
        tokens=_decode_npy(members[0], index.dtype),
        lengths=_decode_npy(members[1], length_dtype(index.seq_len)),
        inputs=tuple(_decode_npy(member, index.dtype) for member in members[2::2]),
        positions=tuple(_decode_npy(member, "uint32") for member in members[3::2]),
    )
    _check_values(block, index)
    return block


def encode_npy(array: npt.NDArray[Any]) -> bytes:
    """Encode an array as the bytes of a `.npy` file: little-endian, C order."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return npy_header(array.dtype.name, array.shape) + array.tobytes()


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Build the header of a `.npy` file, version 1.0 (NumPy Enhancement Proposal 1), in 128 bytes.

    NumPy's writer is not used since its padding depends on the version, nor its reader since that
    evaluates Python.
    """
    kind = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    length = NPY_HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()


def _decode_npy(content: memoryview, dtype: str) -> npt.NDArray[Any]:
    """Decode a one-dimensional array of exactly this type and size, as a view of `content`."""
    little_endian = np.dtype(dtype).newbyteorder("<")
    count, rest = divmod(len(content) - NPY_HEADER_BYTES, little_endian.itemsize)
    if count < 0 or rest or content[:NPY_HEADER_BYTES] != npy_header(dtype, (count,)):
        raise ValueError(f"a member is not a .npy of {dtype}")
    return np.frombuffer(content, dtype=little_endian, offset=NPY_HEADER_BYTES)


def _check_values(block: Block, index: Index) -> None:
    """Check lengths, ids and positions of a block."""
    lengths, num_tokens = block.lengths, len(block.tokens)
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("it has a sequence without a token")
    if lengths.max() > index.seq_len:
        raise ValueError(
            f"it has a sequence of {lengths.max()} tokens, but seq_len is {index.seq_len}"
        )
    if lengths.sum(dtype=np.int64) != num_tokens:
        raise ValueError(f"its lengths do not sum to its {num_tokens} tokens")
    for ids in (block.tokens, *block.inputs):
        if len(ids) != num_tokens:
            raise ValueError(f"a masked copy has {len(ids)} tokens, but the block has {num_tokens}")
        if ids.max() >= index.vocab_size:
            token = int(ids.argmax())
            raise ValueError(
                f"token {token} has id {ids[token]}, but the vocabulary has {index.vocab_size} ids"
            )
    for positions in block.positions:
        ascending = bool((positions[1:] > positions[:-1]).all())
        if not ascending or (len(positions) > 0 and positions[-1] >= num_tokens):
            raise ValueError("the positions of a masked copy do not ascend inside the block")


def _tar_header(name: str, size: int) -> bytes:
    """Build a USTAR header: a regular file, mode 0444, user and group 0, time 0."""
    owner_size_time = b"0000444\0" + 2 * b"0000000\0" + b"%011o\0%011o\0" % (size, 0)
    head = name.encode("ascii").ljust(100, b"\0") + owner_size_time
    tail = (b"0" + bytes(100) + b"ustar\x0000").ljust(356, b"\0")
    return head + b"%06o\0 " % (sum(head) + 8 * ord(" ") + sum(tail)) + tail


def _split_tar(content: bytes, names: list[str]) -> Iterator[memoryview]:
    """Yield the contents of exactly these members; every header must match byte for byte."""
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
        raise ValueError("the size of its members differs from blocks.npy")
