"""Peak memory of `data_prep shard` on a large repeated corpus; writes `results/memory.md`.

python -m benchmarks.performance.sharding_memory --gigabytes 10 [--corpus DIR] [--data DIR]
    [--workers N]

Every line carries the number of its repetition, so that no two lines are equal. The memory of all
processes (PSS: shared pages are divided among them) is sampled while the command runs.
"""

import argparse
import gzip
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common.corpora import SIZES, add_options, make_shards
from benchmarks.common.tables import publish

PERIOD_S = 0.5
LIMIT_GB = 2.0
HEADER = ["GB of text", "peak GB", "quarter 1", "quarter 2", "quarter 3", "quarter 4", "s"]


def write_corpus(path: Path, source: Path, num_bytes: int) -> None:
    """Repeat the lines of the source, each followed by the number of its repetition."""
    lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    written = repetition = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            text = "".join(f"{line} {repetition}\n" for line in lines)
            written += len(text.encode())
            file.write(text)
            repetition += 1


def measure(text: Path, tokenizer: Path, out: Path, workers: int) -> tuple[list[int], float]:
    """Run the command once. Return samples of its memory in bytes, and its duration in seconds."""
    flags = [f"--input={text}", f"--tokenizer={tokenizer}", f"--out={out}", f"--workers={workers}"]
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "data_prep", "shard", *flags])
    watched, samples = psutil.Process(process.pid), []
    while process.poll() is None:
        samples.append(total_pss(watched))
        time.sleep(PERIOD_S)
    if process.returncode:
        raise SystemExit(f"data_prep shard exited with code {process.returncode}")
    return samples, time.monotonic() - start


def total_pss(process: psutil.Process) -> int:
    """Return the bytes of a process and its children."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:  # it has just exited
            continue
    return total


def main() -> None:
    """Measure a tenth of the size, then the full size: the peak should not grow with the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=len(psutil.Process().cpu_affinity() or [0]))
    options = parser.parse_args()
    tokenizer = make_shards(SIZES[0], options.corpus, options.data).parent / "tokenizer.json"
    rows = []
    for gigabytes in (options.gigabytes / 10, options.gigabytes):
        with tempfile.TemporaryDirectory(dir=options.data) as directory:
            text, out = Path(directory, "text.txt"), Path(directory, "shards")
            write_corpus(text, options.corpus / "en.train.txt.gz", int(gigabytes * 1e9))
            samples, seconds = measure(text, tokenizer, out, options.workers)
        quarter = max(1, len(samples) // 4)
        quarters = [samples[i * quarter : (i + 1) * quarter] for i in range(4)]
        medians = [f"{statistics.median(part or [0]) / 1e9:.2f}" for part in quarters]
        rows.append([f"{gigabytes:g}", f"{max(samples) / 1e9:.2f}", *medians, f"{seconds:.0f}"])
    notes = (
        f"{options.workers} workers. Quarters are medians over each quarter of the run. "
        f"Target: a peak of at most {LIMIT_GB} GB, and constant over time."
    )
    publish("memory", "Memory of data_prep shard", HEADER, rows, notes)


if __name__ == "__main__":
    main()
