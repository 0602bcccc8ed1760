"""Stage 1: tokenizes one chunk of raw text into rows of token ids, stored in one part file.

A part depends only on its chunk and on the options. Parts are written atomically, so a resumed run
makes only the missing ones.
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
from data_prep.readers.counts import UNKNOWN, UNMASKABLE_LINES
from data_prep.readers.text import FileRange
from data_prep.sharding.encoder import LineEncoder
from data_prep.sharding.rows import ROW, Int64s, TokenizedRows, is_validation, write_part

UNMASKABLE = "sequences without a maskable token"
SPELLED = "lines that spell a special token, encoded as text"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeTask:
    """One chunk of text.

    Attributes:
        path: The part file to write. A `.json` file of the same name gets its counts.
        chunk: Whole lines of raw text, or the range of the file that holds them.
        kind: Plain lines, or one JSON object per line.
        column: The field of the JSON objects that holds the text.
        tokenizer: Path of the tokenizer.json.
        max_tokens: Longer lines are cut into pieces of this many tokens.
        valid_fraction: Validation fraction, to count dropped rows per split.
    """

    path: Path
    chunk: bytes | FileRange
    kind: Literal["lines", "jsonl"]
    column: str
    tokenizer: Path
    max_tokens: int
    valid_fraction: float


def tokenize_chunk(task: TokenizeTask) -> None:
    """Clean, encode and cut the lines of a chunk; write the counts, then the part."""
    counts: Counter[str] = Counter()
    chunk = task.chunk if isinstance(task.chunk, bytes) else task.chunk.read()
    encoder = _thread_encoder(task.tokenizer)
    keeps = encoder.tokenizer.keeps_white_space
    lines = clean_lines(chunk, task.kind, counts, task.column, keep_white_space=keeps)
    counts[SPELLED] += encoder.tokenizer.count_spelled(lines)
    tokens, lengths = encoder.encode(lines)
    if "unk" in encoder.tokenizer.special_ids:
        is_unknown = tokens == encoder.tokenizer.special_ids["unk"]
        counts[UNKNOWN] += _count_mostly(is_unknown, lengths, share=0.1)
    table = np.zeros(len(lines), dtype=ROW)
    # White space does not count, so lines are split and deduplicated alike if it is kept.
    words = [" ".join(line.split()) for line in lines] if keeps else lines
    table["hash"] = _hash_lines([line.lower() for line in words])
    table["tie"] = _hash_lines(lines)
    table["characters"] = [len(line) for line in lines]
    table["length"] = lengths
    rows, line_of_row = _cut_long_lines(TokenizedRows(table=table, tokens=tokens), task.max_tokens)
    rows = _drop_unmaskable(rows, line_of_row, encoder.tokenizer, task.valid_fraction, counts)
    with atomic_write(counts_path(task.path), concurrent_writers=True) as file:
        file.write(json.dumps(counts).encode())
    write_part(task.path, rows)


def counts_path(part: Path) -> Path:
    """Path of the counts of a part."""
    return part.with_suffix(".json")


# One encoder per thread: encoders are not thread-safe, and Dask workers may have several threads.
_THREAD = threading.local()


def _thread_encoder(tokenizer: Path) -> LineEncoder:
    """The encoder of this thread, which keeps its word table from task to task."""
    cached: tuple[Path, LineEncoder] | None = getattr(_THREAD, "encoder", None)
    if cached is None or cached[0] != tokenizer:
        cached = _THREAD.encoder = (tokenizer, LineEncoder(Tokenizer.load(tokenizer)))
    return cached[1]


def _hash_lines(lines: list[str]) -> Uint64s:
    digests = [hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _count_mostly(flags: npt.NDArray[np.bool_], lengths: Int64s, share: float) -> int:
    """Count the lines in which more than this share of the tokens is flagged."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])
    ends = np.cumsum(lengths, dtype=np.int64)
    return int(np.count_nonzero(before[ends] - before[ends - lengths] > share * lengths))


def _cut_long_lines(lines: TokenizedRows, max_tokens: int) -> tuple[TokenizedRows, Int64s]:
    """Cut lines into rows of at most `max_tokens` tokens.

    Returns:
        The rows, with the same tokens, and the number of the line that each row comes from.
    """
    lengths = lines.table["length"].astype(np.int64)
    num_pieces = np.maximum(1, -(-lengths // max_tokens))
    line_of_row = np.repeat(np.arange(len(lengths)), num_pieces)
    table = lines.table[line_of_row]
    piece = np.arange(len(table)) - (np.cumsum(num_pieces) - num_pieces)[line_of_row]
    table["length"] = np.minimum(max_tokens, lengths[line_of_row] - piece * max_tokens)
    return TokenizedRows(table=table, tokens=lines.tokens), line_of_row


def _drop_unmaskable(
    rows: TokenizedRows,
    line_of_row: Int64s,
    tokenizer: Tokenizer,
    valid_fraction: float,
    counts: Counter[str],
) -> TokenizedRows:
    """Drop and count the rows without a maskable token, then number the pieces of each line.

    The first row that is kept of a line becomes its piece 0 and holds its number of characters.
    """
    maskable = np.ones(tokenizer.vocab_size, dtype=np.bool_)
    maskable[list(tokenizer.unmaskable_ids)] = False
    num_maskable = np.concatenate([np.zeros(1, np.int64), np.cumsum(maskable[rows.tokens])])
    ends = np.cumsum(rows.table["length"], dtype=np.int64)
    keep = num_maskable[ends] > num_maskable[ends - rows.table["length"]]
    dropped_valid = is_validation(rows.table["hash"][~keep], valid_fraction)
    counts[f"train {UNMASKABLE}"] += int((~dropped_valid).sum())
    counts[f"valid {UNMASKABLE}"] += int(dropped_valid.sum())
    counts[UNMASKABLE_LINES] += len(np.unique(line_of_row)) - len(np.unique(line_of_row[keep]))
    kept = rows.take(np.flatnonzero(keep))
    line_of_row = line_of_row[keep]
    first_row_of_line = np.searchsorted(line_of_row, line_of_row)
    kept.table["piece"] = np.arange(len(line_of_row)) - first_row_of_line
    kept.table["characters"][kept.table["piece"] > 0] = 0
    return kept
