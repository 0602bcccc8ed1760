"""Rows of token ids, in memory and in the part files between two stages.

A row holds the ids of one line, or of one piece of a long line, without special tokens. Two hashes
identify the line of a row:

- `hash`, of the lower-cased line, decides the bucket, the split and what is a duplicate. It does
  not depend on the tokenizer, so all vocabularies get the same split.
- `tie`, of the line as it is, orders lines with equal `hash`. The final order therefore does not
  depend on the order of the input.

    part file:  row starts of the buckets | token starts of the buckets | table | ids
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from bertds.data.rng import Uint64s
from bertds.data.shards.format import Ids
from bertds.io.atomic import atomic_write

Split = Literal["train", "valid"]
SPLITS: tuple[Split, Split] = ("train", "valid")
NUM_BUCKETS = 1024
_BUCKET_SHIFT = np.uint64(64 - 10)
ROW = np.dtype(
    [
        ("hash", "<u8"),  # of the lower-cased line
        ("tie", "<u8"),  # of the line as it is
        ("piece", "<u4"),  # number of the row in its line, from 0
        ("characters", "<u4"),  # of the line in its first row, 0 in the others
        ("length", "<u4"),  # tokens
    ]
)
_STARTS = np.dtype(("<i8", (2, NUM_BUCKETS + 1)))
HEADER_BYTES = _STARTS.itemsize
"""Size of the header of a part file, which does not depend on the rows."""
Table = npt.NDArray[np.void]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedRows:
    """S rows with T tokens in total.

    Attributes:
        table: `ROW` records, shape [S].
        tokens: Concatenated ids of the rows, shape [T].
    """

    table: Table
    tokens: Ids

    def take(self, order: npt.NDArray[Any]) -> Self:
        """Select rows by number, in the given order."""
        lengths = self.table["length"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        return type(self)(
            table=self.table[order],
            tokens=take_ragged(self.tokens, starts[order], lengths[order]),
        )

    @classmethod
    def concatenate(cls, parts: "list[TokenizedRows]") -> Self:
        """Join the rows of several parts."""
        return cls(
            table=np.concatenate([part.table for part in parts]),
            tokens=np.concatenate([part.tokens for part in parts]),
        )


def take_ragged(flat: npt.NDArray[Any], starts: Int64s, lengths: Int64s) -> npt.NDArray[Any]:
    """Concatenate the slices `flat[start : start + length]`."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return flat[np.repeat(shift, lengths) + np.arange(int(lengths.sum()))]


def bucket_numbers(table: Table) -> Int64s:
    """The bucket of each row: the leading bits of its hash, so buckets are ordered by hash."""
    return (table["hash"] >> _BUCKET_SHIFT).astype(np.int64)


def is_validation(hashes: Uint64s, fraction: float) -> npt.NDArray[np.bool_]:
    """Whether lines belong to the validation split, by hash bits that no bucket depends on."""
    return (hashes & np.uint64(0xFFFFFFFF)) < np.uint64(round(fraction * 2**32))


def write_part(path: Path, rows: TokenizedRows) -> None:
    """Write rows grouped by bucket, so that each range of buckets is contiguous in the file."""
    buckets = bucket_numbers(rows.table)
    rows = rows.take(np.argsort(buckets, kind="stable"))
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=NUM_BUCKETS))])
    token_ends = np.concatenate([[0], np.cumsum(rows.table["length"], dtype=np.int64)])
    with atomic_write(path, concurrent_writers=True) as file:
        file.write(np.array([row_starts, token_ends[row_starts]], dtype="<i8").tobytes())
        file.write(rows.table.tobytes())
        file.write(rows.tokens.tobytes())


def read_part(path: Path, buckets: range, dtype: str) -> TokenizedRows:
    """Read the rows of a range of buckets, in the order of the file."""
    starts = np.fromfile(path, dtype=_STARTS, count=1)[0]
    (first_row, first_token), (end_row, end_token) = starts[:, [buckets.start, buckets.stop]].T
    table_offset = _STARTS.itemsize
    tokens_offset = table_offset + int(starts[0, -1]) * ROW.itemsize
    id_type = np.dtype(dtype).newbyteorder("<")
    return TokenizedRows(
        table=np.fromfile(
            path,
            dtype=ROW,
            count=int(end_row - first_row),
            offset=table_offset + int(first_row) * ROW.itemsize,
        ),
        tokens=np.fromfile(
            path,
            dtype=id_type,
            count=int(end_token - first_token),
            offset=tokens_offset + int(first_token) * id_type.itemsize,
        ),
    )
