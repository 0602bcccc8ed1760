"""Stage 2: shuffles the rows of a group of buckets and splits them into train and valid sequences.

1. Read the rows of the group from all parts and sort them by (hash, tie, piece). The result does
   not depend on the order of the input.
2. Drop duplicates: lines that equal an earlier line, ignoring case. With a validation text, drop
   the training lines that equal one of its lines.
3. Split the rows by hash, and shuffle each split inside each bucket with the seed.
4. Join rows into sequences and add the special tokens.

One group is one task. It needs six to ten times the memory of its rows.

    group file of a split:  lengths, uint32 | ids
"""

import json
from dataclasses import asdict, dataclass, replace
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
    bucket_numbers,
    is_validation,
    read_part,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffleTask:
    """One group of consecutive buckets.

    Attributes:
        group: Path of the group's files, without their suffixes `.json`, `.train` and `.valid`.
        buckets: The first bucket, and the one after the last.
        parts: All part files of the text that is split by hash.
        valid_parts: The part files of the validation text, if the user gave one.
        dtype: Type of the ids.
    """

    group: Path
    buckets: tuple[int, int]
    parts: tuple[Path, ...]
    valid_parts: tuple[Path, ...]
    dtype: str
    valid_fraction: float
    dedup: bool
    seed: int
    sequence_format: SequenceFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSummary:
    """Counts of one split of a group.

    Attributes:
        hash_sum: Sum of the hashes of its lines, modulo 2**64.
        held_out: Number of lines dropped because the validation text has them.
    """

    sequences: int
    tokens: int
    lines: int
    characters: int
    duplicates: int
    hash_sum: int
    held_out: int = 0


def shuffle_and_split(task: ShuffleTask) -> None:
    """Write the sequences of each split of a group, then the summary of the group."""
    rows, is_valid = _read_rows(task)
    table = rows.table
    # Among equal lines, those of the validation text come first. A split by hash does not part them.
    order = np.lexsort((table["piece"], table["tie"], ~is_valid, table["hash"]))
    table, is_valid = table[order], is_valid[order]
    is_held_out = ~is_valid & is_valid[_first_of_hash(table)]
    kept = ~is_held_out & (_not_duplicates(table) if task.dedup else True)
    is_line = table["piece"] == 0
    summaries = {}
    for split in SPLITS:
        in_split = is_valid == (split == "valid")
        summary = _write_split(task, split, rows.take(order[in_split & kept]))
        held_out = int((in_split & is_held_out & is_line).sum())
        dropped = int((in_split & ~kept & is_line).sum())
        summary = replace(summary, duplicates=dropped - held_out, held_out=held_out)
        summaries[split] = asdict(summary)
    with atomic_write(summary_path(task.group), concurrent_writers=True) as file:
        file.write(json.dumps(summaries).encode())


def _read_rows(task: ShuffleTask) -> tuple[TokenizedRows, npt.NDArray[np.bool_]]:
    """The rows of the group, and which of them belong to the validation split."""
    buckets = range(*task.buckets)
    paths = (*task.parts, *task.valid_parts)
    parts = [read_part(path, buckets, task.dtype) for path in paths]
    rows = TokenizedRows.concatenate(parts)
    is_valid = is_validation(rows.table["hash"], task.valid_fraction)
    is_valid[sum(len(part.table) for part in parts[: len(task.parts)]) :] = True
    return rows, is_valid


def summary_path(group: Path) -> Path:
    """Path of a group's summary, the last of its files to be written."""
    return group.with_suffix(".json")


def split_path(group: Path, split: Split) -> Path:
    """Path of a group's sequences of a split."""
    return group.with_suffix(f".{split}")


def read_summary(group: Path, split: Split) -> GroupSummary:
    """Read the counts of one split of a group."""
    return GroupSummary(**json.loads(summary_path(group).read_bytes())[split])


def read_lengths(group: Path, split: Split, sequences: int) -> npt.NDArray[np.uint32]:
    """Read the number of tokens of each of a group's sequences."""
    return np.fromfile(split_path(group, split), dtype="<u4", count=sequences)


