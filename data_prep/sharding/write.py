"""Stage 3: writes the sequences of all groups as blocks in shards.

Blocks are cut greedily over the whole set, and each shard gets a fixed number of blocks. The
content of a shard therefore follows from the lengths alone, and each shard is an independent task.
The index entry of a shard is kept in the work directory, so a resumed run skips finished shards.
"""

import dataclasses
import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.data.masking import Masker, MaskRule, sequence_keys
from bertds.data.shards.format import Block, Ids, Shard, StoredMasking, length_dtype
from bertds.data.shards.writer import WrittenShard, cut_blocks, write_shard
from bertds.data.tokenizer import Tokenizer
from bertds.io.atomic import atomic_write
from data_prep.output.storage import Output
from data_prep.sharding.rows import Split
from data_prep.sharding.shuffle import read_lengths, read_summary, split_path


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSlice:
    """The sequences from `start` to `stop` of a group that has `sequences` in total."""

    group: Path
    sequences: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteTask:
    """One shard.

    Attributes:
        output: The directory or URL of all splits.
        name: File name of the shard in the directory of its split.
        result: Path of its index entry in the work directory.
        first_block: Number of its first block in the set.
        first_sequence: Index of its first sequence in the set.
        slices: The groups' sequences that it consists of.
        masking: The pre-masked copies to store, or None.
    """

    output: Output
    name: str
    result: Path
    split: Split
    first_block: int
    first_sequence: int
    slices: tuple[GroupSlice, ...]
    tokenizer: Path
    dtype: str
    seq_len: int
    set_key: int
    masking: StoredMasking | None


def plan_shards(
    groups: list[Path], split: Split, blocks_per_shard: int
) -> Iterator[tuple[int, int, tuple[GroupSlice, ...]]]:
    """The first block, first sequence and slices of each shard, from the lengths alone."""
    counts = [read_summary(group, split).sequences for group in groups]
    group_starts = np.cumsum([0, *counts])[:-1].tolist()
    block_ends = _block_ends(groups, split, counts)
    first_block = start = 0
    while shard_block_ends := list(itertools.islice(block_ends, blocks_per_shard)):
        end = shard_block_ends[-1]
        slices = tuple(
            GroupSlice(
                group=group,
                sequences=count,
                start=max(0, start - group_start),
                stop=min(count, end - group_start),
            )
            for group, count, group_start in zip(groups, counts, group_starts, strict=True)
            if count and start < group_start + count and group_start < end
        )
        yield first_block, start, slices
        first_block += blocks_per_shard
        start = end


def write_planned_shard(task: WriteTask) -> None:
    """Write one shard, then its index entry."""
    counts: Counter[str] = Counter()
    with task.output.open_directory(task.split) as directory:
        written = write_shard(directory / task.name, task.first_block, _blocks(task, counts))
    content = {
        "shard": dataclasses.asdict(written.shard),
        "blocks": written.blocks.tolist(),
        "masked": counts["masked"],
        "maskable": counts["maskable"],
    }
    with atomic_write(task.result, concurrent_writers=True) as file:
        file.write(json.dumps(content).encode())


def is_written(task: WriteTask) -> bool:
    """Whether an interrupted run already wrote this shard."""
    if not task.result.exists():
        return False
    size = read_written_shard(task.result).shard.bytes
    return task.output.size(f"{task.split}/{task.name}") == size


def read_written_shard(path: Path) -> WrittenShard:
    """Read the index entry that `write_planned_shard` stored."""
    content = json.loads(path.read_bytes())
    return WrittenShard(
        shard=Shard(**content["shard"]), blocks=np.array(content["blocks"], dtype=np.uint32)
    )


def read_masked_counts(path: Path) -> Counter[str]:
    """Read the numbers of masked and of maskable tokens in all copies of a shard."""
    content = json.loads(path.read_bytes())
    return Counter({name: content.get(name, 0) for name in ("masked", "maskable")})


