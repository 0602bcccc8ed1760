"""Peak memory of `data_prep shard` on a corpus made by repetition; `results/memory.md`.

python benchmarks/memory.py --gigabytes 10 [--corpus DIR] [--data DIR] [--workers N]

Each repetition carries a counting word in every line, so that no line is a duplicate. The sum over
all processes of the memory that is theirs alone (PSS) is sampled while the command runs.
"""

import argparse
import gzip
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from tables import publish
from texts import SIZES, add_options, shards_of

PERIOD_S = 0.5
LIMIT_GB = 2.0


def write_corpus(path: Path, source: Path, num_bytes: int) -> None:
    """Lines of the source again and again, each with a word that tells the repetition."""
    lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    written = repetition = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            text = "".join(f"{line} {repetition}\n" for line in lines)
            written += len(text.encode())
            file.write(text)
            repetition += 1


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process and its children; shared ones are divided among them."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def samples(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Memory while the process runs."""
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        yield memory_of(watched)
        time.sleep(PERIOD_S)


def measure(text: Path, tokenizer: Path, out: Path, workers: int) -> tuple[list[int], float]:
    """Samples of one run, and its seconds."""
    flags = [f"--input={text}", f"--tokenizer={tokenizer}", f"--out={out}", f"--workers={workers}"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "data_prep", "shard", *flags])
    found = list(samples(process))
    if process.wait():
        raise SystemExit(f"data_prep ended with {process.returncode}")
    return found, time.monotonic() - began


def row_of(gigabytes: float, found: list[int], seconds: float) -> list[str]:
    """Peak, and the medians of the four quarters of the time: flat if they do not grow."""
    quarter = max(1, len(found) // 4)
    quarters = [found[i * quarter : (i + 1) * quarter] for i in range(4)]
    medians = [f"{statistics.median(part or [0]) / 1e9:.2f}" for part in quarters]
    return [f"{gigabytes:g}", f"{max(found) / 1e9:.2f}", *medians, f"{seconds:.0f}"]


def main() -> None:
    """A corpus of a tenth of the size first: a peak that grows with the text shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=len(psutil.Process().cpu_affinity() or [0]))
    options = parser.parse_args()
    tokenizer = shards_of(SIZES[0], options.corpus, options.data).parent / "tokenizer.json"
    rows = []
    for gigabytes in (options.gigabytes / 10, options.gigabytes):
        with tempfile.TemporaryDirectory(dir=options.data) as directory:
            text, out = Path(directory, "text.txt"), Path(directory, "shards")
            write_corpus(text, options.corpus / "en.train.txt.gz", int(gigabytes * 1e9))
            rows.append(row_of(gigabytes, *measure(text, tokenizer, out, options.workers)))
    header = ["GB of text", "peak GB", "quarter 1", "quarter 2", "quarter 3", "quarter 4", "s"]
    notes = (
        f"{options.workers} workers; wanted: at most {LIMIT_GB} GB, and flat. Quarters: medians."
    )
    publish("memory", "Memory of data_prep shard", header, rows, notes)


if __name__ == "__main__":
    main()