def format_sequences(
    tokens: Ids, lengths: Int64s, sequence_format: SequenceFormat
) -> tuple[Ids, Int64s]:
    """Make sequences of rows: join short ones if the format says so, and add special tokens.

    Args:
        tokens: Concatenated ids of the rows, shape [T].
        lengths: Number of tokens of each row, shape [S].
        sequence_format: The special tokens, the maximum length and whether to join.

    Returns:
        Concatenated ids of the sequences, and the number of tokens of each.
    """
    if not len(lengths):
        return tokens, lengths
    is_first = _starts_sequence(lengths, sequence_format)
    has_special_tokens = sequence_format.cls_id is not None
    has_cls = is_first & has_special_tokens
    # [SEP] ends each row, or only separates joined rows if there are no other special tokens.
    has_sep = ~np.append(is_first[1:], True) | has_special_tokens
    widths = has_cls + lengths + has_sep
    starts = np.cumsum(widths) - widths
    formatted: Ids = np.empty(int(widths.sum()), dtype=tokens.dtype)
    shift = starts + has_cls - (np.cumsum(lengths) - lengths)
    formatted[np.repeat(shift, lengths) + np.arange(len(tokens))] = tokens
    if sequence_format.cls_id is not None:
        formatted[starts[has_cls]] = sequence_format.cls_id
    if sequence_format.sep_id is not None:
        formatted[(starts + widths - 1)[has_sep]] = sequence_format.sep_id
    return formatted, np.add.reduceat(widths, np.flatnonzero(is_first))


def _not_duplicates(table: Table) -> npt.NDArray[np.bool_]:
    """Which rows of a sorted table to keep: for each hash, the rows of the first line with it."""
    ties, pieces = table["tie"], table["piece"]
    first = _first_of_hash(table)
    is_first = first == np.arange(len(table))
    # The rows of equal lines are adjacent and ordered by piece.
    is_repeated = np.append(False, pieces[1:] == pieces[:-1])[: len(table)] & ~is_first
    kept: npt.NDArray[np.bool_] = (ties == ties[first]) & ~is_repeated
    return kept


def _first_of_hash(table: Table) -> Int64s:
    """For each row of a sorted table, the number of the first row with the same hash."""
    hashes = table["hash"]
    is_first = np.append(True, hashes[1:] != hashes[:-1])[: len(table)]
    return np.maximum.accumulate(np.where(is_first, np.arange(len(table)), 0))


def _write_split(task: ShuffleTask, split: Split, rows: TokenizedRows) -> GroupSummary:
    """Shuffle the sorted rows of a split, make sequences of them and write these."""
    shuffled = rows.take(_shuffled_order(rows.table, task.seed))
    row_lengths = shuffled.table["length"].astype(np.int64)
    tokens, lengths = format_sequences(shuffled.tokens, row_lengths, task.sequence_format)
    with atomic_write(split_path(task.group, split), concurrent_writers=True) as file:
        file.write(lengths.astype("<u4").tobytes())
        file.write(tokens.tobytes())
    lines = rows.table[rows.table["piece"] == 0]
    return GroupSummary(
        sequences=len(lengths),
        tokens=len(tokens),
        lines=len(lines),
        characters=int(lines["characters"].sum(dtype=np.int64)),
        duplicates=0,
        hash_sum=int(lines["hash"].sum(dtype=np.uint64)),
    )


def _shuffled_order(table: Table, seed: int) -> Int64s:
    """A permutation of the rows inside each bucket, keyed by the seed and the bucket."""
    buckets, starts, counts = np.unique(
        bucket_numbers(table), return_index=True, return_counts=True
    )
    parts = [
        start + permutation(derive_key(seed, int(bucket)), int(count))
        for bucket, start, count in zip(buckets, starts, counts, strict=True)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _starts_sequence(lengths: Int64s, sequence_format: SequenceFormat) -> npt.NDArray[np.bool_]:
    """Which rows start a sequence.

    If documents are joined, a sequence takes rows greedily: as long as the next one fits, with a
    separator.
    """
    starts = np.ones(len(lengths), dtype=np.bool_)
    if sequence_format.join == "none":
        return starts
    # Each row counts with one [SEP]. [CLS] takes one token; without it the last row has no [SEP].
    capacity = sequence_format.seq_len + (1 if sequence_format.cls_id is None else -1)
    used = 0
    for row, length in enumerate(lengths.tolist()):
        starts[row] = row == 0 or used + length + 1 > capacity
        used = length + 1 if starts[row] else used + length + 1
    return starts
