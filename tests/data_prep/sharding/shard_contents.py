"""Reads back what the sharding tests wrote: sequences, texts and bytes."""

from pathlib import Path

import numpy as np

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer


def read_sequences(set_dir: Path) -> list[list[int]]:
    """The token ids of every sequence of a set, in order."""
    shards = ShardSet.open(set_dir)
    sequences: list[list[int]] = []
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        ends = np.cumsum(block.lengths.astype(int))[:-1]
        sequences += [ids.tolist() for ids in np.split(block.tokens, ends)]
    return sequences


def read_texts(set_dir: Path) -> list[str]:
    """The decoded text of every sequence of a set, in order."""
    tokenizer = Tokenizer.load(set_dir / "tokenizer.json")
    return [tokenizer.decode(ids) for ids in read_sequences(set_dir)]


def read_files(directory: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The bytes of all files below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in without
    }


def read_splits(out: Path) -> dict[str, bytes]:
    """The bytes of both sets, without the manifest, which names the sources."""
    return read_files(out, without=("made.json",))
