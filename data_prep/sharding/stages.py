"""The stages of `make_shards`: each makes the missing ones of its tasks, and runs them.

`tokenize.py`, `shuffle.py` and `write.py` have what one task does.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from bertds.data.shards.format import BLOCK_TOKENS, id_dtype
from bertds.data.shards.writer import SetFacts, shard_name, write_index
from bertds.data.tokenizer import Tokenizer
from bertds.io.atomic import atomic_write
from data_prep.executors.local import run_tasks
from data_prep.output.storage import Output
from data_prep.readers.counts import (
    DUPLICATE,
    HELD_OUT,
    KEPT,
    add_reader_counts,
    check_is_utf8,
    explain_nothing_kept,
)
from data_prep.readers.sources import Source
from data_prep.readers.text import cut_chunks
from data_prep.sharding.options import SequenceFormat, ShardOptions, compute_set_key
from data_prep.sharding.rows import HEADER_BYTES, NUM_BUCKETS, Split
from data_prep.sharding.shuffle import (
    GroupSummary,
    ShuffleTask,
    read_summary,
    shuffle_and_split,
    summary_path,
)
from data_prep.sharding.tokenize import UNMASKABLE, TokenizeTask, counts_path, tokenize_chunk
from data_prep.sharding.write import (
    WriteTask,
    is_written,
    plan_shards,
    read_masked_counts,
    read_written_shard,
    write_planned_shard,
)

GROUP_BYTES = 32 << 20
Task = TypeVar("Task")


@dataclass
class Stages:
    """The stages of one run, in order; `parts` and `groups` are the files between them.

    The first `num_split_parts` parts are split by hash, the others are the validation text.
    """

    output: Output
    work_dir: Path
    tokenizer: Tokenizer
    options: ShardOptions
    pool: Executor
    num_parallel: int
    tokenizer_path: Path = field(init=False)
    parts: list[Path] = field(default_factory=list)
    num_split_parts: int = 0
    groups: list[Path] = field(default_factory=list)
    column: str = ""
    by_readers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # All workers must see the tokenizer. They cache it by path, so the path names its content.
        self.tokenizer_path = self.work_dir / f"tokenizer-{self.tokenizer.fingerprint}.json"
        with atomic_write(self.tokenizer_path) as file:
            file.write(self.tokenizer.content)

    @property
    def dtype(self) -> str:
        """The dtype of stored ids."""
        return id_dtype(self.tokenizer.vocab_size)

    def tokenize(self, sources: list[Source], max_tokens: int, valid_fraction: float) -> None:
        """Stage 1: turn the chunks of all sources into parts."""
        (self.work_dir / "parts").mkdir(exist_ok=True)
        total = sum(source.size for source in sources)
        title = f"{self.output}: text"
        starts: list[int] = []
        with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
            tasks = self._tokenize_tasks(sources, max_tokens, valid_fraction, starts, bar)
            for _ in run_tasks(self.pool, self.num_parallel, tokenize_chunk, tasks):
                pass
            bar.update(total - bar.n)
        ends = [*starts, len(self.parts)][1:]
        for source, start, end in zip(sources, starts, ends, strict=True):
            check_is_utf8(source.path, _read_counts(self.parts[start:end]))

    def _tokenize_tasks(
        self,
        sources: list[Source],
        max_tokens: int,
        valid_fraction: float,
        starts: list[int],
        bar: "tqdm[Any]",
    ) -> Iterator[TokenizeTask]:
        """A task for each chunk whose part is missing; adds the first part of each source."""
        before = 0
        for source in sources:
            self.column = source.column
            starts.append(len(self.parts))
            for chunk, position in cut_chunks(source, self.by_readers):
                part = self.work_dir / "parts" / f"{len(self.parts):08d}.bin"
                self.parts.append(part)
                if not part.exists():
                    yield TokenizeTask(
                        path=part,
                        chunk=chunk,
                        kind=source.line_kind,
                        column=source.column,
                        tokenizer=self.tokenizer_path,
                        max_tokens=max_tokens,
                        valid_fraction=valid_fraction,
                    )
                bar.update(before + position - bar.n)
            before += source.size

    def shuffle_and_split(self, sequence_format: SequenceFormat) -> None:
        """Stage 2: turn the parts into groups of buckets."""
        (self.work_dir / "groups").mkdir(exist_ok=True)
        # Headers do not count: the number of parts depends on how the text is split into files.
        row_bytes = sum(part.stat().st_size - HEADER_BYTES for part in self.parts)
        num_groups = min(NUM_BUCKETS, max(8, 1 << (row_bytes // GROUP_BYTES).bit_length()))
        width = NUM_BUCKETS // num_groups
        self.groups = [self.work_dir / "groups" / f"{number:04d}" for number in range(num_groups)]
        tasks = [
            ShuffleTask(
                group=group,
                buckets=(number * width, (number + 1) * width),
                parts=tuple(self.parts[: self.num_split_parts]),
                valid_parts=tuple(self.parts[self.num_split_parts :]),
                dtype=self.dtype,
                valid_fraction=self.options.valid_fraction,
                dedup=self.options.dedup,
                seed=self.options.seed,
                sequence_format=sequence_format,
            )
            for number, group in enumerate(self.groups)
        ]
        missing = [task for task in tasks if not summary_path(task.group).exists()]
        self._run_stage(shuffle_and_split, missing, f"{self.output}: shuffle")

    def set_metadata(self, split: Split) -> SetFacts:
        """What the index of a split records of the text in its groups.

        Raises:
            ValueError: The groups hold no sequence of the split.
        """
        summaries = self._summaries(split)
        text_counts = self._text_counts()
        if not sum(summary.sequences for summary in summaries):
            held_out = sum(summary.held_out for summary in summaries)
            raise ValueError(
                explain_nothing_kept(text_counts, self.column)
                or (
                    held_out
                    and f"all {held_out:,} lines of the text are in the validation text too"
                )
                or f"the text is too small: {self.output}/{split} gets no sequence; give more "
                "text, or another --valid or --valid_fraction (0 for no validation set)"
            )
        dropped = {
            DUPLICATE: sum(summary.duplicates for summary in summaries),
            HELD_OUT: sum(summary.held_out for summary in summaries),
            UNMASKABLE: text_counts[f"{split} {UNMASKABLE}"],
        }
        hash_sum = sum(summary.hash_sum for summary in summaries) % 2**64
        return SetFacts(
            tokenizer=self.tokenizer,
            seq_len=self.options.seq_len,
            special_tokens=self.options.special_tokens,
            set_key=compute_set_key(self.tokenizer, self.options, split, hash_sum),
            masking=self.options.masking,
            characters=sum(summary.characters for summary in summaries),
            lines=sum(summary.lines for summary in summaries),
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def write_shards(self, split: Split, metadata: SetFacts) -> Counter[str]:
        """Stage 3: turn the groups into the shards of a split, then write its index.

        Returns:
            The numbers of masked and of maskable tokens in the pre-masked copies.
        """
        (self.work_dir / "shards").mkdir(exist_ok=True)
        num_copies = 0 if metadata.masking is None else metadata.masking.copies
        block_bytes = BLOCK_TOKENS * (2 if self.dtype == "uint16" else 4) * (1 + num_copies)
        blocks_per_shard = max(1, self.options.shard_bytes // block_bytes)
        tasks = [
            WriteTask(
                output=self.output,
                name=shard_name(number),
                result=self.work_dir / "shards" / f"{split}-{number:06d}.json",
                split=split,
                first_block=first_block,
                first_sequence=first_sequence,
                slices=slices,
                tokenizer=self.tokenizer_path,
                dtype=self.dtype,
                seq_len=metadata.seq_len,
                set_key=metadata.set_key,
                masking=metadata.masking,
            )
            for number, (first_block, first_sequence, slices) in enumerate(
                plan_shards(self.groups, split, blocks_per_shard)
            )
        ]
        missing = [task for task in tasks if not is_written(task)]
        self._run_stage(write_planned_shard, missing, f"{self.output}/{split}: shards")
        self.output.remove_partial(split)
        with self.output.open_directory(split) as directory:
            write_index(directory, [read_written_shard(task.result) for task in tasks], metadata)
        return sum((read_masked_counts(task.result) for task in tasks), Counter())

    def counts(self, splits: tuple[Split, ...]) -> dict[str, int]:
        """What was read, changed and dropped, over all splits."""
        counts = self._text_counts()
        for split in splits:
            summaries = self._summaries(split)
            counts[DUPLICATE] += sum(summary.duplicates for summary in summaries)
            counts[HELD_OUT] += sum(summary.held_out for summary in summaries)
            counts[KEPT] += sum(summary.lines for summary in summaries)
        return {name: count for name, count in sorted(counts.items()) if count}

    def _run_stage(self, function: Callable[[Task], None], tasks: list[Task], title: str) -> None:
        results = run_tasks(self.pool, self.num_parallel, function, tasks)
        for _ in tqdm(results, total=len(tasks), desc=title, disable=None if tasks else True):
            pass

    def _summaries(self, split: Split) -> list[GroupSummary]:
        return [read_summary(group, split) for group in self.groups]

    def _text_counts(self) -> Counter[str]:
        counts = _read_counts(self.parts)
        add_reader_counts(counts, self.by_readers)
        return counts


def _read_counts(parts: list[Path]) -> Counter[str]:
    """The sum of the counts of parts."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(json.loads(counts_path(part).read_bytes()))
    return counts
