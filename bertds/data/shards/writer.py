"""Writing shard sets: streamed in bounded memory, every file written atomically.

    lengths --cut_blocks--> blocks --write_shard--> tar files --write_index--> index.json

Every file is written as `.tmp-NAME…`, synced, then renamed. The index is written last, so a
directory with an index is a complete set. The bytes depend on the blocks only.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertds.data.shards.format import (
    BLOCK_TOKENS,
    BLOCKS_NAME,
    END_OF_TAR,
    FORMAT,
    INDEX_NAME,
    TOKENIZER_NAME,
    VERSION,
    Block,
    Index,
    Shard,
    StoredMasking,
    Uint32s,
    encode_block,
    encode_index,
    encode_npy,
    id_dtype,
)
from bertds.data.tokenizer import Tokenizer
from bertds.io.atomic import atomic_write

SHARD_BYTES = 256 << 20  # approximate size of a shard by default


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenShard:
    """A written shard: its entry in the index, and its (2, blocks) columns of `blocks.npy`."""

    shard: Shard
    blocks: Uint32s


@dataclass(frozen=True, kw_only=True, slots=True)
class SetFacts:
    """The metadata of a set that its index stores and its shards do not."""

    tokenizer: Tokenizer
    seq_len: int
    special_tokens: bool
    set_key: int
    masking: StoredMasking | None = None
    characters: int = 0
    lines: int = 0
    dropped: dict[str, int] | None = None


def cut_blocks(lengths: npt.NDArray[np.integer[Any]]) -> list[int]:
    """Cut sequences into blocks of at most `BLOCK_TOKENS` tokens.

    The cut is greedy, so a block does not depend on the sequences after it.

    Args:
        lengths: (S,) tokens of each sequence.

    Returns:
        For each block, one past the index of its last sequence.
    """
    sums = np.cumsum(lengths, dtype=np.int64)
    ends: list[int] = []
    start = before = 0
    while start < len(lengths):
        fitting = int(np.searchsorted(sums, before + BLOCK_TOKENS, side="right"))
        start = max(fitting, start + 1)
        before = int(sums[start - 1])
        ends.append(start)
    return ends


def write_shard(path: Path, first_block: int, blocks: Iterable[Block]) -> WrittenShard:
    """Write one shard.

    Args:
        path: The tar file.
        first_block: Number in the set of its first block.
        blocks: At least one block.
    """
    digest = hashlib.sha256()
    sequences: list[int] = []
    sizes: list[int] = []
    tokens = max_id = max_length = 0
    with atomic_write(path, concurrent_writers=True) as file:
        for key, block in enumerate(blocks, start=first_block):
            content = encode_block(key, block)
            file.write(content)
            digest.update(content)
            sequences.append(len(block.lengths))
            sizes.append(len(content))
            tokens += len(block.tokens)
            max_id = max(max_id, int(block.tokens.max()))
            max_length = max(max_length, int(block.lengths.max()))
        assert sizes, "a shard needs a block"
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
    shard = Shard(
        name=path.name,
        bytes=sum(sizes) + len(END_OF_TAR),
        sha256=digest.hexdigest(),
        sequences=sum(sequences),
        tokens=tokens,
        blocks=len(sizes),
        max_id=max_id,
        max_length=max_length,
    )
    return WrittenShard(shard=shard, blocks=np.array([sequences, sizes], dtype=np.uint32))


def write_index(directory: Path, written: list[WrittenShard], facts: SetFacts) -> Index:
    """Complete a set whose shards are written: write tokenizer, block table and index."""
    table = encode_npy(np.concatenate([part.blocks for part in written], axis=1))
    shards = tuple(part.shard for part in written)
    index = Index(
        format=FORMAT,
        version=VERSION,
        tokenizer=facts.tokenizer.fingerprint,
        vocab_size=facts.tokenizer.vocab_size,
        special_ids=facts.tokenizer.special_ids,
        unmaskable_ids=facts.tokenizer.unmaskable_ids,
        dtype=id_dtype(facts.tokenizer.vocab_size),
        seq_len=facts.seq_len,
        special_tokens=facts.special_tokens,
        set_key=f"{facts.set_key:016x}",
        masking=facts.masking,
        sequences=sum(shard.sequences for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        characters=facts.characters,
        lines=facts.lines,
        max_length=max(shard.max_length for shard in shards),
        dropped=facts.dropped or {},
        blocks_sha256=hashlib.sha256(table).hexdigest(),
        shards=shards,
    )
    files = {TOKENIZER_NAME: facts.tokenizer.content, BLOCKS_NAME: table}
    for name, content in {**files, INDEX_NAME: encode_index(index)}.items():
        with atomic_write(directory / name) as file:
            file.write(content)
    return index


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.tar"
