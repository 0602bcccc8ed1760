"""The second pass: the rows of some buckets become the sequences of each split, in final order.

Sorted by (hash, tie, piece), so that nothing of the order of the input is left; a line equal to
an earlier one but for case is dropped; shuffled by seed inside each bucket; framed with special
tokens. A group of buckets is one task; what it holds in memory is six to ten times its rows.

    group file of a split:  lengths, uint32 | ids
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.data.rng import derive_key, permutation
from bertds.data.shards.format import Ids
from bertds.io.atomic import atomic_write
from data_prep.sharding.options import SequenceFormat
from data_prep.sharding.rows import (
    SPLITS,
    Int64s,
    Split,
    Table,
    TokenizedRows,
    buckets_of,
    is_valid,
    read_part,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatherTask:
    """A run of buckets.

    Attributes:
        group: The group's files are this path and `.json`, `.train`, `.valid`.
        buckets: First and end.
        parts: Every part file.
        dtype: Of the ids.
    """

    group: Path
    buckets: tuple[int, int]
    parts: tuple[Path, ...]
    dtype: str
    valid_fraction: float
    dedup: bool
    seed: int
    framing: SequenceFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFacts:
    """What a group holds of one split. `hash_sum` is that of its lines, modulo 2**64."""

    sequences: int
    tokens: int
    lines: int
    characters: int
    duplicates: int
    hash_sum: int


def gather(task: GatherTask) -> None:
    """Write a group's two split files, then its facts."""
    buckets = range(*task.buckets)
    rows = TokenizedRows.joined([read_part(part, buckets, task.dtype) for part in task.parts])
    order = np.lexsort((rows.table["piece"], rows.table["tie"], rows.table["hash"]))
    kept = _first_of_equals(rows.table[order]) if task.dedup else np.ones(len(order), dtype=bool)
    facts = {}
    for split in SPLITS:
        member = is_valid(rows.table["hash"][order], task.valid_fraction) == (split == "valid")
        dropped = rows.table[order[member & ~kept]]
        chosen = rows.take(order[member & kept])
        written = _write_split(task, split, chosen, int((dropped["piece"] == 0).sum()))
        facts[split] = asdict(written)
    with atomic_write(facts_path(task.group), concurrent_writers=True) as file:
        file.write(json.dumps(facts).encode())


def facts_path(group: Path) -> Path:
    """Where a group's facts are; they are written last."""
    return group.with_suffix(".json")


def split_path(group: Path, split: Split) -> Path:
    """Where a group's sequences of a split are."""
    return group.with_suffix(f".{split}")


def read_facts(group: Path, split: Split) -> GroupFacts:
    """What a group holds of a split."""
    return GroupFacts(**json.loads(facts_path(group).read_bytes())[split])


def read_lengths(group: Path, split: Split, sequences: int) -> npt.NDArray[np.uint32]:
    """The tokens in each of a group's sequences."""
    return np.fromfile(split_path(group, split), dtype="<u4", count=sequences)


def frame(tokens: Ids, lengths: Int64s, framing: SequenceFormat) -> tuple[Ids, Int64s]:
    """Rows as sequences: joined if asked for, with special tokens.

    Args:
        tokens: Ids of the rows end to end, shape [T].
        lengths: Tokens of each row, shape [S].
        framing: How.

    Returns:
        Ids and lengths of the sequences.
    """
    if not len(lengths):
        return tokens, lengths
    first = _sequence_starts(lengths, framing)
    special = framing.cls_id is not None
    prefix = first & special
    suffix = ~np.append(first[1:], True) | special  # after each document, or between joined ones
    widths = prefix + lengths + suffix
    starts = np.cumsum(widths) - widths
    framed: Ids = np.empty(int(widths.sum()), dtype=tokens.dtype)
    shift = starts + prefix - (np.cumsum(lengths) - lengths)
    framed[np.repeat(shift, lengths) + np.arange(len(tokens))] = tokens
    if framing.cls_id is not None:
        framed[starts[prefix]] = framing.cls_id
    if framing.sep_id is not None:
        framed[(starts + widths - 1)[suffix]] = framing.sep_id
    return framed, np.add.reduceat(widths, np.flatnonzero(first))


def _first_of_equals(table: Table) -> npt.NDArray[np.bool_]:
    """Which rows of a sorted table to keep: those of the first line of each hash."""
    hashes, ties, pieces = table["hash"], table["tie"], table["piece"]
    leads = np.append(True, hashes[1:] != hashes[:-1])[: len(table)]
    leader = np.maximum.accumulate(np.where(leads, np.arange(len(table)), 0))
    repeated = np.append(False, pieces[1:] == pieces[:-1])[: len(table)] & ~leads
    kept: npt.NDArray[np.bool_] = (ties == ties[leader]) & ~repeated
    return kept


def _write_split(
    task: GatherTask, split: Split, rows: TokenizedRows, duplicates: int
) -> GroupFacts:
    shuffled = rows.take(_shuffle(rows.table, task.seed))
    lengths = shuffled.table["length"].astype(np.int64)
    tokens, lengths = frame(shuffled.tokens, lengths, task.framing)
    with atomic_write(split_path(task.group, split), concurrent_writers=True) as file:
        file.write(lengths.astype("<u4").tobytes())
        file.write(tokens.tobytes())
    lines = rows.table[rows.table["piece"] == 0]
    return GroupFacts(
        sequences=len(lengths),
        tokens=len(tokens),
        lines=len(lines),
        characters=int(lines["characters"].sum(dtype=np.int64)),
        duplicates=duplicates,
        hash_sum=int(lines["hash"].sum(dtype=np.uint64)),
    )


def _shuffle(table: Table, seed: int) -> Int64s:
    """An order of the rows that stays inside each bucket and depends on seed and bucket."""
    buckets, starts, counts = np.unique(buckets_of(table), return_index=True, return_counts=True)
    parts = [
        start + permutation(derive_key(seed, int(bucket)), int(count))
        for bucket, start, count in zip(buckets, starts, counts, strict=True)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _sequence_starts(lengths: Int64s, framing: SequenceFormat) -> npt.NDArray[np.bool_]:
    """Which rows begin a sequence: greedily as many rows as fit, with a separator for each."""
    starts = np.ones(len(lengths), dtype=np.bool_)
    if framing.join == "none":
        return starts
    room = framing.seq_len + (1 if framing.cls_id is None else -1)
    used = 0
    for row, length in enumerate(lengths.tolist()):
        starts[row] = row == 0 or used + length + 1 > room
        used = length + 1 if starts[row] else used + length + 1
    return starts
