"""`data_prep shard` beside the tokenizer alone, and bytes a token; `results/shard.md`.

python benchmarks/shard.py [--corpus DIR] [--data DIR] [--rounds 3]
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
from tables import publish
from texts import SIZES, add_options, plain_arrays_of, shards_of
from turns import ratio

from bertds.data.shards.reader import ShardSet

LINES = 20_000  # given to the library at once, which spreads them over all cores
SEQUENCES = 20_000  # written as one member each
NOTES = """
All cores, English text, the same tokenizer. `encode_batch` has its lines in memory; `shard` is the
whole command: start of the processes, unpacking, cleaning, encoding, scattering, sorting, tars.
Ratios are of rounds: median (least-most). Wanted: 0.8 times, and 2.3 bytes.
"""


def shard_rate(text: Path, tokenizer: Path) -> float:
    """Tokens a second of the command."""
    with tempfile.TemporaryDirectory() as directory:
        flags = [f"--input={text}", f"--tokenizer={tokenizer}", f"--out={directory}"]
        command = [sys.executable, "-m", "data_prep", "shard", *flags, "--valid_fraction=0"]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        return ShardSet.open(Path(directory, "train")).index.tokens / seconds


def encode_rate(text: Path, tokenizer: Path) -> float:
    """Tokens a second of the library."""
    lines = gzip.decompress(text.read_bytes()).decode().splitlines()
    library = tokenizers.Tokenizer.from_file(str(tokenizer))
    began, tokens = time.perf_counter(), 0
    for start in range(0, len(lines), LINES):
        tokens += sum(len(one.ids) for one in library.encode_batch(lines[start : start + LINES]))
    return tokens / (time.perf_counter() - began)


def bytes_a_token(shards: Path) -> tuple[float, float]:
    """Of our shards, and of a tar with one member a sequence."""
    opened = ShardSet.open(shards)
    ours = sum(one.stat().st_size for one in shards.glob("*.tar")) / opened.index.tokens
    arrays = plain_arrays_of(shards)
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
    """Both vocabularies."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    text = options.corpus / "en.train.txt.gz"
    for size in SIZES:
        shards = shards_of(size, options.corpus, options.data)
        tokenizer = shards.parent / "tokenizer.json"
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(shard_rate(text, tokenizer))
            theirs.append(encode_rate(text, tokenizer))
        speeds = [f"{np.median(rates) / 1e6:.2f}" for rates in (ours, theirs)]
        sizes = [f"{value:.2f}" for value in bytes_a_token(shards)]
        rows.append([f"{size:,}", *speeds, str(ratio(ours, theirs)), *sizes])
    header = [
        "ids",
        "shard, M tokens/s",
        "encode_batch",
        "×",
        "bytes a token",
        "a member a sequence",
    ]
    publish("shard", "Shards", header, rows, NOTES)


if __name__ == "__main__":
    main()