def build_masker(masking: StoredMasking, tokenizer: Tokenizer) -> Masker:
    """The masker of pre-masked copies."""
    return Masker(
        MaskRule.of(masking),
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.special_ids["mask"],
        unmaskable_ids=tokenizer.unmaskable_ids,
        word_starts=tokenizer.word_starts() if masking.unit == "word" else None,
    )


def _block_ends(groups: list[Path], split: Split, counts: list[int]) -> Iterator[int]:
    """The index of the sequence after each block, with one group in memory at a time."""
    rest: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
    before = 0
    for group, count in zip(groups, counts, strict=True):
        lengths = np.concatenate([rest, read_lengths(group, split, count)])
        ends = cut_blocks(lengths)[:-1]  # the last block may extend into the next group
        yield from (before + end for end in ends)
        done = ends[-1] if ends else 0
        rest, before = lengths[done:], before + done
    if len(rest):
        yield before + len(rest)


def _blocks(task: WriteTask, counts: Counter[str]) -> Iterator[Block]:
    """The blocks of a shard, with their masked copies; counts the tokens of the copies."""
    slice_lengths = [
        read_lengths(part.group, task.split, part.sequences)[part.start : part.stop]
        for part in task.slices
    ]
    lengths = np.concatenate(slice_lengths).astype(length_dtype(task.seq_len))
    stream = _TokenStream([_slice_tokens(part, task) for part in task.slices])
    start = 0
    for end in cut_blocks(lengths):
        tokens = stream.read(int(lengths[start:end].sum(dtype=np.int64)))
        block = Block(tokens=tokens, lengths=lengths[start:end])
        if task.masking is not None:
            indexes = np.arange(task.first_sequence + start, task.first_sequence + end)
            masker = _cached_masker(task.masking, task.tokenizer)
            block = _add_masked_copies(block, indexes, task, masker, task.masking.copies)
            counts["masked"] += sum(len(positions) for positions in block.positions)
            counts["maskable"] += masker.count_maskable(tokens) * task.masking.copies
        yield block
        start = end


def _add_masked_copies(
    block: Block, indexes: npt.NDArray[np.int64], task: WriteTask, masker: Masker, copies: int
) -> Block:
    """Add the pre-masked copies; `indexes` are the indexes of the sequences in the set."""
    masked = []
    for copy in range(copies):
        keys = sequence_keys(masker.rule.seed, task.set_key, copy, indexes)
        masked.append(masker.mask(block.tokens, block.lengths, keys))
    return dataclasses.replace(
        block,
        inputs=tuple(inputs.astype(task.dtype) for inputs, _ in masked),
        positions=tuple(positions.astype(np.uint32) for _, positions in masked),
    )


@functools.lru_cache(maxsize=2)
def _cached_masker(masking: StoredMasking, tokenizer: Path) -> Masker:
    return build_masker(masking, Tokenizer.load(tokenizer))


def _slice_tokens(part: GroupSlice, task: WriteTask) -> Ids:
    """The ids of a slice, memory-mapped."""
    lengths = read_lengths(part.group, task.split, part.sequences)
    before = int(lengths[: part.start].sum(dtype=np.int64))
    count = int(lengths[part.start : part.stop].sum(dtype=np.int64))
    dtype = np.dtype(task.dtype).newbyteorder("<")
    offset = lengths.nbytes + before * dtype.itemsize
    return np.memmap(split_path(part.group, task.split), dtype, "r", offset, (count,))


class _TokenStream:
    """Reads several arrays in order, as if they were concatenated."""

    def __init__(self, arrays: list[Ids]) -> None:
        self._arrays = [array for array in reversed(arrays) if len(array)]
        self._position = 0  # in the last array, which is the current one

    def read(self, count: int) -> Ids:
        """The next `count` values."""
        pieces: list[Ids] = []
        while count:
            piece = self._arrays[-1][self._position : self._position + count]
            pieces.append(piece)
            count -= len(piece)
            self._position += len(piece)
            if self._position == len(self._arrays[-1]):
                self._arrays.pop()
                self._position = 0
        return np.concatenate(pieces)
