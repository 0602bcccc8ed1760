"""The last pass: the sequences of all groups, end to end, become shards of blocks.

Blocks are cut greedily over the whole set and shards after a fixed number of blocks, so what a
shard holds follows from the lengths alone, and each is a task of its own. A shard's entry for the
index is kept beside the work, so that a finished shard is not made again.
"""

import dataclasses
import functools
import itertools
import json
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
from data_prep.sharding.shuffle import read_facts, read_lengths, split_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The sequences from `start` to `stop` of a group that has `sequences`."""

    group: Path
    sequences: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeTask:
    """One shard.

    Attributes:
        out: Where the splits are.
        name: The tar to write, in its split's directory there.
        result: Where its entry for the index goes.
        first_block: Number of its first block in the set.
        first_sequence: Ordinal of its first sequence in the set.
        spans: Its sequences.
        masking: The copies to make, if any.
    """

    out: Output
    name: str
    result: Path
    split: Split
    first_block: int
    first_sequence: int
    spans: tuple[Span, ...]
    tokenizer: Path
    dtype: str
    seq_len: int
    set_key: int
    masking: StoredMasking | None


def plan_shards(
    groups: list[Path], split: Split, blocks_per_shard: int
) -> Iterator[tuple[int, int, tuple[Span, ...]]]:
    """First block, first sequence and spans of each shard, from the lengths alone."""
    counts = [read_facts(group, split).sequences for group in groups]
    ends = np.cumsum([0, *counts])
    start = 0
    for number, end in enumerate(_shard_ends(groups, split, counts, blocks_per_shard)):
        spans = tuple(
            Span(group=group, sequences=count, start=max(0, start - at), stop=min(count, end - at))
            for group, count, at in zip(groups, counts, ends[:-1].tolist(), strict=True)
            if count and start < at + count and at < end
        )
        yield number * blocks_per_shard, start, spans
        start = end


def merge(task: MergeTask) -> None:
    """Write one shard, then its entry."""
    with task.out.open_directory(task.split) as directory:
        written = write_shard(directory / task.name, task.first_block, _blocks(task))
    content = {"shard": dataclasses.asdict(written.shard), "blocks": written.blocks.tolist()}
    with atomic_write(task.result, concurrent_writers=True) as file:
        file.write(json.dumps(content).encode())


def is_merged(task: MergeTask) -> bool:
    """Whether an earlier run finished this shard."""
    if not task.result.exists():
        return False
    size = read_result(task.result).shard.bytes
    return task.out.size(f"{task.split}/{task.name}") == size


def read_result(path: Path) -> WrittenShard:
    """The entry that `merge` kept."""
    content = json.loads(path.read_bytes())
    return WrittenShard(
        shard=Shard(**content["shard"]), blocks=np.array(content["blocks"], dtype=np.uint32)
    )


def masker_of(masking: StoredMasking, tokenizer: Tokenizer) -> Masker:
    """What makes the pre-masked copies."""
    rule = MaskRule(
        seed=masking.seed,
        ratio=masking.ratio,
        mask_share=masking.mask_share,
        random_share=masking.random_share,
        unit=masking.unit,
    )
    return Masker(
        rule,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.special_ids["mask"],
        unmaskable_ids=tokenizer.unmaskable_ids,
        word_starts=tokenizer.word_starts() if masking.unit == "word" else None,
    )


def _shard_ends(
    groups: list[Path], split: Split, counts: list[int], blocks_per_shard: int
) -> Iterator[int]:
    """The ordinal of the sequence after each shard's last."""
    ends = _block_ends(groups, split, counts)
    while block_ends := list(itertools.islice(ends, blocks_per_shard)):
        yield block_ends[-1]


def _block_ends(groups: list[Path], split: Split, counts: list[int]) -> Iterator[int]:
    """The ordinal of the sequence after each block's last, one group in memory at a time."""
    rest: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
    before = 0
    for group, count in zip(groups, counts, strict=True):
        lengths = np.concatenate([rest, read_lengths(group, split, count)])
        ends = cut_blocks(lengths)[:-1]  # the last one may go on in the next group
        yield from (before + end for end in ends)
        done = ends[-1] if ends else 0
        rest, before = lengths[done:], before + done
    if len(rest):
        yield before + len(rest)


def _blocks(task: MergeTask) -> Iterator[Block]:
    """The blocks of a shard, masked copies included."""
    lengths = np.concatenate([_span_lengths(span, task.split) for span in task.spans])
    lengths = lengths.astype(length_dtype(task.seq_len))
    stream = _Stream([_span_tokens(span, task) for span in task.spans])
    start = 0
    for end in cut_blocks(lengths):
        mine = lengths[start:end]
        tokens = stream.take(int(mine.sum(dtype=np.int64)))
        ordinals = np.arange(task.first_sequence + start, task.first_sequence + end)
        yield _with_copies(Block(tokens=tokens, lengths=mine), ordinals, task)
        start = end


def _with_copies(block: Block, ordinals: npt.NDArray[np.int64], task: MergeTask) -> Block:
    if task.masking is None:
        return block
    masker = _masker(task.masking, task.tokenizer)
    copies = []
    for copy in range(task.masking.copies):
        keys = sequence_keys(task.masking.seed, task.set_key, copy, ordinals)
        copies.append(masker.mask(block.tokens, block.lengths, keys))
    return dataclasses.replace(
        block,
        inputs=tuple(inputs.astype(task.dtype) for inputs, _ in copies),
        positions=tuple(positions.astype(np.uint32) for _, positions in copies),
    )


@functools.lru_cache(maxsize=2)
def _masker(masking: StoredMasking, tokenizer: Path) -> Masker:
    return masker_of(masking, Tokenizer.load(tokenizer))


def _span_lengths(span: Span, split: Split) -> npt.NDArray[np.uint32]:
    return read_lengths(span.group, split, span.sequences)[span.start : span.stop]


def _span_tokens(span: Span, task: MergeTask) -> Ids:
    """The ids of a span, mapped from the disk."""
    lengths = read_lengths(span.group, task.split, span.sequences)
    before = int(lengths[: span.start].sum(dtype=np.int64))
    count = int(lengths[span.start : span.stop].sum(dtype=np.int64))
    dtype = np.dtype(task.dtype).newbyteorder("<")
    offset = lengths.nbytes + before * dtype.itemsize
    return np.memmap(split_path(span.group, task.split), dtype, "r", offset, (count,))


class _Stream:
    """Arrays read from one end to the other as if they were one."""

    def __init__(self, arrays: list[Ids]) -> None:
        self._arrays = [array for array in reversed(arrays) if len(array)]
        self._at = 0

    def take(self, count: int) -> Ids:
        """The next `count` values."""
        pieces: list[Ids] = []
        while count:
            piece = self._arrays[-1][self._at : self._at + count]
            pieces.append(piece)
            count -= len(piece)
            self._at += len(piece)
            if self._at == len(self._arrays[-1]):
                self._arrays.pop()
                self._at = 0
        return np.concatenate(pieces)
