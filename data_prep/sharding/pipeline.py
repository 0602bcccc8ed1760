"""Text to shard sets: `DIR/train` and `DIR/valid`, the same bytes on any machine.

    sources --scatter--> parts, by bucket --gather--> groups, in order --merge--> shards, index

Every arrow is many independent tasks; what a task makes appears under its name when it is whole,
in `DIR/.work` or the scratch directory, so the same command continues an interrupted run. The split
and the order follow from a hash of each line; the bytes depend on text, tokenizer, seed and options
alone, not on who does the tasks: this process, others beside it, or a Dask cluster. Disk is about
three times the shards while it runs.

Memory is some 400 MiB a worker, 80 MiB and some ten times the rows of a group, at most 32 MiB, and
where words hardly repeat 200 MiB more for the table of those seen.
A row is 28 bytes and its ids, two bytes each or four. Groups cannot be more than the buckets, which
the bytes depend on, so from 32 GiB of rows on (some 10 billion tokens) it grows: 80 MiB and
10 / 1,024 of all rows, 10 GiB for 1 TiB. Copies of one line are all in one group, on top of that.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from bertds.data.shards.format import BLOCK_TOKENS, INDEX_NAME, Index, id_dtype, parse_index
from bertds.data.shards.writer import SetFacts, shard_name, write_index
from bertds.data.tokenizer import Tokenizer
from bertds.io.atomic import atomic_write
from data_prep.executors.dask import cluster_executor
from data_prep.executors.local import executor, run_tasks
from data_prep.output.manifest import MADE_NAME, write_manifest
from data_prep.output.storage import Output, output_of
from data_prep.readers.cleaning import no_text
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.readers.text import cut_chunks
from data_prep.sharding.options import SequenceFormat, ShardOptions, recipe_of, set_key_of
from data_prep.sharding.rows import HEADER_BYTES, NUM_BUCKETS, SPLITS, Split
from data_prep.sharding.shuffle import GatherTask, GroupFacts, facts_path, gather, read_facts
from data_prep.sharding.tokenize import UNMASKABLE, ScatterTask, counts_path, scatter
from data_prep.sharding.work_dir import begin, discard, work_dir_of, working
from data_prep.sharding.write import (
    MergeTask,
    is_merged,
    masker_of,
    merge,
    plan_shards,
    read_result,
)

GROUP_BYTES = 32 << 20
Task = TypeVar("Task")


def make_shards(
    inputs: Inputs | str,
    tokenizer_path: Path,
    out: Path | str,
    options: ShardOptions,
    workers: int,
    *,
    scheduler: str = "",
    scratch: Path | None = None,
) -> dict[Split, Index]:
    """Write `out/train` and, unless the fraction is 0, `out/valid`; a finished output is kept.

    Args:
        inputs: The text, see `open_sources`.
        tokenizer_path: A tokenizer.json.
        out: Where to: a directory or a URL.
        options: The shape.
        workers: Processes; of no account with a scheduler.
        scheduler: Address of a Dask cluster that does the tasks instead.
        scratch: Where the unfinished work is; `out/.work` if not given. The workers of a cluster
            must all see it.

    Returns:
        The index of each split.

    Raises:
        ValueError: An option or a file is not as it must be, or the text leaves a split empty.
        FileExistsError: `out` holds something else.
        RemoteError: A server does not give or take a file; the same command continues.
        LostWorkersError: Workers were lost; the same command continues.
    """
    tokenizer = Tokenizer.load(tokenizer_path)
    framing = options.framing(tokenizer)
    if options.masking is not None:
        masker_of(options.masking, tokenizer)  # what it refuses is refused before the work
    splits = SPLITS if options.valid_fraction else SPLITS[:1]
    output = output_of(out)
    with (
        working(output, work_dir_of(output, scratch)) as work,
        _pool(workers, scheduler, work) as (pool, num_tasks),
        open_sources(inputs, work, pool.map if scheduler else map) as sources,
    ):
        recipe = recipe_of(tokenizer, options, sources)
        if begin(output, work, recipe, splits):
            run = _Run(output, work, tokenizer, options, pool, num_tasks)
            run.scatter(sources, framing.max_row)
            run.gather(framing)
            facts = {split: run.set_facts(split) for split in splits}
            for split in splits:
                run.merge(split, facts[split])
            with output.open_directory("") as directory:
                write_manifest(directory / MADE_NAME, recipe, run.counts(splits))
            discard(work)
    return {split: _index_of(output, split) for split in splits}


def _pool(
    workers: int, scheduler: str, work: Path
) -> contextlib.AbstractContextManager[tuple[Executor, int]]:
    """Who does the tasks, and how many at once."""
    return cluster_executor(scheduler, work) if scheduler else _processes(workers)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[tuple[Executor, int]]:
    with executor(workers) as pool:
        yield pool, workers


def _index_of(output: Output, split: Split) -> Index:
    name = f"{split}/{INDEX_NAME}"
    return parse_index(output.at(name).read_bytes(), f"{output}/{name}")


@dataclass
class _Run:
    """One run: where things are, and its passes in order."""

    out: Output
    work: Path
    tokenizer: Tokenizer
    options: ShardOptions
    pool: Executor
    workers: int
    tokenizer_path: Path = field(init=False)
    parts: list[Path] = field(default_factory=list)
    groups: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A copy that all workers see; they remember tokenizers by path, so it is named by content.
        self.tokenizer_path = self.work / f"tokenizer-{self.tokenizer.fingerprint}.json"
        with atomic_write(self.tokenizer_path) as file:
            file.write(self.tokenizer.content)

    @property
    def dtype(self) -> str:
        return id_dtype(self.tokenizer.vocab_size)

    def scatter(self, sources: list[Source], max_tokens: int) -> None:
        """Raw text to parts."""
        (self.work / "parts").mkdir(exist_ok=True)
        total = sum(source.size for source in sources)
        with tqdm(
            total=total, desc=f"{self.out}: text", unit="B", unit_scale=True, disable=None
        ) as bar:
            tasks = self._scatter_tasks(sources, max_tokens, bar)
            for _ in run_tasks(self.pool, self.workers, scatter, tasks):
                pass
            bar.update(total - bar.n)

    def gather(self, framing: SequenceFormat) -> None:
        """Parts to groups of buckets; how many follows from the size of the parts."""
        (self.work / "groups").mkdir(exist_ok=True)
        # Of their rows: how many parts there are follows from the files that the text lies in.
        wanted = sum(part.stat().st_size - HEADER_BYTES for part in self.parts) // GROUP_BYTES
        num_groups = min(NUM_BUCKETS, max(8, 1 << wanted.bit_length()))
        width = NUM_BUCKETS // num_groups
        self.groups = [self.work / "groups" / f"{number:04d}" for number in range(num_groups)]
        tasks = [
            GatherTask(
                group=group,
                buckets=(number * width, (number + 1) * width),
                parts=tuple(self.parts),
                dtype=self.dtype,
                valid_fraction=self.options.valid_fraction,
                dedup=self.options.dedup,
                seed=self.options.seed,
                framing=framing,
            )
            for number, group in enumerate(self.groups)
        ]
        todo = [task for task in tasks if not facts_path(task.group).exists()]
        self._run(gather, todo, f"{self.out}: order")

    def merge(self, split: Split, facts: SetFacts) -> None:
        """Groups to the shards of one split, then its index."""
        (self.work / "shards").mkdir(exist_ok=True)
        tasks = self._merge_tasks(split, facts.set_key)
        todo = [task for task in tasks if not is_merged(task)]
        self._run(merge, todo, f"{self.out}/{split}: shards")
        self.out.remove_partial(split)
        with self.out.open_directory(split) as directory:
            write_index(directory, [read_result(task.result) for task in tasks], facts)

    def set_facts(self, split: Split) -> SetFacts:
        """What the index says of the set that the groups hold.

        Raises:
            ValueError: They hold none.
        """
        facts = self._facts(split)
        if not sum(each.sequences for each in facts):
            raise ValueError(
                no_text(self._text_counts())
                or f"the text is too small: no sequence falls into {self.out}/{split}; give more "
                "text, or another --valid_fraction (0 for no validation set)"
            )
        dropped = {
            "duplicate lines": sum(each.duplicates for each in facts),
            UNMASKABLE: self._text_counts()[f"{split} {UNMASKABLE}"],
        }
        hash_sum = sum(each.hash_sum for each in facts) % 2**64
        return SetFacts(
            tokenizer=self.tokenizer,
            seq_len=self.options.seq_len,
            special_tokens=self.options.special_tokens,
            set_key=set_key_of(self.tokenizer, self.options, split, hash_sum),
            masking=self.options.masking,
            characters=sum(each.characters for each in facts),
            lines=sum(each.lines for each in facts),
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def counts(self, splits: tuple[Split, ...]) -> dict[str, int]:
        """What was read, changed and dropped, over all splits."""
        counts = self._text_counts()
        for split in splits:
            facts = self._facts(split)
            counts["duplicate lines"] += sum(each.duplicates for each in facts)
            counts["lines kept"] += sum(each.lines for each in facts)
        return {name: count for name, count in sorted(counts.items()) if count}

    def _run(self, function: Callable[[Task], None], tasks: list[Task], title: str) -> None:
        results = run_tasks(self.pool, self.workers, function, tasks)
        for _ in tqdm(results, total=len(tasks), desc=title, disable=None if tasks else True):
            pass

    def _scatter_tasks(
        self, sources: list[Source], max_tokens: int, bar: "tqdm[Any]"
    ) -> Iterator[ScatterTask]:
        """A task for each chunk whose part is not there yet."""
        before = 0
        for source in sources:
            for chunk, position in cut_chunks(source):
                part = self.work / "parts" / f"{len(self.parts):08d}.bin"
                self.parts.append(part)
                if not part.exists():
                    yield ScatterTask(
                        path=part,
                        chunk=chunk,
                        kind=source.line_kind,
                        column=source.column,
                        tokenizer=self.tokenizer_path,
                        max_tokens=max_tokens,
                        valid_fraction=self.options.valid_fraction,
                    )
                bar.update(before + position - bar.n)
            before += source.size

    def _merge_tasks(self, split: Split, set_key: int) -> list[MergeTask]:
        plan = plan_shards(self.groups, split, self._blocks_per_shard())
        return [
            MergeTask(
                out=self.out,
                name=shard_name(number),
                result=self.work / "shards" / f"{split}-{number:06d}.json",
                split=split,
                first_block=first_block,
                first_sequence=first_sequence,
                spans=spans,
                tokenizer=self.tokenizer_path,
                dtype=self.dtype,
                seq_len=self.options.seq_len,
                set_key=set_key,
                masking=self.options.masking,
            )
            for number, (first_block, first_sequence, spans) in enumerate(plan)
        ]

    def _facts(self, split: Split) -> list[GroupFacts]:
        return [read_facts(group, split) for group in self.groups]

    def _text_counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update(json.loads(counts_path(part).read_bytes()))
        return counts

    def _blocks_per_shard(self) -> int:
        masking = self.options.masking
        copies = 0 if masking is None else masking.copies
        block_bytes = BLOCK_TOKENS * (2 if self.dtype == "uint16" else 4) * (1 + copies)
        return max(1, self.options.shard_bytes // block_bytes)
