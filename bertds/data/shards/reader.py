"""Reading shard sets: random access to checked blocks.

`blocks.npy` gives the offset of each block, so reading a block is one `pread`. Memory is 16 bytes
for every 256 blocks, whatever the size of the corpus. From the page cache, one core reads about 800
million tokens/s. An error names the damaged shard and block.
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
    Uint32s,
    decode_block,
    npy_header,
    read_index,
)
from bertds.data.shards.storage import AbsentShardError, ShardDirectory, ShardFiles
from bertds.errors import RemoteError, ShardError

logger = logging.getLogger("bertds")

_MAX_BAD_BLOCKS = 1000  # in a row, bad shards not counted: then the whole set counts as damaged
_STRIDE = 256  # blocks between two stored partial sums


class ShardSet:
    """A shard set that is open for reading; it is thread-safe.

    Attributes:
        files: Its files.
        index: Its `index.json`.
        block_sequences: (blocks,) uint32 number of sequences of each block, memory-mapped.
        bad_shards: Numbers of the shards known to be missing or of the wrong size.
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
        self._logged_blocks: set[int] = set()

    @classmethod
    def open(cls, files: ShardFiles | Path, *, skips_bad: bool = False) -> Self:
        """Open a set; checks the index, the sizes of the files and the block table.

        Args:
            files: A directory, or other storage.
            skips_bad: Log a shard that is missing or of the wrong size instead of raising.

        Raises:
            ShardError: A file is missing, or contradicts the index.
        """
        files = ShardDirectory(files) if isinstance(files, Path) else files
        index = read_index(files.directory)
        shards = cls(files, index, _map_block_table(files.directory / BLOCKS_NAME, index))
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
        """A local directory with the index, the block table and the tokenizer."""
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
        """Return the index in the set of a block's first sequence; N for block `num_blocks`."""
        return self._sequence_sums.before(block)

    def shard_of(self, block: int) -> int:
        """Return the number of the shard that holds a block."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(f"block {block} of {self.num_blocks}")
        return bisect.bisect_right(self._first_blocks, block) - 1

    def blocks_of(self, shard: int) -> range:
        """Return the blocks of a shard."""
        return range(self._first_blocks[shard], self._first_blocks[shard + 1])

    def read_block(self, block: int) -> Block:
        """Read and check one block.

        Raises:
            ShardError: The shard is damaged; the message names shard and block.
            RemoteError: A shard behind a URL cannot be read.
        """
        shard = self.shard_of(block)
        size = int(self._block_bytes[block])
        start = self._byte_sums.before(block) - self._byte_sums.before(self._first_blocks[shard])
        try:
            content = self.files.read(self.index.shards[shard], start, size)
            if len(content) != size:
                raise ValueError(f"the file ends {size - len(content)} bytes early")
            decoded = decode_block(content, block, self.index)
            found, expected = len(decoded.lengths), self.block_sequences[block]
            if found != expected:
                raise ValueError(f"it has {found} sequences, {BLOCKS_NAME} lists {expected}")
        except RemoteError:
            raise
        except AbsentShardError as error:
            self.bad_shards.add(shard)
            self._fail(shard, str(error), error)
        except (ValueError, OSError) as error:
            self._fail(shard, f"block {block} is damaged ({error})", error)
        return decoded

    def read_block_or_substitute(self, block: int, num_blocks: int) -> tuple[int, Block]:
        """Read a block or, if it is damaged, the next intact one.

        The substitute depends only on the files, so every rank selects the same one.

        Args:
            block: The block to read.
            num_blocks: The first blocks of the set, which may substitute; the search wraps around.

        Returns:
            Number and content of the block that was read.

        Raises:
            ShardError: Too many blocks in a row are damaged, or all.
        """
        last_error: ShardError | None = None
        failures, number = 0, block
        for _ in range(num_blocks):
            if self.shard_of(number) not in self.bad_shards:
                try:
                    return number, self.read_block(number)
                except ShardError as error:
                    last_error, failures = error, failures + 1
                    if number not in self._logged_blocks:
                        self._logged_blocks.add(number)
                        logger.error("%s (its sequences are replaced by others)", error)
            if failures > _MAX_BAD_BLOCKS:
                break
            number = (number + 1) % num_blocks
        raise last_error or ShardError(f"{self.files}: all shards in use are damaged or missing")

    def _check_shard(self, number: int, shard: Shard) -> None:
        """Check a shard against the storage and the block table, without reading it."""
        try:
            self.files.check(shard)
        except AbsentShardError as error:
            self._fail(number, str(error), error)
        first, last = self._first_blocks[number], self._first_blocks[number + 1]
        sequences = self.first_sequence(last) - self.first_sequence(first)
        size = self._byte_sums.before(last) - self._byte_sums.before(first) + len(END_OF_TAR)
        if (sequences, size) != (shard.sequences, shard.bytes):
            self._fail(number, f"{BLOCKS_NAME} and the index disagree about it")

    def _fail(self, shard: int, problem: str, cause: Exception | None = None) -> NoReturn:
        name = self.index.shards[shard].name
        raise ShardError(
            f"{self.files}/{name}: {problem}; make or copy {self.files} again"
        ) from cause


class _StridedSums:
    """Prefix sums of a memory-mapped array; one in `_STRIDE` is kept in memory."""

    def __init__(self, values: Uint32s) -> None:
        starts = range(0, len(values), _STRIDE)
        sums = np.add.reduceat(values, starts, dtype=np.int64)
        self._values = values
        self._sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(sums)])

    def before(self, count: int) -> int:
        """Return the sum of the first `count` values."""
        whole = count // _STRIDE
        rest = self._values[whole * _STRIDE : count]
        return int(self._sums[whole]) + int(rest.sum(dtype=np.int64))


def _map_block_table(path: Path, index: Index) -> Uint32s:
    """Memory-map the block table, (2, blocks): sequences and bytes of each block."""
    shape = (2, sum(shard.blocks for shard in index.shards))
    header = npy_header("uint32", shape)
    is_valid = path.is_file() and path.stat().st_size == len(header) + 8 * shape[1]
    if is_valid:
        with path.open("rb") as file:
            is_valid = file.read(len(header)) == header
    if not is_valid:
        raise ShardError(
            f"{path} is not a table of {shape[1]} blocks, which the index expects; make or copy "
            f"{path.parent} again"
        )
    return np.asarray(np.memmap(path, "<u4", "r", len(header), shape))


def _check_totals(name: str, index: Index) -> None:
    """Check the totals of an index against its shards."""
    totals = (index.sequences, index.tokens, index.max_length)
    from_shards = (
        sum(shard.sequences for shard in index.shards),
        sum(shard.tokens for shard in index.shards),
        max(shard.max_length for shard in index.shards),
    )
    max_id = max(shard.max_id for shard in index.shards)
    if totals != from_shards or index.max_length > index.seq_len or max_id >= index.vocab_size:
        raise ShardError(
            f"{name}: the totals of its index.json do not agree with its shards; make the set again"
        )


def has_own_tokenizer(shards: ShardSet) -> bool:
    """Whether the tokenizer.json beside the shards, which must exist, is the index's."""
    content = (shards.directory / TOKENIZER_NAME).read_bytes()
    return hashlib.sha256(content).hexdigest() == shards.index.tokenizer
