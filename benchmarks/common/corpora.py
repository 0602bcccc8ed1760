"""What all contestants read: vocabularies of two sizes, and the same sequences in two forms."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer

SIZES = (7_458, 52_458)
"""The record's vocabularies: of 5,000 and 50,000 merges and 2,458 characters."""


def add_options(parser: "object") -> None:
    """The options that all benchmarks share."""
    add = parser.add_argument  # type: ignore[attr-defined]
    add("--corpus", type=Path, default=Path(os.environ.get("BERTDS_CORPUS", "corpus")))
    add("--data", type=Path, default=Path("data/bench"))


def shards_of(size: int, corpus: Path, data: Path) -> Path:
    """English shards under a vocabulary of exactly so many ids, made from both languages.

    The texts' characters are another number than the record's, so the merges make up for it.
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


def plain_arrays_of(shards: Path) -> Path:
    """The same sequences as two .npy files, for programs that know nothing of shards."""
    directory = shards.parent / "plain"
    if not (directory / "lengths.npy").exists():
        directory.mkdir(exist_ok=True)
        opened = ShardSet.open(shards)
        blocks = [opened.read_block(number) for number in range(opened.num_blocks)]
        np.save(directory / "tokens.npy", np.concatenate([block.tokens for block in blocks]))
        np.save(directory / "lengths.npy", np.concatenate([block.lengths for block in blocks]))
    return directory
