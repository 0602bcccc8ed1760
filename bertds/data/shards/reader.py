"""Reading shard sets: any block at any time, in any process, checked.

`blocks.npy` tells where each block lies, so that reading one is one `pread` at a computed offset.
Some 800 million tokens a second come from the page cache on one core; memory is 16 bytes for
each 256 blocks, whatever the size of the corpus. What is damaged is named: shard, block, fault.
"""

import bisect
import hashlib
import logging
from pathlib import Path
from typing import NoReturn, Self

import numpy as np

from bertds.data.shards.format import (
    BLOCKS_NAME,
    END_OF_TAR,
    TOKENIZER_NAME,
    Block,
    Index,
    Shard,
    StoredMasking,
    Uint32s,
    decode_block,
    npy_header,
    read_index,
)
from bertds.data.shards.storage import AbsentShardError, ShardDirectory, ShardFiles
from bertds.errors import RemoteError, ShardError

logger = logging.getLogger("bertds")

__all__ = ["Block", "Index", "Shard", "ShardError", "ShardSet", "StoredMasking"]
_MOST_BAD_BLOCKS = 1000  # in a row, beyond shards known to be bad: then the whole set is
_STRIDE = 256  # blocks between two remembered sums


class ShardSet:
    """A shard set that is open for reading; threads may share it.

    Attributes:
        files: Where it is.
        index: Its `index.json`.
        block_sequences: Sequences of each block, uint32 of shape [blocks], mapped from the disk.
        bad_shards: Numbers of those that are missing or of another size, as far as is known.
    """

    def __init__(self, files: ShardFiles, index: Index, blocks: Uint32s) -> None:
        self.files = files
        self.index = index
        self.block_sequences: Uint32s = blocks[0]
        self._block_bytes: Uint32s = blocks[1]
        self._sequence_sums = _StridedSums(self.block_sequences)
        self._byte_sums = _StridedSums(self._block_bytes)
        counts = [shard.blocks for shard in index.shards]
        self._first_blocks: list[int] = [0, *np.cumsum(counts).tolist()]
        self.bad_shards: set[int] = set()
        self._named: set[int] = set()

    @classmethod
    def open(cls, files: ShardFiles | Path, *, skips_bad: bool = False) -> Self:
        """Open a set: the index, the sizes of its files and the sums of its blocks are checked.

        Args:
            files: Where it is, a directory for example.
            skips_bad: Name shards that are missing or of another size, instead of refusing them.

        Raises:
            ShardError: Something is missing, or does not belong together; one sentence names it.
        """
        files = ShardDirectory(files) if isinstance(files, Path) else files
        index = read_index(files.directory)
        shards = cls(files, index, _read_blocks(files.directory / BLOCKS_NAME, index))
        for number, shard in enumerate(index.shards):
            try:
                shards._check_shard(number, shard)
            except ShardError as error:
                if not skips_bad or len(shards.bad_shards) == len(index.shards) - 1:
                    raise
                logger.error("%s (its sequences are replaced by others)", error)
                shards.bad_shards.add(number)
        _check_totals(str(files), index)
        return shards

    @property
    def directory(self) -> Path:
        """The directory of this machine with its index, block table and tokenizer."""
        return self.files.directory

    @property
    def num_sequences(self) -> int:
        """Sequences in the set."""
        return self.index.sequences

    @property
    def num_blocks(self) -> int:
        """Blocks in the set."""
        return self._first_blocks[-1]

    def first_sequence(self, block: int) -> int:
        """The ordinal in the set of a block's first sequence; that of `num_blocks` is their sum."""
        return self._sequence_sums.before(block)

    def shard_of(self, block: int) -> int:
        """The number of the shard that holds a block."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(f"block {block} of {self.num_blocks}")
        return bisect.bisect_right(self._first_blocks, block) - 1

    def blocks_of(self, shard: int) -> range:
        """The blocks of a shard."""
        return range(self._first_blocks[shard], self._first_blocks[shard + 1])

    def read_block(self, block: int) -> Block:
        """Read and check one block.

        Raises:
            ShardError: The shard is damaged; names shard and block.
            RemoteError: It is behind a URL and cannot be reached.
        """
        shard = self.shard_of(block)
        size = int(self._block_bytes[block])
        start = self._byte_sums.before(block) - self._byte_sums.before(self._first_blocks[shard])
        try:
            content = self.files.read(self.index.shards[shard], start, size)
            if len(content) != size:
                raise ValueError(f"the file ends {size - len(content)} bytes early")
            found = decode_block(content, block, self.index)
            if len(found.lengths) != self.block_sequences[block]:
                raise ValueError(f"it has {len(found.lengths)} sequences, {BLOCKS_NAME} says other")
        except RemoteError:
            raise
        except AbsentShardError as error:
            self.bad_shards.add(shard)
            self._fail(shard, str(error), error)
        except (ValueError, OSError) as error:
            self._fail(shard, f"block {block} is damaged ({error})", error)
        return found

    def read_block_or_substitute(self, block: int, num_blocks: int) -> tuple[int, Block]:
        """A block, or else the next one that is whole, among the first ones of the set.

        Which one that is depends on the files alone, so every process finds the same.

        Args:
            block: The one that is wanted.
            num_blocks: How many of the first blocks may stand in; after the last comes the first.

        Returns:
            Its number and content.

        Raises:
            ShardError: There is none far and wide.
        """
        failed: ShardError | None = None
        tries, number = 0, block
        for _ in range(num_blocks):
            if self.shard_of(number) not in self.bad_shards:
                try:
                    return number, self.read_block(number)
                except ShardError as error:
                    failed, tries = error, tries + 1
                    self._name(number, error)
            if tries > _MOST_BAD_BLOCKS:
                break
            number = (number + 1) % num_blocks
        raise failed or ShardError(f"{self.files} has no whole shard among those that are used")

    def _name(self, block: int, error: ShardError) -> None:
        """Say it, once a block."""
        if block not in self._named:
            self._named.add(block)
            logger.error("%s (its sequences are replaced by others)", error)

    def _check_shard(self, number: int, shard: Shard) -> None:
        try:
            self.files.check(shard)
        except AbsentShardError as error:
            self._fail(number, str(error), error)
        first, last = self._first_blocks[number], self._first_blocks[number + 1]
        sequences = self.first_sequence(last) - self.first_sequence(first)
        size = self._byte_sums.before(last) - self._byte_sums.before(first) + len(END_OF_TAR)
        if (sequences, size) != (shard.sequences, shard.bytes):
            self._fail(number, f"{BLOCKS_NAME} and the index do not agree about it")

    def _fail(self, shard: int, what: str, cause: Exception | None = None) -> NoReturn:
        name = self.index.shards[shard].name
        raise ShardError(f"{self.files}/{name}: {what}; make or copy {self.files} again") from cause


class _StridedSums:
    """Sums of the first n values of a mapped array, remembered every `_STRIDE` values."""

    def __init__(self, values: Uint32s) -> None:
        starts = range(0, len(values), _STRIDE)
        sums = np.add.reduceat(values, starts, dtype=np.int64)
        self._values = values
        self._sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(sums)])

    def before(self, count: int) -> int:
        """The sum of the first `count` values."""
        whole = count // _STRIDE
        rest = self._values[whole * _STRIDE : count]
        return int(self._sums[whole]) + int(rest.sum(dtype=np.int64))


def _read_blocks(path: Path, index: Index) -> Uint32s:
    """The block table, mapped: sequences and bytes of each block, [2, blocks]."""
    shape = (2, sum(shard.blocks for shard in index.shards))
    header = npy_header("uint32", shape)
    size = len(header) + 8 * shape[1]
    if not path.is_file() or path.stat().st_size != size or _head(path, len(header)) != header:
        raise ShardError(
            f"{path} is not the table of {shape[1]} blocks that the index wants; make or copy "
            f"{path.parent} again"
        )
    return np.asarray(np.memmap(path, "<u4", "r", len(header), shape))


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _check_totals(place: str, index: Index) -> None:
    """The whole of the index against its parts."""
    wholes = (index.sequences, index.tokens, index.max_length)
    parts = (
        sum(shard.sequences for shard in index.shards),
        sum(shard.tokens for shard in index.shards),
        max(shard.max_length for shard in index.shards),
    )
    top_id = max(shard.max_id for shard in index.shards)
    if wholes != parts or index.max_length > index.seq_len or top_id >= index.vocab_size:
        raise ShardError(
            f"{place}: the totals of its index.json do not agree with its shards; make the set again"
        )


def has_own_tokenizer(shards: ShardSet) -> bool:
    """Whether the tokenizer.json beside the shards, which must be there, is the index's."""
    content = (shards.directory / TOKENIZER_NAME).read_bytes()
    return hashlib.sha256(content).hexdigest() == shards.index.tokenizer
