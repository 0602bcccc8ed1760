"""The first pass: a chunk of raw text becomes rows of ids, grouped by bucket, in one part file.

A part depends on its chunk and the options alone, and appears under its name when it is whole, so
that after an interruption only the missing ones are made.
"""

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bertds.data.rng import Uint64s
from bertds.data.tokenizer import Tokenizer
from bertds.io.atomic import atomic_write
from data_prep.readers.cleaning import clean_lines
from data_prep.readers.text import FileRange
from data_prep.sharding.encoder import LineEncoder
from data_prep.sharding.rows import ROW, Int64s, TokenizedRows, is_valid, write_part

UNMASKABLE = "sequences without a maskable token"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterTask:
    """One chunk of text.

    Attributes:
        path: The part file to write; its counts go beside it.
        chunk: Whole lines, raw, or where they lie.
        kind: What a line is.
        column: The field of the text, of JSON lines.
        tokenizer: The tokenizer.json.
        max_tokens: A longer line is cut into pieces of so many.
        valid_fraction: For the counts of each split.
    """

    path: Path
    chunk: bytes | FileRange
    kind: Literal["lines", "jsonl"]
    column: str
    tokenizer: Path
    max_tokens: int
    valid_fraction: float


def scatter(task: ScatterTask) -> None:
    """Clean, encode and cut a chunk's lines, and write its part."""
    counts: Counter[str] = Counter()
    chunk = task.chunk if isinstance(task.chunk, bytes) else task.chunk.read()
    lines = clean_lines(chunk, task.kind, counts, task.column)
    encoder = _encoder(task.tokenizer)
    tokens, lengths = encoder.encode(lines)
    rows, line_of_row = _cut_pieces(
        TokenizedRows(table=_table(lines, lengths), tokens=tokens), task
    )
    rows = _drop_unmaskable(rows, line_of_row, encoder.tokenizer, task, counts)
    with atomic_write(counts_path(task.path), concurrent_writers=True) as file:
        file.write(json.dumps(counts).encode())
    write_part(task.path, rows)


def counts_path(part: Path) -> Path:
    """Where a part's counts are."""
    return part.with_suffix(".json")


_OF_THREAD = threading.local()  # an encoder learns, and a cluster's worker may have threads


def _encoder(tokenizer: Path) -> LineEncoder:
    """The thread's encoder, with the words that it knows."""
    held: tuple[Path, LineEncoder] | None = getattr(_OF_THREAD, "encoder", None)
    if held is None or held[0] != tokenizer:
        held = _OF_THREAD.encoder = (tokenizer, LineEncoder(Tokenizer.load(tokenizer)))
    return held[1]


def _table(lines: list[str], lengths: Int64s) -> npt.NDArray[np.void]:
    table = np.zeros(len(lines), dtype=ROW)
    table["hash"] = _hashes([line.lower() for line in lines])
    table["tie"] = _hashes(lines)
    table["characters"] = [len(line) for line in lines]
    table["length"] = lengths
    return table


def _hashes(lines: list[str]) -> Uint64s:
    digests = [hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _cut_pieces(rows: TokenizedRows, task: ScatterTask) -> tuple[TokenizedRows, Int64s]:
    """Rows of at most `max_tokens`, and the line that each came from; the ids stay in place."""
    lengths = rows.table["length"].astype(np.int64)
    num_pieces = np.maximum(1, -(-lengths // task.max_tokens))
    line_of_row = np.repeat(np.arange(len(lengths)), num_pieces)
    table = rows.table[line_of_row]
    piece = np.arange(len(table)) - (np.cumsum(num_pieces) - num_pieces)[line_of_row]
    table["length"] = np.minimum(task.max_tokens, lengths[line_of_row] - piece * task.max_tokens)
    return TokenizedRows(table=table, tokens=rows.tokens), line_of_row


def _drop_unmaskable(
    rows: TokenizedRows,
    line_of_row: Int64s,
    tokenizer: Tokenizer,
    task: ScatterTask,
    counts: Counter[str],
) -> TokenizedRows:
    """The rows in which something can be predicted; the first that a line keeps is its piece 0."""
    maskable = np.ones(tokenizer.vocab_size, dtype=np.bool_)
    maskable[list(tokenizer.unmaskable_ids)] = False
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(maskable[rows.tokens])])
    ends = np.cumsum(rows.table["length"], dtype=np.int64)
    good = sums[ends] > sums[ends - rows.table["length"]]
    dropped_valid = is_valid(rows.table["hash"][~good], task.valid_fraction)
    counts[f"train {UNMASKABLE}"] += int((~dropped_valid).sum())
    counts[f"valid {UNMASKABLE}"] += int(dropped_valid.sum())
    counts["lines dropped whole"] += len(np.unique(line_of_row)) - len(np.unique(line_of_row[good]))
    kept = rows.take(np.flatnonzero(good))
    line_of_row = line_of_row[good]
    first = np.searchsorted(line_of_row, line_of_row)
    kept.table["piece"] = np.arange(len(line_of_row)) - first
    kept.table["characters"][kept.table["piece"] > 0] = 0
    return kept
