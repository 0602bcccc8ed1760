"""Throughput of `data_prep shard` beside the tokenizer alone, and bytes per token; writes `results/shard.md`.

python -m benchmarks.performance.sharding [--corpus DIR] [--data DIR] [--rounds 3]
"""

import argparse
import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import tokenizers

from benchmarks.common.corpora import SIZES, add_options, make_plain_arrays, make_shards
from benchmarks.common.harness import ratio
from benchmarks.common.tables import publish
from bertds.data.shards.reader import ShardSet

LINES = 20_000  # per call of encode_batch, which uses all cores
SEQUENCES = 20_000  # written as one tar member each
HEADER = ["ids", "shard, M tokens/s", "encode_batch", "×", "bytes/token", "one member/sequence"]
NOTES = """
All cores, English text, the same tokenizer. `encode_batch` has its lines in memory. `shard` is the
complete command: process startup, decompression, cleaning, encoding, shuffling, sorting, writing of tars.
The last column is a tar with one member per sequence. Ratios are per round: median (minimum-maximum).
Target: a ratio of 0.8, and 2.3 bytes/token.
"""


def measure_shard_rate(text: Path, tokenizer: Path) -> float:
    """Return the rate of the command in tokens/s."""
    with tempfile.TemporaryDirectory() as directory:
        flags = [f"--input={text}", f"--tokenizer={tokenizer}", f"--out={directory}"]
        command = [sys.executable, "-m", "data_prep", "shard", *flags, "--valid_fraction=0"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        return ShardSet.open(Path(directory, "train")).index.tokens / seconds


def measure_encode_rate(text: Path, tokenizer: Path) -> float:
    """Return the rate of the tokenizers library in tokens/s."""
    lines = gzip.decompress(text.read_bytes()).decode().splitlines()
    library = tokenizers.Tokenizer.from_file(str(tokenizer))
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(lines), LINES):
        encodings = library.encode_batch(lines[first : first + LINES])
        tokens += sum(len(encoding.ids) for encoding in encodings)
    return tokens / (time.perf_counter() - start)


def bytes_per_token(shards: Path) -> tuple[float, float]:
    """Return bytes per token of our shards, and of a tar with one member per sequence."""
    tars = sum(path.stat().st_size for path in shards.glob("*.tar"))
    ours = tars / ShardSet.open(shards).index.tokens
    arrays = make_plain_arrays(shards)
    tokens, lengths = (np.load(arrays / f"{name}.npy") for name in ("tokens", "lengths"))
    ends = np.cumsum(lengths, dtype=np.int64)[:SEQUENCES]
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number, row in enumerate(np.split(tokens[: ends[-1]], ends[:-1])):
                content = io.BytesIO()
                np.save(content, row)
                member = tarfile.TarInfo(f"{number:09d}.tokens.npy")
                member.size = content.tell()
                content.seek(0)
                tar.addfile(member, content)
        return ours, file.tell() / ends[-1]


def main() -> None:
    """Measure both vocabulary sizes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    text = options.corpus / "en.train.txt.gz"
    for size in SIZES:
        shards = make_shards(size, options.corpus, options.data)
        tokenizer = shards.parent / "tokenizer.json"
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(measure_shard_rate(text, tokenizer))
            theirs.append(measure_encode_rate(text, tokenizer))
        speeds = [f"{np.median(rates) / 1e6:.2f}" for rates in (ours, theirs)]
        sizes = [f"{value:.2f}" for value in bytes_per_token(shards)]
        rows.append([f"{size:,}", *speeds, str(ratio(ours, theirs)), *sizes])
    publish("shard", "Shards", HEADER, rows, NOTES)


if __name__ == "__main__":
    main()
