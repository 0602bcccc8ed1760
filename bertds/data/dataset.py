"""The datasets of a case: the sequences that are used, and the blocks that hold them."""

import bisect
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.config.case import Case
from bertds.data.data_root import DataRoot
from bertds.data.shards.reader import ShardSet

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DatasetSubset:
    """The first sequences of an opened shard set, as a case names them."""

    name: str
    shards: ShardSet
    num_sequences: int
    """Sequences that are used: the first ones."""
    weight: int = 1
    """Passes over the part in one epoch."""
    skips_bad: bool = False
    """Whether other sequences stand in for those of a damaged block."""

    @classmethod
    def open(
        cls,
        root: DataRoot | Path,
        name: str,
        fraction: float,
        weight: int = 1,
        *,
        skips_bad: bool = False,
    ) -> "DatasetSubset":
        """The first floor(fraction * N) sequences of a set.

        Raises:
            ValueError: The set is not there or damaged, or the fraction leaves no sequence.
            RemoteError: It is behind a URL and cannot be reached.
        """
        files = root / name if isinstance(root, Path) else root.files(name)
        shards = ShardSet.open(files, skips_bad=skips_bad)
        # Through the decimal text, since floor(0.29 * 100) is 28 in binary.
        limit = int(Fraction(str(fraction)) * shards.num_sequences)
        if limit == 0:
            raise ValueError(
                f"fraction {fraction} of the {shards.num_sequences} sequences of {shards.files} "
                "is none: raise it"
            )
        return cls(name, shards, limit, weight, skips_bad)

    @property
    def set_key(self) -> str:
        """Identifies the whole set by its content."""
        return self.shards.index.set_key

    @property
    def mean_length(self) -> float:
        """Tokens a sequence."""
        return self.shards.index.tokens / self.shards.index.sequences

    def block_of(self, sequence: int) -> int:
        """The block that holds a sequence of the set."""
        blocks = range(self.shards.num_blocks)
        return bisect.bisect_right(blocks, sequence, key=self.shards.first_sequence) - 1

    @property
    def num_blocks(self) -> int:
        """Blocks that are used, the last one perhaps in part."""
        return self.block_of(self.num_sequences - 1) + 1

    def block_sequences(self) -> list[npt.NDArray[np.integer]]:
        """Sequences used of each block that is used, in two arrays: all but the last, the last."""
        last = self.num_blocks - 1
        rest = self.num_sequences - self.shards.first_sequence(last)
        return [self.shards.block_sequences[:last], np.array([rest])]


def open_train(case: Case, root: DataRoot) -> list[DatasetSubset]:
    """The training sets of a case, in its order.

    Raises:
        ValueError: A set is missing or damaged, or its fraction leaves no sequence.
        RemoteError: One is behind a URL and cannot be reached.
    """
    skips = case.bertds.run.on_bad_shard == "skip"
    return [
        DatasetSubset.open(root, one.name, one.fraction, one.weight, skips_bad=skips)
        for one in case.bertds.data.train
    ]


def mean_length_of(parts: list[DatasetSubset]) -> float:
    """Tokens a sequence over an epoch of all parts, each taken to be like the whole of its set."""
    counts = [part.num_sequences * part.weight for part in parts]
    tokens = sum(part.mean_length * count for part, count in zip(parts, counts, strict=True))
    return tokens / sum(counts)
