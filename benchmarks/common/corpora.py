"""Inputs that all compared programs share: shards at two vocabulary sizes, and their plain arrays."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer

SIZES = (7_458, 52_458)
"""Vocabulary sizes of the reference experiments: 5,000 and 50,000 merges plus 2,458 characters."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the benchmarks share: `--corpus` and `--data`."""
    parser.add_argument(
        "--corpus",
        type=Path,
        default=Path(os.environ.get("BERTDS_CORPUS", "corpus")),
        help="directory with {ko,en}.train.txt.gz (default: $BERTDS_CORPUS)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/bench"),
        help="where tokenizers and shards are made and kept",
    )


def make_shards(size: int, corpus: Path, data: Path) -> Path:
    """Make English shards with a vocabulary of exactly `size` ids, learned from both languages.

    The corpus has a different number of characters than the reference corpus. The number of merges
    compensates for the difference. Finished files are kept.
    """
    directory = data / str(size)
    both = ",".join(str(corpus / f"{language}.train.txt.gz") for language in ("ko", "en"))
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.exists():
        _data_prep("tokenizer", input=both, merges=1, out=data / "characters.json")
        merges = size - Tokenizer.load(data / "characters.json").vocab_size + 1
        _data_prep("tokenizer", input=both, merges=merges, out=tokenizer)
    if not (directory / "train" / "index.json").exists():
        english = corpus / "en.train.txt.gz"
        _data_prep("shard", input=english, tokenizer=tokenizer, out=directory, valid_fraction=0)
    return directory / "train"


def _data_prep(command: str, **options: object) -> None:
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, "-m", "data_prep", command, *flags], check=True)


def make_plain_arrays(shards: Path) -> Path:
    """Write the sequences of a shard set as `tokens.npy` and `lengths.npy`, for the peers."""
    directory = shards.parent / "plain"
    if not (directory / "lengths.npy").exists():
        directory.mkdir(exist_ok=True)
        shard_set = ShardSet.open(shards)
        blocks = [shard_set.read_block(number) for number in range(shard_set.num_blocks)]
        np.save(directory / "tokens.npy", np.concatenate([block.tokens for block in blocks]))
        np.save(directory / "lengths.npy", np.concatenate([block.lengths for block in blocks]))
    return directory
