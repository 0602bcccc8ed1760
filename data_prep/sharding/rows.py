"""Rows of token ids in memory and between the passes: a table, and all ids end to end.

A row is a sequence without special tokens: a line, or a piece of a long one. `hash` is of the
line lower-cased, so that the same text meets itself in the same bucket under every vocabulary,
`tie` of the line as it is, so that the order is one whatever order the lines came in.

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

NUM_BUCKETS = 1024
_BUCKET_SHIFT = np.uint64(64 - 10)
ROW = np.dtype(
    [
        ("hash", "<u8"),  # of the line
        ("tie", "<u8"),
        ("piece", "<u4"),  # 0 for a line's first row
        ("characters", "<u4"),  # of the line, on its first row; 0 on the others
        ("length", "<u4"),  # tokens
    ]
)


_STARTS = np.dtype(("<i8", (2, NUM_BUCKETS + 1)))
HEADER_BYTES = _STARTS.itemsize
"""Of a file of rows, whatever is in it."""
Table = npt.NDArray[np.void]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedRows:
    """S rows with T tokens.

    Attributes:
        table: `ROW` records, shape [S].
        tokens: Ids end to end, shape [T].
    """

    table: Table
    tokens: Ids

    def take(self, order: npt.NDArray[Any]) -> Self:
        """These rows, in this order."""
        lengths = self.table["length"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        return type(self)(
            table=self.table[order],
            tokens=take_ragged(self.tokens, starts[order], lengths[order]),
        )

    @classmethod
    def joined(cls, parts: "list[TokenizedRows]") -> Self:
        """The rows of several, one after the other."""
        return cls(
            table=np.concatenate([part.table for part in parts]),
            tokens=np.concatenate([part.tokens for part in parts]),
        )


def take_ragged(flat: npt.NDArray[Any], starts: Int64s, lengths: Int64s) -> npt.NDArray[Any]:
    """The slices `flat[start : start + length]`, end to end."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return flat[np.repeat(shift, lengths) + np.arange(int(lengths.sum()))]


def buckets_of(table: Table) -> npt.NDArray[np.int64]:
    """The bucket of each row: the first bits of its hash, so buckets lie in order of hash."""
    return (table["hash"] >> _BUCKET_SHIFT).astype(np.int64)


def write_part(path: Path, rows: TokenizedRows) -> None:
    """Write rows grouped by bucket, so that any run of buckets is one piece of the file."""
    buckets = buckets_of(rows.table)
    rows = rows.take(np.argsort(buckets, kind="stable"))
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=NUM_BUCKETS))])
    token_ends = np.concatenate([[0], np.cumsum(rows.table["length"], dtype=np.int64)])
    with atomic_write(path, concurrent_writers=True) as file:
        file.write(np.array([row_starts, token_ends[row_starts]], dtype="<i8").tobytes())
        file.write(rows.table.tobytes())
        file.write(rows.tokens.tobytes())


def read_part(path: Path, buckets: range, dtype: str) -> TokenizedRows:
    """The rows of these buckets, in the order in which they were written."""
    starts = np.fromfile(path, dtype=_STARTS, count=1)[0]
    (first_row, first_token), (end_row, end_token) = starts[:, [buckets.start, buckets.stop]].T
    table_at = _STARTS.itemsize
    tokens_at = table_at + int(starts[0, -1]) * ROW.itemsize
    ids = np.dtype(dtype).newbyteorder("<")
    return TokenizedRows(
        table=np.fromfile(
            path,
            dtype=ROW,
            count=int(end_row - first_row),
            offset=table_at + int(first_row) * ROW.itemsize,
        ),
        tokens=np.fromfile(
            path,
            dtype=ids,
            count=int(end_token - first_token),
            offset=tokens_at + int(first_token) * ids.itemsize,
        ),
    )


Split = Literal["train", "valid"]
SPLITS: tuple[Split, Split] = ("train", "valid")


def is_valid(hashes: Uint64s, fraction: float) -> npt.NDArray[np.bool_]:
    """Whether lines belong to the validation set: by bits that choose no bucket."""
    return (hashes & np.uint64(0xFFFFFFFF)) < np.uint64(round(fraction * 2**32))
