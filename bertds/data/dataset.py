"""The datasets of a case: which sequences of a shard set are used, and the blocks that hold them."""

import bisect
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.config.case import Case
from bertds.data.data_root import DataRoot
from bertds.data.shards.format import Block
from bertds.data.shards.reader import ShardSet
from bertds.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DatasetSubset:
    """The first sequences of a shard set."""

    name: str
    shards: ShardSet
    num_sequences: int
    """Number of sequences that are used, from the first."""
    weight: int = 1
    """Epochs over the subset in one epoch of the run."""
    skips_bad: bool = False
    """Whether sequences of other blocks replace those of a damaged block."""

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
        """Open the first floor(fraction * N) sequences of a shard set.

        Raises:
            ValueError: The set is missing or damaged, or the fraction leaves no sequence.
            RemoteError: A set behind a URL cannot be read.
        """
        files = root / name if isinstance(root, Path) else root.files(name)
        shards = ShardSet.open(files, skips_bad=skips_bad)
        # Computed from the decimal text: floor(0.29 * 100) is 28 in binary.
        num_sequences = int(Fraction(str(fraction)) * shards.num_sequences)
        if num_sequences == 0:
            raise ValueError(
                f"fraction {fraction} of the {shards.num_sequences} sequences of {shards.files} "
                "is none: raise it"
            )
        return cls(name, shards, num_sequences, weight, skips_bad)

    @property
    def set_key(self) -> str:
        """Key of the whole shard set, derived from its content."""
        return self.shards.index.set_key

    @property
    def mean_length(self) -> float:
        """Mean tokens per sequence of the whole shard set."""
        return self.shards.index.tokens / self.shards.index.sequences

    def block_of(self, sequence: int) -> int:
        """Return the block that holds a sequence of the set."""
        blocks = range(self.shards.num_blocks)
        return bisect.bisect_right(blocks, sequence, key=self.shards.first_sequence) - 1

    @property
    def num_blocks(self) -> int:
        """Number of blocks that are used; the last one possibly in part."""
        return self.block_of(self.num_sequences - 1) + 1

    def read_block(self, number: int) -> tuple[int, Block]:
        """Read a block of the subset or, if it is damaged and that is allowed, another one.

        Returns:
            Number and content of the block that was read.

        Raises:
            ShardError: The block is damaged, and no other block may replace it.
        """
        if self.skips_bad:
            return self.shards.read_block_or_substitute(number, self.num_blocks)
        return number, self.shards.read_block(number)

    def block_sequences(self) -> list[npt.NDArray[np.integer]]:
        """Count the sequences used of each block, in two arrays: all blocks but the last, the last.

        The first array is memory-mapped.
        """
        last = self.num_blocks - 1
        rest = self.num_sequences - self.shards.first_sequence(last)
        return [self.shards.block_sequences[:last], np.array([rest])]


def open_train(case: Case, root: DataRoot) -> list[DatasetSubset]:
    """Open the training sets of a case, in its order.

    Raises:
        ValueError: A set is missing or damaged, or its fraction leaves no sequence.
        RemoteError: A set behind a URL cannot be read.
    """
    skips_bad = case.bertds.run.on_bad_shard == "skip"
    return [
        DatasetSubset.open(root, block.name, block.fraction, block.weight, skips_bad=skips_bad)
        for block in case.bertds.data.train
    ]


def mean_length_of(subsets: list[DatasetSubset]) -> float:
    """Return the mean tokens per sequence over an epoch of all subsets.

    The mean length of a subset is taken to be that of its whole set.
    """
    counts = [subset.num_sequences * subset.weight for subset in subsets]
    tokens = sum(each.mean_length * count for each, count in zip(subsets, counts, strict=True))
    return tokens / sum(counts)


def check_longest(shards: ShardSet, most: int, model: Path) -> None:
    """Check that a model has positions for all sequences of a set.

    Args:
        shards: The set.
        most: Tokens that the model accepts.
        model: Its directory.

    Raises:
        ConfigError: A sequence is longer.
    """
    longest = shards.index.max_length
    if longest > most:
        raise ConfigError(
            f"{shards.files} has a sequence of {longest} tokens, but {model} accepts {most}: make "
            f"shards with --seq_len {most}"
        )
